/**
 * READ FIRST. One exchange through the rooms, in order:
 *
 *   listener          is there room; what came, in exactly one reading         503 400 431 501
 *   route/target      the canonical target: the string decided on is sent      400 414
 *   route/table       which route serves it; may other origins ask (route/cors) 404 421 405 403
 *   identity/token    who asks: the signature, the claims                      401
 *   listener/body     the body, only where the policy reads it                 408 413
 *   -- from here to `send` one turn of the event loop, in this order (design law 3) --
 *   response/live     the exchange is registered, so a later row can find it
 *   revocation        is the ledger complete and fresh, does any row match     503 401
 *   policy            may this principal do this                               403 503 400 415
 *   ---------------------------------------------------------------------------------
 *   upstream          send the canonical string with rebuilt headers           502 504
 *   response/relay    stream the answer back, or response/tunnel once the upstream has switched to WebSocket
 *   decisionlog       one record for each decision that answers, one for the end of what was open long or was cut
 *
 * exchange.ts holds what is known of the exchange on its way and how it ends: relayed, refused, switched or cut. Until its
 * last byte it can be found and cut: reevaluate.ts asks again, for a new row, a new policy or an expired token, whether what is
 * open may stay open.
 *
 * Anything thrown on the way is a GateError, whose code has its status and sentence in errors.ts, and anything else that
 * is thrown is ERR_INTERNAL: `exchange.refuse` counts and records it, response/deny writes the refusal's body. There is no
 * path from an error to the upstream.
 */
import { monotonicUs, rfc3339 } from '../domain/clock.ts'
import type { Answer } from '../domain/decision.ts'
import type { Principal } from '../domain/principal.ts'
import { type Code, GateError } from '../errors.ts'
import { checkExpiry } from '../identity/claims.ts'
import { isAmbient, withoutCredential } from '../identity/credential.ts'
import { collectBody } from '../listener/body.ts'
import {
  checkRepeats,
  headerOf,
  headerValue,
  parseHeaders,
  parseMethod,
} from '../listener/headers.ts'
import { resolvePeer, type Via } from '../listener/peer.ts'
import type { Upgrade } from '../listener/upgrade.ts'
import { parseBody } from '../policy/body.ts'
import { type BodyTexts, buildInput, type InputParts, type InputState } from '../policy/input.ts'
import { answerPreflight, everyMethod } from '../response/deny.ts'
import { Relay } from '../response/relay.ts'
import type { LedgerView } from '../revocation/ledger.ts'
import { findBlock, findRevocation } from '../revocation/match.ts'
import { corsHeaders, preflightHeaders } from '../route/cors.ts'
import { checkOrigin } from '../route/origin.ts'
import type { Route } from '../route/table.ts'
import { checkTarget, parseRequestTarget, withQuery } from '../route/target.ts'
import { requestBody } from '../upstream/body.ts'
import { Forwarding, type UpstreamRequest } from '../upstream/forward.ts'
import { passedOn, upstreamHeaders } from '../upstream/headers.ts'
import type { DedicatedConnection, UpstreamPool } from '../upstream/pools.ts'
import { type Arrival, Exchange, sinceS, type WorkerContext } from './exchange.ts'

/** Takes one request through the rooms. Never throws; the exchange is answered, relayed or destroyed. */
export function handle(context: WorkerContext, arrival: Arrival): void {
  const exchange = new Exchange(context, arrival)
  try {
    const route = arrive(exchange, arrival.via)
    if (crossOrigin(exchange, route) === 'answered') return
    const caller = identify(exchange, route)
    if (caller instanceof Promise) {
      caller
        .then((principal) => admit(exchange, principal))
        .catch((error) => exchange.refuse(error))
    } else {
      admit(exchange, caller)?.catch((error) => exchange.refuse(error))
    }
  } catch (error) {
    exchange.refuse(error)
  }
}

