/**
 * One exchange: what is known of it, and every way it can end, each with its record in the decision log.
 *
 *   onHead … onOver           its answer is relayed (response/relay asks and tells)
 *   onSwitched                it goes on as a WebSocket (response/tunnel)
 *   refuse, refuseByPolicy    it was not let in, or its upstream gave no usable answer
 *   cut                       it was open and may not stay open (reevaluate.ts says when)
 *
 * How it is let in is in pipeline.ts.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { GateConfig } from '../config/options.ts'
import type { LogQueue } from '../decisionlog/queue.ts'
import { writeRecord } from '../decisionlog/record.ts'
import { monotonicUs, rfc3339 } from '../domain/clock.ts'
import type { Answer } from '../domain/decision.ts'
import type { Cut, OpenExchange } from '../domain/exchange.ts'
import type { Linked } from '../domain/linked.ts'
import type { Principal } from '../domain/principal.ts'
import { asGateError, GateError } from '../errors.ts'
import { type Credential, type CredentialSources, protocolToEcho } from '../identity/credential.ts'
import type { TokenVerifier } from '../identity/token.ts'
import type { RequestHeaders } from '../listener/headers.ts'
import type { Peer, Via } from '../listener/peer.ts'
import type { Upgrade } from '../listener/upgrade.ts'
import type { Metrics } from '../metrics.ts'
import type { ActivePolicy, PolicyEngine } from '../policy/engine.ts'
import { askedInput, type InputParts, type PolicyInput } from '../policy/input.ts'
import { deny } from '../response/deny.ts'
import type { LiveRegistry } from '../response/live.ts'
import { type Answered, breakOff } from '../response/relay.ts'
import { switchingHead, Tunnel } from '../response/tunnel.ts'
import type { LedgerView } from '../revocation/ledger.ts'
import type { Route, RouteTable } from '../route/table.ts'
import type { Target } from '../route/target.ts'
import type { Forwarding } from '../upstream/forward.ts'
import { responseHeaders, withoutLength } from '../upstream/headers.ts'
import type { Pools } from '../upstream/pools.ts'

/** What the walk reads, one value for each configuration: an exchange keeps the one it began with (design law 2). */
export interface WorkerContext {
  readonly config: GateConfig
  readonly routes: RouteTable
  readonly credentials: CredentialSources
  readonly verifier: TokenVerifier
  /** Undefined until the control thread has loaded the revocations. */
  readonly ledger: LedgerView | undefined
  readonly engine: PolicyEngine
  readonly pools: Pools
  readonly live: LiveRegistry<Exchange>
  readonly log: LogQueue
  readonly metrics: Metrics
  readonly worker: number
  readonly labelsJson: string
  /** More requests than the limit, or a thread that is behind: whoever comes now is turned away. */
  readonly overloaded: () => boolean
  /**
   * Evaluations alone have taken `limits.max_lag` since the loop last turned in time: none is begun until it has, since
   * what is open waits for it.
   */
  readonly exhausted: () => boolean
  /** An evaluation of this policy generation begins, so that a runaway is blamed rightly. */
  readonly evaluating: (generation: number) => void
  /** It is over. @returns µs since it began; 0 where none has. */
  readonly evaluated: () => number
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

const noHeaders: readonly string[] = []
/** What was open this long has its end recorded, however it came. */
const longMs = 1000

export class Exchange implements OpenExchange, Answered, Linked<Exchange> {
  readonly id = randomUUID()
  readonly startedAtUs = monotonicUs()
  readonly startedAtMs = Date.now()
  readonly context: WorkerContext
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly upgrade: Upgrade | undefined
  address: string | undefined
  certificate: string | undefined
  headers: RequestHeaders | undefined
  /** Of them what the policy sees and the upstream gets. */
  given: readonly string[] = noHeaders
  client: Peer | undefined
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
  ndBuiltinCache: string | undefined
  evaluationUs = 0
  ledgerVersion = -1
  feedAgeMs = -1
  revocation: number | undefined
  sending: Forwarding | undefined
  /** Once the upstream has switched. */
  tunnel: Tunnel | undefined
  seq = 0
  before: Exchange | undefined
  after: Exchange | undefined
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

