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
 * passage.ts holds what is known of the exchange on its way and how it ends: relayed, refused, switched or cut. Until its
 * last byte it can be found and cut: stay.ts asks again, for a new row, a new policy or an expired token, whether what is
 * open may stay open.
 *
 * Anything thrown on the way is a GateError, whose code has its status and sentence in errors.ts, and anything else that
 * is thrown is ERR_INTERNAL: `passage.refuse` counts and records it, response/deny writes the refusal's body. There is no
 * path from an error to the upstream.
 */
import { monotonicUs, rfc3339 } from './domain/clock.ts'
import type { Answer } from './domain/decision.ts'
import type { Principal } from './domain/principal.ts'
import { type Code, GateError } from './errors.ts'
import { checkExpiry } from './identity/claims.ts'
import { isAmbient, withoutCredential } from './identity/credential.ts'
import { collectBody } from './listener/body.ts'
import { readClient, type Via } from './listener/client.ts'
import { checkRepeats, headerOf, headerValue, readHeaders, readMethod } from './listener/headers.ts'
import type { Upgrade } from './listener/upgrade.ts'
import { type Arrival, Passage, type Rooms, sinceS } from './passage.ts'
import { readBody } from './policy/body.ts'
import { type BodyTexts, buildInput, type InputParts, type InputState } from './policy/input.ts'
import { answerPreflight, everyMethod } from './response/deny.ts'
import { Relay } from './response/relay.ts'
import type { LedgerView } from './revocation/ledger.ts'
import { findBlock, findRevocation } from './revocation/match.ts'
import { corsHeaders, preflightHeaders } from './route/cors.ts'
import { checkOrigin } from './route/origin.ts'
import type { Route } from './route/table.ts'
import { checkTarget, readTarget, withQuery } from './route/target.ts'
import { requestBody } from './upstream/body.ts'
import { Sending, type UpstreamRequest } from './upstream/forward.ts'
import { passedOn, upstreamHeaders } from './upstream/headers.ts'
import type { LoneConnection, UpstreamPool } from './upstream/pools.ts'

/** Takes one request through the rooms. Never throws; the exchange is answered, relayed or destroyed. */
export function walk(rooms: Rooms, arrival: Arrival): void {
  const passage = new Passage(rooms, arrival)
  try {
    const route = arrive(passage, arrival.via)
    if (crossOrigin(passage, route) === 'answered') return
    const caller = identify(passage, route)
    if (caller instanceof Promise) {
      caller.then((principal) => admit(passage, principal)).catch((error) => passage.refuse(error))
    } else {
      admit(passage, caller)?.catch((error) => passage.refuse(error))
    }
  } catch (error) {
    passage.refuse(error)
  }
}