/** Headers, target, route: the request in exactly one reading, or a refusal. */
function arrive(exchange: Exchange, via: Via): Route {
  const { req, context } = exchange
  const { limits } = context.config
  if (context.overloaded()) throw new GateError('ERR_OVERLOADED')
  const method = parseMethod(req.method)
  const headers = parseHeaders(req, limits)
  exchange.headers = headers
  const client = resolvePeer(req.socket, headers.pairs, via)
  exchange.client = client
  exchange.address = client.address
  exchange.certificate = client.certificate
  const target = parseRequestTarget(method, req.url ?? '', headers.host, {
    scheme: client.scheme,
    maxBytes: limits.target_bytes,
  })
  exchange.target = target
  const { servername } = req.socket as { servername?: string | false }
  if (typeof servername === 'string' && !context.routes.sameGroup(servername, target.host)) {
    throw new GateError('ERR_HOST_UNKNOWN')
  }
  const route = context.routes.find(target)
  if (route === 'host-unknown') throw new GateError('ERR_HOST_UNKNOWN')
  if (route === 'no-route') throw new GateError('ERR_ROUTE_NOT_FOUND')
  exchange.routed = route
  checkTarget(target, route.config)
  checkRepeats(headers, route.config)
  exchange.given = passedOn(headers, route.config.forward.remove)
  const upgrade = exchange.upgrade !== undefined
  if (route.config.auth === 'required') {
    exchange.credential = context.credentials.find(headers.pairs, upgrade)
  }
  const ambient = exchange.credential !== undefined && isAmbient(exchange.credential)
  if (upgrade || ambient) {
    checkOrigin(route.config, headerOf(headers.pairs, 'origin'), { method, upgrade, ambient })
  }
  if (limits.body_bytes > 0 && headers.contentLength > limits.body_bytes) {
    throw new GateError('ERR_BODY_TOO_LARGE')
  }
  return route
}

/**
 * What the route's cross-origin rules say: headers for the answer, whatever it will be; a preflight is answered here.
 * Methods are checked here too, since a preflight is OPTIONS on a route that need not have it.
 */
function crossOrigin(exchange: Exchange, route: Route): 'answered' | 'goes on' {
  const { cors, methods } = route.config
  const { pairs } = exchange.headers!
  const { method } = exchange.req
  if (cors !== undefined) {
    const origin = headerOf(pairs, 'origin')
    exchange.cors = corsHeaders(cors, origin)
    const asked = headerOf(pairs, 'access-control-request-method')
    if (method === 'OPTIONS' && origin !== undefined && asked !== undefined) {
      const headers = headerOf(pairs, 'access-control-request-headers')
      const answer = preflightHeaders(cors, methods ?? everyMethod, {
        origin,
        method: asked,
        headers,
      })
      if (answer === undefined) throw new GateError('ERR_CORS_REFUSED')
      exchange.context.metrics.count('dropgate_requests_total', 'preflight')
      exchange.record(undefined, 204)
      answerPreflight(exchange.res, answer, { decisionId: exchange.id, req: exchange.req })
      return 'answered'
    }
  }
  if (methods !== undefined && !methods.includes(method!)) {
    throw new GateError('ERR_METHOD_NOT_ALLOWED')
  }
  return 'goes on'
}

/** The verified caller; at once when the token is known, after its verification when it is not. */
function identify(exchange: Exchange, route: Route): Principal | undefined | Promise<Principal> {
  if (route.config.auth === 'none') return undefined
  const { context, credential } = exchange
  if (credential === undefined) throw new GateError('ERR_CREDENTIAL_MISSING')
  const verified = context.verifier.verify(credential.token, route.config.audience)
  const accept = (principal: Principal): Principal => {
    context.credentials.check(principal.issuer, credential)
    return principal
  }
  return verified instanceof Promise ? verified.then(accept) : accept(verified)
}

/** Takes the body first where the policy of now reads it; then, in the turn that asked for the policy, decides. */
function admit(exchange: Exchange, principal: Principal | undefined): Promise<void> | undefined {
  const { context, req, res, routed } = exchange
  const readsBody =
    context.engine.current()?.plan.readsBody === true && routed!.config.policy_body === 'read'
  if (!readsBody || !exchange.hasBody || exchange.body !== undefined || res.destroyed) {
    decide(exchange, principal)
    return undefined
  }
  const { body_bytes, policy_body, policy_body_timeout: timeoutMs } = context.config.limits
  const maxBytes = body_bytes > 0 ? Math.min(body_bytes, policy_body) : policy_body
  const { contentLength, expectContinue } = exchange.headers!
  if (contentLength > maxBytes) throw new GateError('ERR_BODY_TOO_LARGE')
  if (expectContinue) res.writeContinue()
  return collectBody(req, res, { maxBytes, timeoutMs }).then((body) => {
    exchange.body = body
    decide(exchange, principal)
  })
}

