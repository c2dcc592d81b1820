/**
 * READ FIRST. One exchange through the rooms, in order:
 *
 *   listener          is there room; what came, in exactly one reading         503 400 431 501
 *   route/target      the canonical target: the string decided on is sent      400 414
 *   route/table       which route serves it; may other origins ask (route/cors) 404 421 405 403
 *   identity          who asks                                                 401
 *   listener/body     the body, only where the policy reads it                 408 413
 *   -- from here to `send` one turn of the event loop, in this order (design law 3) --
 *   response/live     the exchange is registered, so a later row can find it
 *   revocation        is the ledger complete and fresh, does any row match     503 401
 *   policy            may this principal do this                               403 503 400 415
 *   ---------------------------------------------------------------------------------
 *   upstream          send the canonical string with rebuilt headers           502 504
 *   response/relay    stream the answer back
 *   decisionlog       one record for each decision that answers
 *
 * Anything thrown on the way is a GateError and becomes a refusal; anything else that is thrown is ERR_INTERNAL
 * and becomes a refusal too. There is no path from an error to the upstream.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { GateConfig } from './config/options.ts'
import type { LogQueue } from './decisionlog/queue.ts'
import { writeRecord } from './decisionlog/record.ts'
import { monotonicUs } from './domain/clock.ts'
import type { Answer } from './domain/decision.ts'
import type { Exchange } from './domain/exchange.ts'
import type { Principal } from './domain/principal.ts'
import { asGateError, GateError } from './errors.ts'
import { findCredential } from './identity/credential.ts'
import type { TokenVerifier } from './identity/token.ts'
import { collectBody } from './listener/body.ts'
import { type Client, readClient, type Via } from './listener/client.ts'
import {
  checkRepeats,
  headerOf,
  headerValue,
  type RequestHeaders,
  readHeaders,
  readMethod,
} from './listener/headers.ts'
import type { Metrics } from './metrics.ts'
import { readBody } from './policy/body.ts'
import type { ActivePolicy, PolicyEngine } from './policy/engine.ts'
import { type BodyTexts, buildInput, type InputParts, type PolicyInput } from './policy/input.ts'
import { answerPreflight, deny, everyMethod } from './response/deny.ts'
import type { LiveRegistry } from './response/live.ts'
import { Relay } from './response/relay.ts'
import type { LedgerView } from './revocation/ledger.ts'
import { findBlock, findRevocation } from './revocation/match.ts'
import { corsHeaders, preflightHeaders } from './route/cors.ts'
import type { Route, RouteTable } from './route/table.ts'
import { checkTarget, readTarget, type Target, withQuery } from './route/target.ts'
import { requestBody } from './upstream/body.ts'
import { Sending } from './upstream/forward.ts'
import { responseHeaders, upstreamHeaders } from './upstream/headers.ts'
import type { Pools } from './upstream/pools.ts'

/** What the walk reads, one value for each configuration: an exchange keeps the one it began with (design law 2). */
export interface Rooms {
  readonly config: GateConfig
  readonly routes: RouteTable
  readonly verifier: TokenVerifier
  /** Undefined until the control thread has loaded the revocations. */
  readonly ledger: LedgerView | undefined
  readonly engine: PolicyEngine
  readonly pools: Pools
  readonly live: LiveRegistry
  readonly log: LogQueue
  readonly metrics: Metrics
  readonly worker: number
  readonly labelsJson: string
  /** More requests than the limit, or a thread that is behind: whoever comes now is turned away. */
  readonly overloaded: () => boolean
  /** Names the policy generation this thread is evaluating, 0 for none, so that a runaway is blamed rightly. */
  readonly evaluating: (generation: number) => void
}