  constructor(context: WorkerContext, { req, res, upgrade }: Arrival) {
    this.context = context
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

  answerHeaders(status: number, raw: readonly Buffer[] | readonly string[]): string[] {
    const cors = this.routed!.config.cors === undefined ? undefined : this.cors
    const headers = responseHeaders(raw, cors, this.answerSet)
    return status === 204 ? withoutLength(headers) : headers
  }

  onHead(status: number): void {
    const { metrics } = this.context
    metrics.count('dropgate_requests_total', 'allowed')
    metrics.count('dropgate_upstream_responses_total', `${Math.floor(status / 100)}xx`)
  }

  /** The upstream says that it has switched: the client's connection switches too, or the exchange is refused. */
  onSwitched(raw: readonly Buffer[] | readonly string[], upstream: Duplex): void {
    const { context, upgrade, credential, headers, routed } = this
    // Refused by a cut already; a tunnel that began now could not be cut again.
    if (this.cutFor !== undefined) {
      upstream.destroy()
      return
    }
    try {
      const kept = credential === undefined || routed!.config.forward.authorization === 'keep'
      const echo = kept ? undefined : protocolToEcho(headers!.pairs, credential)
      const head = switchingHead(
        raw,
        responseHeaders(raw, undefined, this.answerSet),
        upgrade!.key,
        echo,
      )
      context.metrics.count('dropgate_requests_total', 'allowed')
      const client = upgrade!.take()
      client.write(head)
      this.tunnel = new Tunnel({
        client,
        upstream,
        onBytes: (fromClient, toClient) => this.passed(fromClient, toClient),
        onMalformed: () => this.cut({ reason: 'protocol', sinceUs: monotonicUs() }),
        onOver: (ending) => {
          context.live.remove(this)
          if (this.cutFor === undefined) this.#recordEnd(ending, undefined)
        },
      })
      // A tunnel may live for days; what led to it need not.
      this.sending = undefined
      this.headers = undefined
      this.target = undefined
      this.answer = undefined
    } catch (error) {
      upstream.destroy()
      this.refuse(error)
    }
  }

  onFailed(error: GateError): void {
    this.refuse(error)
    // Where it was the answer that could not be passed on, the rest of it is not wanted either.
    this.sending?.abort(error)
  }

  onOver(): void {
    this.context.metrics.observe('dropgate_request_duration_seconds', sinceS(this.startedAtUs))
  }

  onUnread(): void {
    this.context.metrics.count('dropgate_unread_answers_total')
  }

  // --- Other ends ----------------------------------------------------------------------------------------------

  /** Answers with the code's status, or destroys what can no longer be answered. */
  refuse(thrown: unknown): void {
    const { res, req, routed } = this
    const error = asGateError(thrown)
    this.context.evaluated()
    if (res.destroyed || this.cutFor !== undefined) return
    this.#count(error)
    this.record(error, error.status)
    if (res.headersSent) {
      res.destroy()
      return
    }
    const { cors, id: decisionId } = this
    deny(res, error, { decisionId, req, cors, allow: routed?.config.methods })
  }

  /** The policy said no: its own words go out, where it has any. */
  refuseByPolicy(answer: Answer): void {
    const error = new GateError('ERR_POLICY_DENIED')
    this.#count(error)
    this.record(error, answer.status)
    deny(this.res, error, {
      decisionId: this.id,
      req: this.req,
      status: answer.status,
      headers: answer.headers,
      cors: this.cors,
      body: answer.body,
    })
  }

  cut(cut: Cut): void {
    if (!this.open) return
    this.cutFor = cut
    const afterS = sinceS(cut.sinceUs)
    this.context.metrics.count('dropgate_cuts_total', cut.reason)
    if (cut.revocation !== undefined) this.context.onCut(cut.revocation)
    this.context.metrics.observe('dropgate_cut_delay_seconds', afterS)
    // The client first: aborting may report a failure at once, which must find nothing left to say.
    const asked = this.req.complete || this.upgrade !== undefined
    if (this.tunnel !== undefined) this.tunnel.cut(cut.reason)
    else if (cut.code !== undefined && asked && !this.res.headersSent) {
      const error = new GateError(cut.code)
      this.#count(error)
      deny(this.res, error, { decisionId: this.id, req: this.req, cors: this.cors })
    } else breakOff(this.res)
    this.sending?.abort(new Error(`cut: ${cut.reason}`))
    this.#recordEnd(cut.reason, afterS * 1000)
  }

  /** Whatever became of the answer, nobody waits for any more of it. */
  onClosed(): void {
    this.context.live.remove(this)
    if (this.res.writableFinished) this.#recordLongEnd('done')
    else {
      this.#recordLongEnd(this.sending?.failed === true ? 'upstream' : 'client')
      this.sending?.abort(new Error('the client is gone'))
    }
  }

  // --- Records -------------------------------------------------------------------------------------------------

  #count(error: GateError): void {
    this.context.metrics.count('dropgate_requests_total', error.code)
  }