/**
 * The one turn (design law 3): is the token still one, register, look up, evaluate, mark allowed. No await may enter this
 * function: a row that lands between the look-up and the registration would be missed.
 */
function decide(exchange: Exchange, principal: Principal | undefined): void {
  const { context, res, routed } = exchange
  exchange.principal = principal
  if (res.destroyed) return
  if (principal !== undefined) {
    // Its body may have taken longer to come than its token had left.
    checkExpiry(principal.expiresAtS, Date.now(), principal.clockSkewMs)
    if (routed!.config.on_expiry === 'cut')
      exchange.expiresAtMs = principal.expiresAtS * 1000 + principal.clockSkewMs
  }
  if (context.exhausted()) throw new GateError('ERR_OVERLOADED')
  context.live.add(exchange)
  try {
    const stale = checkRevocations(exchange, context.ledger, routed!)
    const answer = evaluate(exchange, exchange.startedAtMs, stale)
    if (!answer.allowed) {
      context.live.remove(exchange)
      exchange.refuseByPolicy(answer)
      return
    }
    rewriteQuery(exchange, answer)
    exchange.answerSet = answer.responseHeaders
    context.metrics.observe('dropgate_decision_duration_seconds', sinceS(exchange.startedAtUs))
    exchange.record(undefined, 0)
    exchange.input = undefined
    send(exchange, answer)
  } catch (error) {
    context.live.remove(exchange)
    throw error
  }
}

/** @returns whether the feed is stale; where the route does not accept that, the exchange is refused. */
function checkRevocations(
  exchange: Exchange,
  ledger: LedgerView | undefined,
  route: Route,
): boolean {
  if (ledger === undefined || !ledger.loaded || ledger.broken) throw new GateError('ERR_NOT_READY')
  const { max_staleness, hard_stop } = exchange.context.config.revocation
  const nowMs = Date.now()
  const ageMs = ledger.ageMs(monotonicUs(), nowMs)
  exchange.feedAgeMs = ageMs
  exchange.ledgerVersion = ledger.version
  const stale = ageMs > max_staleness
  if (stale && (route.config.stale === 'deny' || ageMs > hard_stop))
    throw new GateError('ERR_STALE')
  const denial = revocationOf(exchange, ledger, nowMs)
  if (denial === undefined) return stale
  exchange.revocation = denial.id
  throw new GateError(denial.code, undefined, denial.retry ? { retryAfterS: 1 } : {})
}

/** The row that denies this exchange now, if any does. */
export function revocationOf(
  exchange: Exchange,
  ledger: LedgerView,
  nowMs: number,
): { readonly id: number; readonly code: Code; readonly retry?: boolean } | undefined {
  const { principal } = exchange
  if (principal === undefined) {
    const block = findBlock(ledger, exchange, nowMs)
    if (block === undefined) return undefined
    const code = block.on === 'everyone' ? 'ERR_EVERYONE_REVOKED' : 'ERR_PEER_REVOKED'
    return { id: block.id, code }
  }
  const match = findRevocation(ledger, principal, exchange, nowMs)
  return match === undefined ? undefined : { ...match, code: 'ERR_REVOKED' }
}

/** What the policy is asked about. Made once: whoever asks again asks about the same request. */
function inputPartsOf(exchange: Exchange, route: Route): InputParts {
  const { req } = exchange
  const headers = exchange.headers!
  const target = exchange.target!
  const client = exchange.client!
  return {
    requestId: exchange.id,
    method: req.method!,
    path: target.wire,
    host: target.authority,
    scheme: client.scheme,
    protocol: `HTTP/${req.httpVersion}`,
    headers: exchange.given,
    size: exchange.body?.length ?? headers.contentLength,
    bodyWithheld: exchange.body === undefined && exchange.hasBody,
    sourceAddress: client.address,
    sourcePort: client.port,
    destinationAddress: client.localAddress,
    destinationPort: client.localPort,
    parsedPath: target.segments,
    query: target.query,
    routeJson: route.routeJson,
    labelsJson: route.labelsJson,
    principal: exchange.principal,
  }
}

