/**
 * READ FIRST. Takes one exchange through the stages, in this order; each stage has the statuses of its refusals:
 *
 *   listener          refuses when overloaded; reads the request in one strict way  503 400 431 501
 *   route/target      makes the canonical target: the string that is decided on and sent  400 414
 *   route/table       finds the route that serves the target; route/origin and route/cors check the origin  404 421 405 403
 *   identity/token    finds the caller: verifies signature and claims of the token  401
 *   identity/binding  checks that the token may come over this connection, identity/dpop the proof of its key  401 503
 *   listener/body     reads the body, only where the policy needs it  408 413
 *   -- from here to `send` one turn of the event loop, in this order (design law 3) --
 *   response/live     registers the exchange, so that a later row can find it
 *   revocation        checks that the ledger is complete and fresh, and that no row matches  503 401 403
 *   policy            decides whether this principal may do this  403 503 400 415
 *   ---------------------------------------------------------------------------------
 *   upstream          sends the canonical string with rebuilt headers  502 504
 *   response/relay    streams the answer back; response/tunnel does so after a switch to WebSocket
 *   exchange/events   writes one record for each decision that answers, and one for the end of an exchange that was open
 *                     long or was cut
 *
 * Each stage makes one value of stages.ts and passes it on: arrive, identify, then authorize.ts (revocations and policy),
 * then send. Until its last byte an exchange can be found and cut: reevaluate.ts asks again whether the exchange may stay
 * open when there is a new row, a new policy or an expired token.
 *
 * Every error that is thrown on the way is a GateError, whose code has its status and sentence in errors.ts; any other
 * error becomes ERR_INTERNAL. `Exchange.refuse` counts and records it, response/deny writes the body of the refusal. No
 * error leads to the upstream.
 */
import { methods as everyMethod } from '../domain/http.ts'
import type { Principal } from '../domain/principal.ts'
import { GateError } from '../errors.ts'
import { checkBinding, checkScheme } from '../identity/binding.ts'
import { checkExpiry } from '../identity/claims.ts'
import { ambientBy, withoutCredential } from '../identity/credential.ts'
import { type BodyLimits, collectBody } from '../listener/body.ts'
import {
  checkHeaders,
  checkMethod,
  headerOf,
  parseHeaders,
  parseMethod,
} from '../listener/headers.ts'
import { resolvePeer, type Via } from '../listener/peer.ts'
import type { Upgrade } from '../listener/upgrade.ts'
import { answerPreflight } from '../response/deny.ts'
import { Relay } from '../response/relay.ts'
import { corsHeaders, preflightHeaders } from '../route/cors.ts'
import { checkDestination } from '../route/destination.ts'
import { checkOrigin } from '../route/origin.ts'
import { rewrittenTarget } from '../route/rewrite.ts'
import type { Route } from '../route/table.ts'
import { checkTarget, parseRequestTarget, type Target, urlOf } from '../route/target.ts'
import { requestBody } from '../upstream/body.ts'
import { Forwarding, type UpstreamRequest } from '../upstream/forward.ts'
import { passedOn, upstreamHeaders } from '../upstream/headers.ts'
import type { DedicatedConnection, UpstreamPool } from '../upstream/pools.ts'
import { authorize } from './authorize.ts'
import type { ExchangeContext } from './context.ts'
import { recordDecision } from './events.ts'
import { type Arrival, Exchange, sinceS } from './exchange.ts'
import { OpenHttpExchange } from './open-http.ts'
import type { Arrived, Decided, Identified, RequestHead, Trace } from './stages.ts'

/** Takes one request through the stages. Never throws: the exchange is answered, relayed or destroyed. */
export function handle(context: ExchangeContext, arrival: Arrival): void {
  const exchange = new Exchange(context, arrival)
  try {
    const arrived = arrive(
      context,
      exchange.req,
      exchange.via,
      exchange.upgrade !== undefined,
      exchange.trace,
    )
    if (crossOrigin(exchange, arrived) === 'answered') return
    const caller = identify(context, arrived)
    if (caller instanceof Promise) {
      caller
        .then((principal) => admit(exchange, arrived, principal))
        .catch((error) => exchange.refuse(error, {}))
    } else {
      admit(exchange, arrived, caller)
    }
  } catch (error) {
    exchange.refuse(error, {})
  }
}

/**
 * Headers, target, route: reads the request in the one way that all later stages use.
 * @param upgrade Whether the request is a WebSocket handshake.
 * @param trace Filled in on the way. @throws GateError the refusal
 */
