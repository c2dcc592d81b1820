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
 *   response/relay    stream the answer back, or response/tunnel once the upstream has switched to WebSocket
 *   decisionlog       one record for each decision that answers, one for the end of what was open long or was cut
 *
 * Until its last byte the exchange can be found and cut: stay.ts asks again whether what is open may stay open.
 *
 * Anything thrown on the way is a GateError and becomes a refusal; anything else that is thrown is ERR_INTERNAL
 * and becomes a refusal too. There is no path from an error to the upstream.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { GateConfig } from './config/options.ts'
import type { LogQueue } from './decisionlog/queue.ts'
import { writeRecord } from './decisionlog/record.ts'
import { monotonicUs, rfc3339 } from './domain/clock.ts'
import type { Answer } from './domain/decision.ts'
import type { Cut, Exchange } from './domain/exchange.ts'
import type { Linked } from './domain/linked.ts'
import type { Principal } from './domain/principal.ts'
import { asGateError, type Code, GateError } from './errors.ts'
import {
  type Credential,
  type CredentialSources,
  isAmbient,
  protocolToEcho,
  withoutCredential,
} from './identity/credential.ts'
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
import type { Upgrade } from './listener/upgrade.ts'
import type { Metrics } from './metrics.ts'
import { readBody } from './policy/body.ts'
import type { ActivePolicy, PolicyEngine } from './policy/engine.ts'
import {
  type BodyTexts,
  buildInput,
  type InputParts,
  type InputState,
  type PolicyInput,
} from './policy/input.ts'
import { answerPreflight, deny, everyMethod } from './response/deny.ts'
import type { LiveRegistry } from './response/live.ts'
import { type Answered, breakOff, Relay } from './response/relay.ts'
import { switchingHead, Tunnel } from './response/tunnel.ts'
import type { LedgerView } from './revocation/ledger.ts'
import { findBlock, findRevocation } from './revocation/match.ts'
import { corsHeaders, preflightHeaders } from './route/cors.ts'
import { checkOrigin } from './route/origin.ts'
import type { Route, RouteTable } from './route/table.ts'
import { checkTarget, readTarget, type Target, withQuery } from './route/target.ts'
import { requestBody } from './upstream/body.ts'
import { Sending, type UpstreamRequest } from './upstream/forward.ts'
import { passedOn, responseHeaders, upstreamHeaders } from './upstream/headers.ts'
import type { LoneConnection, Pools, UpstreamPool } from './upstream/pools.ts'

/** What the walk reads, one value for each configuration: an exchange keeps the one it began with (design law 2). */
export interface Rooms {
  readonly config: GateConfig
  readonly routes: RouteTable
  readonly credentials: CredentialSources
  readonly verifier: TokenVerifier
  /** Undefined until the control thread has loaded the revocations. */
  readonly ledger: LedgerView | undefined
  readonly engine: PolicyEngine
  readonly pools: Pools
  readonly live: LiveRegistry<Passage>
  readonly log: LogQueue
  readonly metrics: Metrics
  readonly worker: number
  readonly labelsJson: string
  /** More requests than the limit, or a thread that is behind: whoever comes now is turned away. */
  readonly overloaded: () => boolean
  /** Names the policy generation this thread is evaluating, 0 for none, so that a runaway is blamed rightly. */
  readonly evaluating: (generation: number) => void
  /** A row has ended an open exchange: its receipt counts them. */
  readonly onCut: (row: number) => void
}

/** What the listener hands over. */
export interface Arrival {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly via: Via
  /** Set for a WebSocket handshake; `res` is its own then. */
  readonly upgrade: Upgrade | undefined
}