/** Headers, target, route: the request in exactly one reading, or a refusal. */
function arrive(passage: Passage, via: Via): Route {
  const { req, rooms } = passage
  const { limits } = rooms.config
  if (rooms.overloaded()) throw new GateError('ERR_OVERLOADED')
  const method = readMethod(req.method)
  const headers = readHeaders(req, limits)
  passage.headers = headers
  const client = readClient(req.socket, headers.pairs, via)
  passage.client = client
  passage.address = client.address
  passage.certificate = client.certificate
  const target = readTarget(method, req.url ?? '', headers.host, {
    scheme: client.scheme,
    maxBytes: limits.target_bytes,
  })
  passage.target = target
  const { servername } = req.socket as { servername?: string | false }
  if (typeof servername === 'string' && !rooms.routes.sameGroup(servername, target.host)) {
    throw new GateError('ERR_HOST_UNKNOWN')
  }
  const route = rooms.routes.find(target)
  if (route === 'host-unknown') throw new GateError('ERR_HOST_UNKNOWN')
  if (route === 'no-route') throw new GateError('ERR_ROUTE_NOT_FOUND')
  passage.routed = route
  checkTarget(target, route.config)
  checkRepeats(headers, route.config)
  passage.given = passedOn(headers, route.config.forward.remove)
  const upgrade = passage.upgrade !== undefined
  if (route.config.auth === 'required') {
    passage.credential = rooms.credentials.find(headers.pairs, upgrade)
  }
  const ambient = passage.credential !== undefined && isAmbient(passage.credential)
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
function crossOrigin(passage: Passage, route: Route): 'answered' | 'goes on' {
  const { cors, methods } = route.config
  const { pairs } = passage.headers!
  const { method } = passage.req
  if (cors !== undefined) {
    const origin = headerOf(pairs, 'origin')
    passage.cors = corsHeaders(cors, origin)
    const asked = headerOf(pairs, 'access-control-request-method')
    if (method === 'OPTIONS' && origin !== undefined && asked !== undefined) {
      const headers = headerOf(pairs, 'access-control-request-headers')
      const answer = preflightHeaders(cors, methods ?? everyMethod, {
        origin,
        method: asked,
        headers,
      })
      if (answer === undefined) throw new GateError('ERR_CORS_REFUSED')
      passage.rooms.metrics.count('dropgate_requests_total', 'preflight')
      passage.record(undefined, 204)
      answerPreflight(passage.res, answer, { decisionId: passage.id, req: passage.req })
      return 'answered'
    }
  }
  if (methods !== undefined && !methods.includes(method!)) {
    throw new GateError('ERR_METHOD_NOT_ALLOWED')
  }
  return 'goes on'
}

/** The verified caller; at once when the token is known, after its verification when it is not. */
function identify(passage: Passage, route: Route): Principal | undefined | Promise<Principal> {
  if (route.config.auth === 'none') return undefined
  const { rooms, credential } = passage
  if (credential === undefined) throw new GateError('ERR_CREDENTIAL_MISSING')
  const verified = rooms.verifier.verify(credential.token, route.config.audience)
  const accept = (principal: Principal): Principal => {
    rooms.credentials.check(principal.issuer, credential)
    return principal
  }
  return verified instanceof Promise ? verified.then(accept) : accept(verified)
}

/** Takes the body first where the policy of now reads it; then, in the turn that asked for the policy, decides. */
function admit(passage: Passage, principal: Principal | undefined): Promise<void> | undefined {
  const { rooms, req, res, routed } = passage
  const readsBody =
    rooms.engine.current()?.plan.readsBody === true && routed!.config.policy_body === 'read'
  if (!readsBody || !passage.hasBody || passage.body !== undefined || res.destroyed) {
    decide(passage, principal)
    return undefined
  }
  const { body_bytes, policy_body, policy_body_timeout: timeoutMs } = rooms.config.limits
  const maxBytes = body_bytes > 0 ? Math.min(body_bytes, policy_body) : policy_body
  const { contentLength, expectContinue } = passage.headers!
  if (contentLength > maxBytes) throw new GateError('ERR_BODY_TOO_LARGE')
  if (expectContinue) res.writeContinue()
  return collectBody(req, res, { maxBytes, timeoutMs }).then((body) => {
    passage.body = body
    decide(passage, principal)
  })
}

/**
 * The one turn (design law 3): is the token still one, register, look up, evaluate, mark allowed. No await may enter this
 * function: a row that lands between the look-up and the registration would be missed.
 */
function decide(passage: Passage, principal: Principal | undefined): void {
  const { rooms, res, routed } = passage
  passage.principal = principal
  if (res.destroyed) return
  if (principal !== undefined) {
    // Its body may have taken longer to come than its token had left.
    checkExpiry(principal.expiresAtS, Date.now(), principal.clockSkewMs)
    if (routed!.config.on_expiry === 'cut')
      passage.expiresAtMs = principal.expiresAtS * 1000 + principal.clockSkewMs
  }
  if (rooms.exhausted()) throw new GateError('ERR_OVERLOADED')
  rooms.live.add(passage)
  try {
    const stale = checkRevocations(passage, rooms.ledger, routed!)
    const answer = evaluate(passage, passage.startedAtMs, stale)
    if (!answer.allowed) {
      rooms.live.remove(passage)
      passage.refuseByPolicy(answer)
      return
    }
    rewriteQuery(passage, answer)
    passage.answerSet = answer.responseHeaders
    passage.allowed = true
    rooms.metrics.observe('dropgate_decision_duration_seconds', sinceS(passage.startedAtUs))
    passage.record(undefined, 0)
    passage.input = undefined
    send(passage, answer)
  } catch (error) {
    rooms.live.remove(passage)
    throw error
  }
}

/** @returns whether the feed is stale; where the route does not accept that, the exchange is refused. */
function checkRevocations(passage: Passage, ledger: LedgerView | undefined, route: Route): boolean {
  if (ledger === undefined || !ledger.loaded || ledger.broken) throw new GateError('ERR_NOT_READY')
  const { max_staleness, hard_stop } = passage.rooms.config.revocation
  const nowMs = Date.now()
  const ageMs = ledger.ageMs(monotonicUs(), nowMs)
  passage.feedAgeMs = ageMs
  passage.ledgerVersion = ledger.version
  const stale = ageMs > max_staleness
  if (stale && (route.config.stale === 'deny' || ageMs > hard_stop))
    throw new GateError('ERR_STALE')
  const denial = revocationOf(passage, ledger, nowMs)
  if (denial === undefined) return stale
  passage.revocation = denial.id
  throw new GateError(denial.code, undefined, denial.retry ? { retryAfterS: 1 } : {})
}

/** The row that denies this exchange now, if any does. */
export function revocationOf(
  passage: Passage,
  ledger: LedgerView,
  nowMs: number,
): { readonly id: number; readonly code: Code; readonly retry?: boolean } | undefined {
  const { principal } = passage
  if (principal === undefined) {
    const block = findBlock(ledger, passage, nowMs)
    if (block === undefined) return undefined
    const code = block.on === 'everyone' ? 'ERR_EVERYONE_REVOKED' : 'ERR_PEER_REVOKED'
    return { id: block.id, code }
  }
  const match = findRevocation(ledger, principal, passage, nowMs)
  return match === undefined ? undefined : { ...match, code: 'ERR_REVOKED' }
}

/** What the policy is asked about. Made once: whoever asks again asks about the same request. */
function questionOf(passage: Passage, route: Route): InputParts {
  const { req } = passage
  const headers = passage.headers!
  const target = passage.target!
  const client = passage.client!
  return {
    requestId: passage.id,
    method: req.method!,
    path: target.wire,
    host: target.authority,
    scheme: client.scheme,
    protocol: `HTTP/${req.httpVersion}`,
    headers: passage.given,
    size: passage.body?.length ?? headers.contentLength,
    bodyWithheld: passage.body === undefined && passage.hasBody,
    sourceAddress: client.address,
    sourcePort: client.port,
    destinationAddress: client.localAddress,
    destinationPort: client.localPort,
    parsedPath: target.segments,
    query: target.query,
    routeJson: route.routeJson,
    labelsJson: route.labelsJson,
    principal: passage.principal,
  }
}

/** The policy's answer to this exchange, asked at `atMs` by the wall clock; whatever is not a clear yes is a no with its own code. */
export function evaluate(passage: Passage, atMs: number, stale: boolean): Answer {
  const { rooms } = passage
  const policy = rooms.engine.current()
  if (policy === undefined) throw new GateError('ERR_POLICY_MISSING')
  passage.policy = policy
  if (policy.suspended) throw new GateError('ERR_POLICY_SUSPENDED')
  const { plan } = policy
  passage.asked ??= questionOf(passage, passage.routed!)
  const state: InputState = {
    timeRfc3339: rfc3339(atMs),
    body: plan.readsBody ? readTaken(passage, plan.top.has('parsed_body')) : undefined,
    feedStale: stale,
    feedAgeMs: Math.round(passage.feedAgeMs),
  }
  const input = buildInput(passage.asked, state, plan)
  passage.input = input
  rooms.evaluating(policy.generation)
  const answer = policy.decide(passage.routed!.config.decision, input.text)
  passage.evaluationUs = rooms.evaluated()
  rooms.metrics.observe('dropgate_policy_evaluation_seconds', passage.evaluationUs / 1e6)
  passage.answersOfTheWorld = policy.answersOfTheWorld
  passage.answer = answer
  if (answer.failure !== undefined)
    throw new GateError(answer.failure, undefined, { cause: answer.detail })
  return answer
}

/** The query as the policy wants it; what comes out passes the same checks as what came in (design law 5). */
function rewriteQuery(passage: Passage, answer: Answer): void {
  if (answer.query === undefined) return
  const target = passage.target!
  try {
    passage.sent = withQuery(passage.req.method!, target, answer.query, {
      scheme: passage.client!.scheme,
      maxBytes: passage.rooms.config.limits.target_bytes,
    })
  } catch (error) {
    throw new GateError('ERR_POLICY_FAILED', undefined, { cause: error })
  }
}

function readTaken({ body, headers }: Passage, parse: boolean): BodyTexts | undefined {
  if (body === undefined) return undefined
  const contentType = headerValue(headers!, 'content-type')
  const contentEncoding = headerValue(headers!, 'content-encoding')
  return readBody(body, { contentType, contentEncoding }, parse)
}

/** Sends the canonical string upstream and relays what comes back. */
function send(passage: Passage, answer: Answer): void {
  const { rooms, req, res, principal } = passage
  const headers = passage.headers!
  const target = passage.sent ?? passage.target!
  const client = passage.client!
  const { config } = passage.routed!
  const { limits } = rooms.config
  res.on('close', () => passage.onClosed())
  const { hasBody, body } = passage
  const { upgrade, credential } = passage
  const strip = credential !== undefined && config.forward.authorization === 'strip'
  const pairs = strip ? withoutCredential(passage.given, credential) : passage.given
  const request: UpstreamRequest = {
    method: req.method!,
    path: target.wire,
    ...(upgrade === undefined ? {} : { upgrade: 'websocket' }),
    headers: upstreamHeaders(pairs, {
      forward: config.forward,
      route: config.name,
      principal,
      decisionId: passage.id,
      clientAddress: client.address,
      scheme: client.scheme,
      host: target.authority,
      policyHeaders: answer.headers,
      removed: answer.removeHeaders,
    }),
    // What was taken was read whole: exactly those bytes go on.
    body: hasBody ? (body ?? requestBody(req, limits, (bytes) => passage.passed(bytes, 0))) : null,
  }
  if (body !== undefined) passage.passed(body.length, 0)
  if (!passage.open) return
  const pool = rooms.pools.for(config)
  passage.sending = Sending.start(
    upgrade === undefined ? pool : lone(pool, upgrade),
    request,
    new Relay(passage, limits.read_idle),
  )
  if (headers.expectContinue && hasBody && body === undefined) res.writeContinue()
}

/** A connection that is left when the client's is closed, whatever becomes of it meanwhile. */
function lone(pool: UpstreamPool, { socket }: Upgrade): LoneConnection {
  const connection = pool.lone()
  socket.once('close', () => connection.leave())
  return connection
}