export function arrive(
  context: ExchangeContext,
  head: RequestHead,
  via: Via,
  upgrade: boolean,
  trace: Trace,
): Arrived {
  const { limits } = context.config
  if (context.overloaded()) throw new GateError('ERR_OVERLOADED')
  const method = parseMethod(head.method)
  const headers = parseHeaders(head, limits)
  const { pairs, contentLength } = headers
  const peer = resolvePeer(head.socket, pairs, via)
  trace.peer = peer
  const rules = { scheme: peer.scheme, maxBytes: limits.target_bytes }
  const asked = parseRequestTarget(method, head.url ?? '', headers.host, rules)
  trace.target = asked
  const route = findRoute(context, head, asked)
  trace.route = route
  const { config, rewrite } = route
  const target = checkTarget(asked, config)
  trace.target = target
  const sentTarget =
    rewrite === undefined ? undefined : rewrittenTarget(method, target, rewrite, config, rules)
  const { credentials } = context
  const credential =
    config.auth === 'none' ? undefined : credentials.find(pairs, upgrade, peer.proxied)
  trace.scheme = credential?.scheme ?? 'Bearer'
  checkHeaders(headers, config)
  const withheld = credentials.withheld(config, peer.proxied)
  const passedHeaders = passedOn(headers, config.forward, withheld, credentials.headers)
  const ambient = credential === undefined ? undefined : ambientBy(credential)
  if (upgrade || ambient !== undefined) {
    const fetchSite = headerOf(pairs, 'sec-fetch-site')
    const { authority } = target
    checkOrigin(config, headerOf(pairs, 'origin'), {
      method,
      upgrade,
      ambient,
      authority,
      fetchSite,
    })
  }
  if (limits.body_bytes > 0 && contentLength > limits.body_bytes) {
    throw new GateError('ERR_BODY_TOO_LARGE')
  }
  const hasBody = headers.chunked || contentLength > 0
  const protocol = `HTTP/${head.httpVersion}`
  return {
    method,
    protocol,
    headers,
    passedHeaders,
    hasBody,
    peer,
    target,
    sentTarget,
    route,
    credential,
  }
}

function findRoute(context: ExchangeContext, { socket }: RequestHead, target: Target): Route {
  const { servername } = socket as { servername?: string | false }
  if (typeof servername === 'string' && !context.routes.sameGroup(servername, target.host)) {
    throw new GateError('ERR_HOST_UNKNOWN')
  }
  const route = context.routes.find(target)
  // No route accepts the target by its own word.
  if (typeof route === 'string' && target.doubt !== undefined)
    throw new GateError('ERR_TARGET_MALFORMED')
  if (route === 'host-unknown') throw new GateError('ERR_HOST_UNKNOWN')
  if (route === 'no-route') throw new GateError('ERR_ROUTE_NOT_FOUND')
  return route
}

/**
 * Applies the route's cross-origin rules: sets headers for the answer, and answers a preflight. Methods are checked
 * here too, since a preflight is an OPTIONS request even on a route that does not allow OPTIONS.
 */
function crossOrigin(exchange: Exchange, arrived: Arrived): 'answered' | 'goes on' {
  const { route, headers, method, target, peer } = arrived
  const { context, res, req, id: decisionId } = exchange
  const { cors, methods } = route.config
  const { pairs } = headers
  if (cors !== undefined) {
    const origin = headerOf(pairs, 'origin')
    exchange.trace.cors = corsHeaders(cors, origin)
    const asked = headerOf(pairs, 'access-control-request-method')
    if (method === 'OPTIONS' && origin !== undefined && asked !== undefined) {
      const answer = preflightHeaders(cors, methods ?? everyMethod, {
        origin,
        method: asked,
        headers: headerOf(pairs, 'access-control-request-headers'),
      })
      if (answer === undefined) throw new GateError('ERR_CORS_REFUSED')
      context.metrics.count('dropgate_requests_total', 'preflight')
      recordDecision(exchange, undefined, 204, {})
      answerPreflight(res, answer, { decisionId, req })
      return 'answered'
    }
  }
  if (!passesPreflight(arrived)) checkMethod(method, methods)
  const destination =
    method === 'COPY' || method === 'MOVE' ? headerOf(pairs, 'destination') : undefined
  if (destination !== undefined) {
    const { scheme } = peer
    const maxBytes = context.config.limits.target_bytes
    checkDestination(destination, target, { route, routes: context.routes }, { scheme, maxBytes })
  }
  return 'goes on'
}