/** The policy's answer to this exchange, asked at `atMs` by the wall clock; whatever is not a clear yes is a no with its own code. */
export function evaluate(exchange: Exchange, atMs: number, stale: boolean): Answer {
  const { context } = exchange
  const policy = context.engine.current()
  if (policy === undefined) throw new GateError('ERR_POLICY_MISSING')
  exchange.policy = policy
  if (policy.suspended) throw new GateError('ERR_POLICY_SUSPENDED')
  const { plan } = policy
  exchange.asked ??= inputPartsOf(exchange, exchange.routed!)
  const state: InputState = {
    timeRfc3339: rfc3339(atMs),
    body: plan.readsBody ? bodyTexts(exchange, plan.top.has('parsed_body')) : undefined,
    feedStale: stale,
    feedAgeMs: Math.round(exchange.feedAgeMs),
  }
  const input = buildInput(exchange.asked, state, plan)
  exchange.input = input
  context.evaluating(policy.generation)
  const answer = policy.decide(exchange.routed!.config.decision, input.text)
  exchange.evaluationUs = context.evaluated()
  context.metrics.observe('dropgate_policy_evaluation_seconds', exchange.evaluationUs / 1e6)
  exchange.ndBuiltinCache = policy.ndBuiltinCache
  exchange.answer = answer
  if (answer.failure !== undefined)
    throw new GateError(answer.failure, undefined, { cause: answer.detail })
  return answer
}

/** The query as the policy wants it; what comes out passes the same checks as what came in (design law 5). */
function rewriteQuery(exchange: Exchange, answer: Answer): void {
  if (answer.query === undefined) return
  const target = exchange.target!
  try {
    exchange.sent = withQuery(exchange.req.method!, target, answer.query, {
      scheme: exchange.client!.scheme,
      maxBytes: exchange.context.config.limits.target_bytes,
    })
  } catch (error) {
    throw new GateError('ERR_POLICY_FAILED', undefined, { cause: error })
  }
}

function bodyTexts({ body, headers }: Exchange, parse: boolean): BodyTexts | undefined {
  if (body === undefined) return undefined
  const contentType = headerValue(headers!, 'content-type')
  const contentEncoding = headerValue(headers!, 'content-encoding')
  return parseBody(body, { contentType, contentEncoding }, parse)
}

/** Sends the canonical string upstream and relays what comes back. */
function send(exchange: Exchange, answer: Answer): void {
  const { context, req, res, principal } = exchange
  const headers = exchange.headers!
  const target = exchange.sent ?? exchange.target!
  const client = exchange.client!
  const { config } = exchange.routed!
  const { limits } = context.config
  res.on('close', () => exchange.onClosed())
  const { hasBody, body } = exchange
  const { upgrade, credential } = exchange
  const strip = credential !== undefined && config.forward.authorization === 'strip'
  const pairs = strip ? withoutCredential(exchange.given, credential) : exchange.given
  const request: UpstreamRequest = {
    method: req.method!,
    path: target.wire,
    ...(upgrade === undefined ? {} : { upgrade: 'websocket' }),
    headers: upstreamHeaders(pairs, {
      forward: config.forward,
      route: config.name,
      principal,
      decisionId: exchange.id,
      clientAddress: client.address,
      scheme: client.scheme,
      host: target.authority,
      policyHeaders: answer.headers,
      removed: answer.removeHeaders,
    }),
    // What was taken was read whole: exactly those bytes go on.
    body: hasBody ? (body ?? requestBody(req, limits, (bytes) => exchange.passed(bytes, 0))) : null,
  }
  if (body !== undefined) exchange.passed(body.length, 0)
  if (!exchange.open) return
  const pool = context.pools.for(config)
  exchange.sending = Forwarding.start(
    upgrade === undefined ? pool : dedicated(pool, upgrade),
    request,
    new Relay(exchange, limits.read_idle),
  )
  if (headers.expectContinue && hasBody && body === undefined) res.writeContinue()
}

/** A connection that is left when the client's is closed, whatever becomes of it meanwhile. */
function dedicated(pool: UpstreamPool, { socket }: Upgrade): DedicatedConnection {
  const connection = pool.dedicated()
  socket.once('close', () => connection.leave())
  return connection
}