/** Takes one request through the rooms. Never throws; the exchange is answered, relayed or destroyed. */
export function walk(rooms: Rooms, req: IncomingMessage, res: ServerResponse, via: Via): void {
  const passage = new Passage(rooms, req, res)
  try {
    const route = arrive(passage, via)
    if (crossOrigin(passage, route) === 'answered') return
    const caller = identify(passage, route)
    if (caller instanceof Promise) {
      caller.then((principal) => admit(passage, principal)).catch((error) => refuse(passage, error))
    } else {
      admit(passage, caller)?.catch((error) => refuse(passage, error))
    }
  } catch (error) {
    refuse(passage, error)
  }
}

const noHeaders: readonly string[] = []

/** One exchange's way through the walk: what is known of it so far, for the record and for whoever ends it. */
class Passage implements Exchange {
  readonly id = randomUUID()
  readonly startedAtUs = monotonicUs()
  readonly startedAt = new Date()
  readonly rooms: Rooms
  readonly req: IncomingMessage
  readonly res: ServerResponse
  address: string | undefined
  certificate: string | undefined
  headers: RequestHeaders | undefined
  client: Client | undefined
  target: Target | undefined
  routed: Route | undefined
  /** Cross-origin headers of the answer, whatever it will be. */
  cors: readonly string[] = noHeaders
  principal: Principal | undefined
  /** Taken whole because the policy reads it; otherwise it stays a stream. */
  body: Buffer | undefined
  policy: ActivePolicy | undefined
  /** What the input was made of: the same request can be decided on again. */
  parts: InputParts | undefined
  input: PolicyInput | undefined
  answer: Answer | undefined
  /** What goes upstream where the policy has changed the query. */
  sent: Target | undefined
  answersOfTheWorld: string | undefined
  evaluationUs = 0
  ledgerVersion = -1
  feedAgeMs = -1
  revocation: number | undefined
  sending: Sending | undefined
  allowed = false

  constructor(rooms: Rooms, req: IncomingMessage, res: ServerResponse) {
    this.rooms = rooms
    this.req = req
    this.res = res
  }

  get hasBody(): boolean {
    const { chunked, contentLength } = this.headers!
    return chunked || contentLength > 0
  }

  get route(): string {
    return this.routed?.config.name ?? ''
  }