/**
 * True for a preflight that goes to the policy as an anonymous request, on a route that says so. Browsers send it without
 * a credential and without a body; a request with either is no preflight.
 */
function passesPreflight({ route, method, headers, hasBody, credential }: Arrived): boolean {
  return (
    route.config.preflight === 'pass' &&
    method === 'OPTIONS' &&
    credential === undefined &&
    !hasBody &&
    headerOf(headers.pairs, 'origin') !== undefined &&
    headerOf(headers.pairs, 'access-control-request-method') !== undefined
  )
}

/** Returns the verified caller: at once when the token is in the cache, otherwise after its verification. */
export function identify(
  context: ExchangeContext,
  arrived: Arrived,
): Principal | undefined | Promise<Principal> {
  const { route, credential, headers, peer } = arrived
  const { auth } = route.config
  if (auth === 'none') return undefined
  if (credential === undefined) {
    const asked = passesPreflight(arrived) ? 'optional' : auth
    const refusal = context.credentials.refusal(headers.pairs, asked, peer.proxied)
    if (refusal === undefined) return undefined
    throw refusal
  }
  return context.verifier.verify(credential.token, route.config.audience)
}

/**
 * Checks what the cache cannot remember. It runs for every caller, also when the token was found in the cache: the
 * cache holds what the token is bound to, but neither the connection that the token came over this time, nor its proof.
 * @returns a promise where a proof is to be checked
 */
export function checkCaller(
  context: ExchangeContext,
  { arrived, principal }: Identified,
  trace: Trace,
): Promise<void> | undefined {
  const { credential, peer } = arrived
  if (principal === undefined || credential === undefined) return undefined
  context.credentials.check(principal.issuer, credential)
  const { boundTo, clockSkewMs } = principal
  if (boundTo?.key !== undefined) trace.scheme = 'DPoP'
  checkBinding(boundTo, peer.certificate)
  checkScheme(boundTo, credential.scheme)
  if (boundTo?.key === undefined) return undefined
  const { dpop_nonce: nonce } = arrived.route.config
  if (nonce === 'required') trace.nonce = context.proofs.nonce(Date.now())
  return context.proofs.check({
    proof: headerOf(arrived.headers.pairs, 'dpop'),
    token: credential.token,
    key: boundTo.key,
    method: arrived.method,
    url: urlOf(peer.scheme, arrived.target),
    clockSkewMs,
    nonce,
  })
}

/** Checks how the token came, which for a token that is bound to a key needs a moment. */
function admit(exchange: Exchange, arrived: Arrived, principal: Principal | undefined): void {
  const identified: Identified = { arrived, principal, body: undefined }
  try {
    const proven = checkCaller(exchange.context, identified, exchange.trace)
    if (proven === undefined) readThenDecide(exchange, identified)
    else
      proven
        .then(() => readThenDecide(exchange, identified))
        .catch((error) => exchange.refuse(error, { identified }))
  } catch (error) {
    exchange.refuse(error, { identified })
  }
}

/**
 * Reads the body first if the active policy needs it. Then decides, in the same turn in which the active policy was
 * looked up.
 */
function readThenDecide(exchange: Exchange, identified: Identified): void {
  const { req, res } = exchange
  const { arrived, principal } = identified
  try {
    const limits = bodyLimits(exchange, arrived)
    if (limits === undefined) decide(exchange, identified)
    else
      collectBody(req, res, limits)
        .then((body) => decide(exchange, { arrived, principal, body }))
        .catch((error) => exchange.refuse(error, { identified }))
  } catch (error) {
    exchange.refuse(error, { identified })
  }
}

/**
 * The limits of a body that the policy reads; undefined when the policy does not read it and the body stays a stream.
 */
function bodyLimits(
  { context, res }: Exchange,
  { headers, hasBody, route }: Arrived,
): BodyLimits | undefined {
  const { decision, policy_body: given } = route.config
  if (!hasBody || given !== 'read' || res.destroyed) return undefined
  if (context.engine.current()?.planOf(decision).readsBody !== true) return undefined
  const { body_bytes, policy_body, policy_body_timeout: timeoutMs } = context.config.limits
  const maxBytes = body_bytes > 0 ? Math.min(body_bytes, policy_body) : policy_body
  if (headers.contentLength > maxBytes) throw new GateError('ERR_BODY_TOO_LARGE')
  if (headers.expectContinue) res.writeContinue()
  return { maxBytes, timeoutMs }
}