  /** One line of the decision log; `error` undefined means allowed. */
  record(error: GateError | undefined, status: number): void {
    const { context, policy, answer, principal } = this
    const input = this.input ?? this.#asked()
    context.log.push(
      writeRecord({
        labelsJson: context.labelsJson,
        decisionId: this.id,
        bundle: policy?.stamp.bundle,
        revision: policy?.stamp.revision,
        path: this.routed?.config.decision,
        inputJson: input.logged,
        resultJson: answer?.resultJson,
        erased: input.erased,
        masked: input.masked,
        ndBuiltinCache: this.ndBuiltinCache,
        metadataJson: answer?.metadataJson,
        sentTarget: this.sent?.wire,
        timestamp: rfc3339(this.startedAtMs),
        requestedBy: this.client?.address ?? this.req.socket.remoteAddress,
        code: error?.code,
        reason: answer?.reason,
        status,
        route: this.route,
        worker: context.worker,
        feedAgeMs: this.feedAgeMs,
        ledgerVersion: this.ledgerVersion,
        revocation: this.revocation,
        issuer: principal?.issuer,
        subject: principal?.subject,
        evaluationNs: Math.round(this.evaluationUs * 1000),
        decisionNs: Math.round((monotonicUs() - this.startedAtUs) * 1000),
        cause: error?.cause,
      }),
    )
  }

  /** Of a request that no policy has seen, or whose input has been written already. */
  #asked(): Pick<PolicyInput, 'logged' | 'erased' | 'masked'> {
    const { req, target, client } = this
    return askedInput({
      method: req.method ?? '',
      path: target?.wire ?? req.url ?? '',
      host: target?.authority,
      address: client?.address,
      port: client?.port,
    })
  }

  #recordLongEnd(ending: string): void {
    if (this.cutFor !== undefined) return
    if (sinceS(this.startedAtUs) * 1000 >= longMs) this.#recordEnd(ending, undefined)
  }

  /** The end of an exchange that had been allowed, under the decision id it began with. */
  #recordEnd(ending: string, cutAfterMs: number | undefined): void {
    const { context, policy, principal, cutFor, answer } = this
    const denied = cutFor?.reason === 'denied'
    context.log.push(
      writeRecord({
        labelsJson: context.labelsJson,
        decisionId: this.id,
        bundle: policy?.stamp.bundle,
        revision: policy?.stamp.revision,
        path: this.routed?.config.decision,
        inputJson: denied ? this.input?.logged : undefined,
        resultJson: denied ? answer?.resultJson : undefined,
        erased: denied ? this.input?.erased : undefined,
        masked: denied ? this.input?.masked : undefined,
        timestamp: rfc3339(Date.now()),
        requestedBy: this.address,
        code: undefined,
        reason: denied ? answer?.reason : undefined,
        status: 0,
        route: this.route,
        worker: context.worker,
        revocation: cutFor?.revocation,
        issuer: principal?.issuer,
        subject: principal?.subject,
        end: {
          reason: ending,
          cutAfterMs,
          protocol: this.protocol,
          bytesIn: this.bytesIn,
          bytesOut: this.bytesOut,
          openMs: sinceS(this.startedAtUs) * 1000,
        },
        cause: this.problem?.cause,
      }),
    )
  }
}

export function sinceS(startedAtUs: number): number {
  return (monotonicUs() - startedAtUs) / 1e6
}

/** What never became a request (malformed framing, a handshake we refuse): recorded, already answered. */
export interface Unread {
  readonly decisionId: string
  readonly error: GateError
  readonly remoteAddress: string | undefined
}

export function recordUnread(context: WorkerContext, unread: Unread): void {
  context.metrics.count('dropgate_requests_total', unread.error.code)
  context.log.push(
    writeRecord({
      labelsJson: context.labelsJson,
      decisionId: unread.decisionId,
      timestamp: rfc3339(Date.now()),
      requestedBy: unread.remoteAddress,
      code: unread.error.code,
      status: unread.error.status,
      worker: context.worker,
    }),
  )
}