  end(why: Error): void {
    this.sending?.abort(why)
    this.res.destroy()
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
  passage.address = client.address === '' ? undefined : client.address
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
      record(passage, undefined, 204)
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
  const token = findCredential(passage.headers!.pairs)
  if (token === undefined) throw new GateError('ERR_CREDENTIAL_MISSING')
  return passage.rooms.verifier.verify(token, route.config.audience)
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
  const { policy_body: maxBytes, policy_body_timeout: timeoutMs } = rooms.config.limits
  const { contentLength, expectContinue } = passage.headers!
  if (contentLength > maxBytes) throw new GateError('ERR_BODY_TOO_LARGE')
  if (expectContinue) res.writeContinue()
  return collectBody(req, res, { maxBytes, timeoutMs }).then((body) => {
    passage.body = body
    decide(passage, principal)
  })
}

/**
 * The one turn (design law 3): register, look up, evaluate, mark allowed. No await may enter this function:
 * a row that lands between the look-up and the registration would be missed.
 */
function decide(passage: Passage, principal: Principal | undefined): void {
  const { rooms, res, routed } = passage
  passage.principal = principal
  if (res.destroyed) return
  rooms.live.add(passage)
  try {
    const stale = checkRevocations(passage, rooms.ledger, routed!, principal)
    const answer = evaluate(passage, routed!, stale)
    if (!answer.allowed) {
      rooms.live.remove(passage)
      refuseByPolicy(passage, answer)
      return
    }
    passage.allowed = true
    rooms.metrics.observe('dropgate_decision_duration_seconds', sinceS(passage.startedAtUs))
    record(passage, undefined, 0)
    send(passage, answer)
  } catch (error) {
    rooms.live.remove(passage)
    throw error
  }
}

/** @returns whether the feed is stale; where the route does not accept that, the exchange is refused. */
function checkRevocations(
  passage: Passage,
  ledger: LedgerView | undefined,
  route: Route,
  principal: Principal | undefined,
): boolean {
  if (ledger === undefined || !ledger.loaded || ledger.broken) throw new GateError('ERR_NOT_READY')
  const { max_staleness, hard_stop } = passage.rooms.config.revocation
  const nowMs = Date.now()
  const ageMs = ledger.ageMs(monotonicUs(), nowMs)
  passage.feedAgeMs = ageMs
  passage.ledgerVersion = ledger.version
  const stale = ageMs > max_staleness
  if (stale && (route.config.stale === 'deny' || ageMs > hard_stop))
    throw new GateError('ERR_STALE')
  if (principal === undefined) {
    const block = findBlock(ledger, passage, nowMs)
    if (block === undefined) return stale
    passage.revocation = block.id
    throw new GateError(block.on === 'everyone' ? 'ERR_EVERYONE_REVOKED' : 'ERR_PEER_REVOKED')
  }
  const match = findRevocation(ledger, principal, passage, nowMs)
  if (match === undefined) return stale
  passage.revocation = match.id
  throw new GateError('ERR_REVOKED', undefined, match.retry ? { retryAfterS: 1 } : {})
}

/** The policy's answer to the input of this exchange; whatever is not a clear yes is a no with its own code. */
function evaluate(passage: Passage, route: Route, stale: boolean): Answer {
  const { rooms, req } = passage
  const headers = passage.headers!
  const target = passage.target!
  const client = passage.client!
  const policy = rooms.engine.current()
  if (policy === undefined) throw new GateError('ERR_POLICY_MISSING')
  passage.policy = policy
  if (policy.suspended) throw new GateError('ERR_POLICY_SUSPENDED')
  const { plan } = policy
  const parts: InputParts = {
    requestId: passage.id,
    timeRfc3339: passage.startedAt.toISOString(),
    method: req.method!,
    path: target.wire,
    host: target.authority,
    scheme: client.scheme,
    protocol: `HTTP/${req.httpVersion}`,
    headers: headers.pairs,
    size: passage.body?.length ?? headers.contentLength,
    body: plan.readsBody ? readTaken(passage, plan.top.has('parsed_body')) : undefined,
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
  passage.parts = parts
  const state = { feedStale: stale, feedAgeMs: Math.round(passage.feedAgeMs) }
  const input = buildInput(parts, state, plan)
  passage.input = input
  const startedUs = monotonicUs()
  rooms.evaluating(policy.generation)
  const answer = policy.decide(route.config.decision, input.text)
  rooms.evaluating(0)
  passage.evaluationUs = monotonicUs() - startedUs
  rooms.metrics.observe('dropgate_policy_evaluation_seconds', passage.evaluationUs / 1e6)
  passage.answersOfTheWorld = policy.answersOfTheWorld
  passage.answer = answer
  if (answer.failure !== undefined)
    throw new GateError(answer.failure, undefined, { cause: answer.detail })
  if (answer.allowed && answer.query !== undefined) {
    try {
      passage.sent = withQuery(req.method!, target, answer.query, {
        scheme: client.scheme,
        maxBytes: rooms.config.limits.target_bytes,
      })
    } catch (error) {
      throw new GateError('ERR_POLICY_FAILED', undefined, { cause: error })
    }
  }
  return answer
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
  res.once('close', () => {
    rooms.live.remove(passage)
    if (!res.writableFinished) passage.sending?.abort(new Error('the client is gone'))
  })
  const { hasBody, body } = passage
  const relay = new Relay({
    req,
    res,
    responseHeaders: (raw) =>
      responseHeaders(
        raw,
        config.cors === undefined ? undefined : passage.cors,
        answer.responseHeaders,
      ),
    readIdleMs: limits.read_idle,
    onUnread: () => rooms.metrics.count('dropgate_unread_answers_total'),
    onHead: (status) => {
      rooms.metrics.count('dropgate_requests_total', 'allowed')
      rooms.metrics.count('dropgate_upstream_responses_total', `${Math.floor(status / 100)}xx`)
    },
    onFailed: (error) => refuse(passage, error),
    onOver: () => {
      rooms.metrics.observe('dropgate_request_duration_seconds', sinceS(passage.startedAtUs))
    },
  })
  const request = {
    method: req.method!,
    path: target.wire,
    headers: upstreamHeaders(headers, {
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
    body: hasBody ? (body ?? requestBody(req, limits)) : null,
  }
  passage.sending = Sending.start(rooms.pools.for(config), request, relay)
  if (headers.expectContinue && hasBody && body === undefined) res.writeContinue()
}

/** The policy said no: its own words go out, where it has any. */
function refuseByPolicy(passage: Passage, answer: Answer): void {
  const error = new GateError('ERR_POLICY_DENIED')
  count(passage, error)
  record(passage, error, answer.status)
  deny(passage.res, error, {
    decisionId: passage.id,
    req: passage.req,
    status: answer.status,
    headers: answer.headers,
    cors: passage.cors,
    body: answer.body,
  })
}

/** Answers with the code's status, or destroys what can no longer be answered. */
function refuse(passage: Passage, thrown: unknown): void {
  const { res, req, routed } = passage
  const error = asGateError(thrown)
  passage.rooms.evaluating(0)
  if (res.destroyed) return
  count(passage, error)
  record(passage, error, error.status)
  if (res.headersSent) {
    res.destroy()
    return
  }
  const { cors, id: decisionId } = passage
  deny(res, error, { decisionId, req, cors, allow: routed?.config.methods })
}

function count(passage: Passage, error: GateError): void {
  passage.rooms.metrics.count('dropgate_requests_total', error.code)
}

/** One line of the decision log; `error` undefined means allowed. */
function record(passage: Passage, error: GateError | undefined, status: number): void {
  const { rooms, policy, input, answer, principal } = passage
  rooms.log.push(
    writeRecord({
      labelsJson: rooms.labelsJson,
      decisionId: passage.id,
      bundle: policy?.stamp.bundle,
      revision: policy?.stamp.revision,
      path: passage.routed?.config.decision,
      inputJson: input?.logged,
      resultJson: answer?.resultJson,
      erased: input?.erased,
      ndBuiltinCache: passage.answersOfTheWorld,
      metadataJson: answer?.metadataJson,
      sentTarget: passage.sent?.wire,
      timestamp: passage.startedAt.toISOString(),
      requestedBy: passage.client?.address ?? passage.req.socket.remoteAddress,
      code: error?.code,
      reason: answer?.reason,
      status,
      route: passage.route,
      worker: rooms.worker,
      feedAgeMs: passage.feedAgeMs,
      ledgerVersion: passage.ledgerVersion,
      revocation: passage.revocation,
      issuer: principal?.issuer,
      subject: principal?.subject,
      evaluationNs: Math.round(passage.evaluationUs * 1000),
      decisionNs: Math.round((monotonicUs() - passage.startedAtUs) * 1000),
      cause: error?.cause,
    }),
  )
}

function sinceS(startedAtUs: number): number {
  return (monotonicUs() - startedAtUs) / 1e6
}

/** What never became a request (malformed framing, a handshake we refuse): recorded, already answered. */
export interface Unread {
  readonly decisionId: string
  readonly error: GateError
  readonly remoteAddress: string | undefined
}

export function recordUnread(rooms: Rooms, unread: Unread): void {
  rooms.metrics.count('dropgate_requests_total', unread.error.code)
  rooms.log.push(
    writeRecord({
      labelsJson: rooms.labelsJson,
      decisionId: unread.decisionId,
      timestamp: new Date().toISOString(),
      requestedBy: unread.remoteAddress,
      code: unread.error.code,
      status: unread.error.status,
      worker: rooms.worker,
    }),
  )
}