/** Decides. The token is checked for expiry again, since it may have expired while the body came. */
function decide(exchange: Exchange, identified: Identified): void {
  const { context, res } = exchange
  const { principal, arrived } = identified
  if (res.destroyed) return
  try {
    let expiresAtMs = Number.POSITIVE_INFINITY
    if (principal !== undefined) {
      checkExpiry(principal.expiresAtS, Date.now(), principal.clockSkewMs)
      if (arrived.route.config.on_expiry === 'cut')
        expiresAtMs = principal.expiresAtS * 1000 + principal.clockSkewMs
    }
    if (context.exhausted()) throw new GateError('ERR_OVERLOADED')
    letIn(exchange, new OpenHttpExchange(exchange, identified, expiresAtMs))
  } catch (error) {
    exchange.refuse(error, { identified })
  }
}

/**
 * The one turn (design law 3): register, look up, evaluate, send. No await may enter this function: a row that comes
 * between the registration and the look-up would be missed.
 */
function letIn(exchange: Exchange, open: OpenHttpExchange): void {
  const { context, id, startedAtMs, startedAtUs } = exchange
  const { identified } = open
  context.live.add(open)
  const { decided, input } = authorize(context, id, identified, startedAtMs)
  if (decided.refusal !== undefined) {
    context.live.remove(open)
    exchange.refuse(decided.refusal, { identified, decided, input })
    return
  }
  open.onAllowed(decided)
  context.metrics.observe('dropgate_decision_duration_seconds', sinceS(startedAtUs))
  recordDecision(exchange, undefined, 0, { identified, decided, input })
  try {
    send(exchange, open, decided)
  } catch (error) {
    context.live.remove(open)
    open.refuse(error)
  }
}

/** Sends the canonical target upstream and relays the answer. */
function send(exchange: Exchange, open: OpenHttpExchange, decided: Decided): void {
  const { context, req, res, upgrade, id } = exchange
  const { body, principal, arrived } = open.identified
  const { headers, hasBody, peer, credential, passedHeaders } = arrived
  const { config } = arrived.route
  const { limits } = context.config
  const { answer } = decided.evaluation!
  const target = decided.sentTarget ?? arrived.target
  res.on('close', () => open.onClosed())
  const stripped =
    config.forward.authorization === 'keep'
      ? undefined
      : (credential ?? context.credentials.unasked(passedHeaders))
  const withoutAuthorization = stripped?.source === 'authorization'
  const request: UpstreamRequest = {
    method: arrived.method,
    path: target.wire,
    ...(upgrade === undefined ? {} : { upgrade: 'websocket' }),
    headers: upstreamHeaders(
      stripped === undefined ? passedHeaders : withoutCredential(passedHeaders, stripped),
      {
        forward: config.forward,
        withoutAuthorization,
        withoutProof:
          withoutAuthorization || (stripped !== undefined && principal?.boundTo?.key !== undefined),
        route: config.name,
        principal,
        decisionId: id,
        clientAddress: peer.address,
        forwardedFor: peer.forwardedFor,
        scheme: peer.scheme,
        host: target.authority,
        sentHost: arrived.route.sentHost ?? target.authority,
        prefix: arrived.route.rewrite?.prefix ?? '',
        policyHeaders: answer.headers,
        removed: answer.removeHeaders,
      },
    ),
    // A body that the policy read is sent as exactly the bytes that it saw.
    body: hasBody ? (body ?? requestBody(req, limits, (bytes) => open.passed(bytes, 0))) : null,
  }
  if (body !== undefined) open.passed(body.length, 0)
  if (!open.open) return
  const pool = context.pools.for(config)
  const connection = upgrade === undefined ? pool : dedicated(pool, upgrade)
  open.onSending(Forwarding.start(connection, request, new Relay(open, limits.read_idle)))
  if (headers.expectContinue && hasBody && body === undefined) res.writeContinue()
}

/**
 * An upstream connection for this client connection alone. It is closed with the client's, even if that closes while
 * the upstream connection is still being opened.
 */
function dedicated(pool: UpstreamPool, { socket }: Upgrade): DedicatedConnection {
  const connection = pool.dedicated()
  socket.once('close', () => connection.leave())
  return connection
}