/** Takes one request through the rooms. Never throws; the exchange is answered, relayed or destroyed. */
export function walk(rooms: Rooms, arrival: Arrival): void {
  const passage = new Passage(rooms, arrival)
  try {
    const route = arrive(passage, arrival.via)
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

/** One exchange's way through the walk: what is known of it so far, for the record and for whoever cuts it. */
export class Passage implements Exchange, Answered, Linked<Passage> {
  readonly id = randomUUID()
  readonly startedAtUs = monotonicUs()
  readonly startedAtMs = Date.now()
  readonly rooms: Rooms
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly upgrade: Upgrade | undefined
  address: string | undefined
  certificate: string | undefined
  headers: RequestHeaders | undefined
  /** Of them what the policy sees and the upstream gets. */
  given: readonly string[] = noHeaders
  client: Client | undefined
  target: Target | undefined
  routed: Route | undefined
  /** Cross-origin headers of the answer, whatever it will be. */
  cors: readonly string[] = noHeaders
  credential: Credential | undefined
  principal: Principal | undefined
  /** Taken whole because the policy reads it; otherwise it stays a stream. */
  body: Buffer | undefined
  policy: ActivePolicy | undefined
  /** What the policy was asked about; kept, since a later policy is asked about the same. */
  asked: InputParts | undefined
  input: PolicyInput | undefined
  answer: Answer | undefined
  /** Set on the upstream's answer by the policy that let the exchange in, whatever a later one says. */
  answerSet: Answer['responseHeaders'] = []
  /** What goes upstream where the policy has changed the query. */
  sent: Target | undefined
  answersOfTheWorld: string | undefined
  evaluationUs = 0
  ledgerVersion = -1
  feedAgeMs = -1
  revocation: number | undefined
  sending: Sending | undefined
  /** Once the upstream has switched. */
  tunnel: Tunnel | undefined
  allowed = false
  seq = 0
  before: Passage | undefined
  after: Passage | undefined
  linked = false
  expiresAtMs = Number.POSITIVE_INFINITY
  bytesIn = 0
  bytesOut = 0
  cutFor: Cut | undefined
  /** Why a later policy gave no usable answer. */
  problem: GateError | undefined
  /** Bytes both ways when somebody last looked for idleness, and since when they are the same. */
  idleBytes = 0
  idleSinceUs = this.startedAtUs

  constructor(rooms: Rooms, { req, res, upgrade }: Arrival) {
    this.rooms = rooms
    this.req = req
    this.res = res
    this.upgrade = upgrade
  }

  get hasBody(): boolean {
    const { chunked, contentLength } = this.headers!
    return chunked || contentLength > 0
  }

  get route(): string {
    return this.routed?.config.name ?? ''
  }

  get protocol(): 'http' | 'websocket' {
    return this.upgrade === undefined ? 'http' : 'websocket'
  }

  /** False as well once all of it has come and all of the answer is written: that is over, if not yet delivered. */
  get open(): boolean {
    const { req, res, tunnel } = this
    if (this.cutFor !== undefined) return false
    return tunnel?.open ?? (!res.destroyed && !(res.writableEnded && req.complete))
  }

  /** Called for each piece of a body, before it is passed on. */
  passed(bytesIn: number, bytesOut: number): void {
    this.bytesIn += bytesIn
    this.bytesOut += bytesOut
    const { bytes } = this.routed!.config.limits
    if (bytes > 0 && this.bytesIn + this.bytesOut > bytes)
      this.cut({ reason: 'bytes', sinceUs: monotonicUs() })
  }

  // --- What the relay asks and tells --------------------------------------------------------------------------

  answerHeaders(raw: readonly Buffer[] | readonly string[]): string[] {
    const cors = this.routed!.config.cors === undefined ? undefined : this.cors
    return responseHeaders(raw, cors, this.answerSet)
  }

  onHead(status: number): void {
    const { metrics } = this.rooms
    metrics.count('dropgate_requests_total', 'allowed')
    metrics.count('dropgate_upstream_responses_total', `${Math.floor(status / 100)}xx`)
  }

  onSwitched(raw: readonly Buffer[] | readonly string[], socket: Duplex): void {
    switchOver(this, raw, socket)
  }

  onFailed(error: GateError): void {
    refuse(this, error)
    // Where it was the answer that could not be passed on, the rest of it is not wanted either.
    this.sending?.abort(error)
  }

  onOver(): void {
    this.rooms.metrics.observe('dropgate_request_duration_seconds', sinceS(this.startedAtUs))
  }

  onUnread(): void {
    this.rooms.metrics.count('dropgate_unread_answers_total')
  }

  // ------------------------------------------------------------------------------------------------------------

  cut(cut: Cut): void {
    if (!this.open) return
    this.cutFor = cut
    const afterS = sinceS(cut.sinceUs)
    this.rooms.metrics.count('dropgate_cuts_total', cut.reason)
    if (cut.revocation !== undefined) this.rooms.onCut(cut.revocation)
    this.rooms.metrics.observe('dropgate_cut_delay_seconds', afterS)
    // The client first: aborting may report a failure at once, which must find nothing left to say.
    const asked = this.req.complete || this.upgrade !== undefined
    if (this.tunnel !== undefined) this.tunnel.cut(cut.reason)
    else if (cut.code !== undefined && asked && !this.res.headersSent) {
      const error = new GateError(cut.code)
      count(this, error)
      deny(this.res, error, { decisionId: this.id, req: this.req, cors: this.cors })
    } else breakOff(this.res)
    this.sending?.abort(new Error(`cut: ${cut.reason}`))
    recordEnd(this, cut.reason, afterS * 1000)
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
 * The one turn (design law 3): register, look up, evaluate, mark allowed. No await may enter this function:
 * a row that lands between the look-up and the registration would be missed.
 */
function decide(passage: Passage, principal: Principal | undefined): void {
  const { rooms, res, routed } = passage
  passage.principal = principal
  if (res.destroyed) return
  if (principal !== undefined && routed!.config.on_expiry === 'cut')
    passage.expiresAtMs = principal.expiresAtS * 1000 + principal.clockSkewMs
  rooms.live.add(passage)
  try {
    const stale = checkRevocations(passage, rooms.ledger, routed!)
    const answer = evaluate(passage, passage.startedAtMs, stale)
    if (!answer.allowed) {
      rooms.live.remove(passage)
      refuseByPolicy(passage, answer)
      return
    }
    rewriteQuery(passage, answer)
    passage.answerSet = answer.responseHeaders
    passage.allowed = true
    rooms.metrics.observe('dropgate_decision_duration_seconds', sinceS(passage.startedAtUs))
    record(passage, undefined, 0)
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
  const startedUs = monotonicUs()
  rooms.evaluating(policy.generation)
  const answer = policy.decide(passage.routed!.config.decision, input.text)
  rooms.evaluating(0)
  passage.evaluationUs = monotonicUs() - startedUs
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
  res.on('close', () => {
    rooms.live.remove(passage)
    if (res.writableFinished) recordLongEnd(passage, 'done')
    else {
      recordLongEnd(passage, passage.sending?.failed === true ? 'upstream' : 'client')
      passage.sending?.abort(new Error('the client is gone'))
    }
  })
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

/** The upstream says that it has switched: the client's connection switches too, or the exchange is refused. */
function switchOver(
  passage: Passage,
  raw: readonly Buffer[] | readonly string[],
  upstream: Duplex,
): void {
  const { rooms, upgrade, credential, headers, routed } = passage
  try {
    const kept = credential === undefined || routed!.config.forward.authorization === 'keep'
    const echo = kept ? undefined : protocolToEcho(headers!.pairs, credential)
    const head = switchingHead(
      raw,
      responseHeaders(raw, undefined, passage.answerSet),
      upgrade!.key,
      echo,
    )
    rooms.metrics.count('dropgate_requests_total', 'allowed')
    const client = upgrade!.take()
    client.write(head)
    passage.tunnel = new Tunnel({
      client,
      upstream,
      onBytes: (fromClient, toClient) => passage.passed(fromClient, toClient),
      onMalformed: () => passage.cut({ reason: 'protocol', sinceUs: monotonicUs() }),
      onOver: (ending) => {
        rooms.live.remove(passage)
        if (passage.cutFor === undefined) recordEnd(passage, ending, undefined)
      },
    })
    // A tunnel may live for days; what led to it need not.
    passage.sending = undefined
    passage.headers = undefined
    passage.target = undefined
    passage.answer = undefined
  } catch (error) {
    upstream.destroy()
    refuse(passage, error)
  }
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
  if (res.destroyed || passage.cutFor !== undefined) return
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
      timestamp: rfc3339(passage.startedAtMs),
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

/** What was open this long has its end recorded, however it came. */
const longMs = 1000

function recordLongEnd(passage: Passage, ending: string): void {
  if (passage.cutFor !== undefined) return
  if (sinceS(passage.startedAtUs) * 1000 >= longMs) recordEnd(passage, ending, undefined)
}

/** The end of an exchange that had been allowed, under the decision id it began with. */
function recordEnd(passage: Passage, ending: string, cutAfterMs: number | undefined): void {
  const { rooms, policy, principal, cutFor, answer } = passage
  const denied = cutFor?.reason === 'denied'
  rooms.log.push(
    writeRecord({
      labelsJson: rooms.labelsJson,
      decisionId: passage.id,
      bundle: policy?.stamp.bundle,
      revision: policy?.stamp.revision,
      path: passage.routed?.config.decision,
      inputJson: denied ? passage.input?.logged : undefined,
      resultJson: denied ? answer?.resultJson : undefined,
      erased: denied ? passage.input?.erased : undefined,
      timestamp: rfc3339(Date.now()),
      requestedBy: passage.address,
      code: undefined,
      reason: denied ? answer?.reason : undefined,
      status: 0,
      route: passage.route,
      worker: rooms.worker,
      revocation: cutFor?.revocation,
      issuer: principal?.issuer,
      subject: principal?.subject,
      end: {
        reason: ending,
        cutAfterMs,
        protocol: passage.protocol,
        bytesIn: passage.bytesIn,
        bytesOut: passage.bytesOut,
        openMs: sinceS(passage.startedAtUs) * 1000,
      },
      cause: passage.problem?.cause,
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
      timestamp: rfc3339(Date.now()),
      requestedBy: unread.remoteAddress,
      code: unread.error.code,
      status: unread.error.status,
      worker: rooms.worker,
    }),
  )
}
