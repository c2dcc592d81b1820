/**
 * An exchange on HTTP/1.1 from the decision to its last byte. It can end in these ways, each with a record in the
 * decision log:
 *
 *   onHead … onOver   the answer was relayed (response/relay)
 *   onSwitched        it went on as a WebSocket (response/tunnel)
 *   refuse            its upstream gave no usable answer
 *   cut               it was open and may not stay open (reevaluate.ts decides when)
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { monotonicUs } from '../domain/clock.ts'
import type { Answer } from '../domain/decision.ts'
import type { Cut } from '../domain/exchange.ts'
import { GateError } from '../errors.ts'
import { protocolToEcho } from '../identity/credential.ts'
import { headerOf } from '../listener/headers.ts'
import { deny } from '../response/deny.ts'
import { breakOff, type RelayedExchange } from '../response/relay.ts'
import { switchingHead, Tunnel } from '../response/tunnel.ts'
import type { Forwarding } from '../upstream/forward.ts'
import {
  asksForTrailers,
  linksOf,
  responseHeaders,
  trailersOf,
  withoutLength,
} from '../upstream/headers.ts'
import { type PublicUrls, publicUrlsOf } from '../upstream/public-urls.ts'
import { recordEnd } from './events.ts'
import { type Exchange, sinceS } from './exchange.ts'
import type { Authorization, Decided, Identified, OpenExchange, Trace } from './stages.ts'

/** The end of an exchange that was open for longer than this is recorded. */
const longMs = 1000

export class OpenHttpExchange implements OpenExchange, RelayedExchange {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly identified: Identified
  readonly expiresAtMs: number
  decided: Decided | undefined
  seq = 0
  before: OpenExchange | undefined
  after: OpenExchange | undefined
  linked = false
  bytesIn = 0
  bytesOut = 0
  idleBytes = 0
  idleSinceUs: number
  readonly #exchange: Exchange
  /** Response headers that the policy set when it let the exchange in. A later policy does not change them. */
  #answerHeaders: Answer['responseHeaders'] = []
  #forwarding: Forwarding | undefined
  /** Set once the upstream has switched to WebSocket. */
  #tunnel: Tunnel | undefined
  #cutFor: Cut | undefined

  /** @param expiresAtMs Wall clock ms at which the token expires; Infinity when the route lets the exchange finish. */
  constructor(exchange: Exchange, identified: Identified, expiresAtMs: number) {
    this.#exchange = exchange
    this.req = exchange.req
    this.res = exchange.res
    this.identified = identified
    this.expiresAtMs = expiresAtMs
    this.idleSinceUs = exchange.startedAtUs
  }

  get id(): string {
    return this.#exchange.id
  }

  get startedAtUs(): number {
    return this.#exchange.startedAtUs
  }

  get address(): string {
    return this.identified.arrived.peer.address
  }

  get certificate(): string | undefined {
    return this.identified.arrived.peer.certificate
  }

  get principal(): Identified['principal'] {
    return this.identified.principal
  }

  get route(): string {
    return this.identified.arrived.route.config.name
  }

  get protocol(): 'http' | 'websocket' {
    return this.#exchange.upgrade === undefined ? 'http' : 'websocket'
  }

  get open(): boolean {
    const { req, res } = this
    if (this.#cutFor !== undefined) return false
    return this.#tunnel?.open ?? (!res.destroyed && !(res.writableEnded && req.complete))
  }

  /** Called when the decision allows the exchange. */
  onAllowed(decided: Decided): void {
    this.decided = decided
    this.#answerHeaders = decided.evaluation?.answer.responseHeaders ?? []
  }

  /** Called when the request is on its way upstream. */
  onSending(forwarding: Forwarding): void {
    this.#forwarding = forwarding
  }

  /** Called for each piece of a body, before the piece is passed on. */
  passed(bytesIn: number, bytesOut: number): void {
    this.bytesIn += bytesIn
    this.bytesOut += bytesOut
    const { bytes } = this.identified.arrived.route.config.limits
    if (bytes > 0 && this.bytesIn + this.bytesOut > bytes)
      this.cut({ reason: 'bytes', sinceUs: monotonicUs() })
  }

  // --- What the relay asks and tells --------------------------------------------------------------------------

  answerHeaders(status: number, raw: readonly Buffer[] | readonly string[]): string[] {
    const { cors } = this.identified.arrived.route.config
    const own = cors === undefined ? undefined : this.#exchange.trace.cors
    const plain = responseHeaders(raw, own, this.#answerHeaders, this.#publicUrls())
    const headers = withNonce(plain, this.#exchange.trace)
    return status === 204 ? withoutLength(headers) : headers
  }

  #publicUrls(): PublicUrls | undefined {
    const { route, target } = this.identified.arrived
    return publicUrlsOf(route, target.authority)
  }

  earlyLinks(raw: readonly Buffer[]): string[] {
    // Headers that the policy sets replace those of the upstream, so a hint could contradict them.
    if (this.#cutFor !== undefined || this.#answerHeaders.some(([name]) => name === 'link'))
      return []
    return linksOf(raw)
  }

  trailers(raw: readonly Buffer[]): [name: string, value: string][] {
    const { headers } = this.identified.arrived
    // RFC 9110 section 6.5.1: only for a client that says that it reads them.
    return asksForTrailers(headerOf(headers.pairs, 'te'))
      ? trailersOf(raw, this.#answerHeaders)
      : []
  }

  onHead(status: number): void {
    const { metrics } = this.#exchange.context
    metrics.count('dropgate_requests_total', 'allowed')
    metrics.count('dropgate_upstream_responses_total', `${Math.floor(status / 100)}xx`)
  }

  /** The upstream has switched to WebSocket. The client's connection is switched too, or the exchange is refused. */
  onSwitched(raw: readonly Buffer[] | readonly string[], upstream: Duplex): void {
    const { context, upgrade } = this.#exchange
    // A cut has already refused this exchange; a tunnel that began now could not be cut again.
    if (this.#cutFor !== undefined) {
      upstream.destroy()
      return
    }
    try {
      const { credential, headers, route } = this.identified.arrived
      const kept = credential === undefined || route.config.forward.authorization === 'keep'
      const echo = kept ? undefined : protocolToEcho(headers.pairs, credential)
      const plain = responseHeaders(raw, undefined, this.#answerHeaders, this.#publicUrls())
      const answer = withNonce(plain, this.#exchange.trace)
      const head = switchingHead(raw, answer, upgrade!.key, echo)
      context.metrics.count('dropgate_requests_total', 'allowed')
      const client = upgrade!.take()
      client.write(head)
      this.#tunnel = new Tunnel({
        client,
        upstream,
        onBytes: (fromClient, toClient) => this.passed(fromClient, toClient),
        onMalformed: () => this.cut({ reason: 'protocol', sinceUs: monotonicUs() }),
        onOver: (ending) => {
          context.live.remove(this)
          if (this.#cutFor === undefined) this.#recordEnd(ending)
        },
      })
      // Free the handshake's request: a tunnel may live for days.
      this.#forwarding = undefined
      this.decided = { ...this.decided!, evaluation: undefined }
    } catch (error) {
      upstream.destroy()
      this.refuse(error)
    }
  }

  onFailed(error: GateError): void {
    this.refuse(error)
    // The answer could not be passed on, so the rest of it is not needed.
    this.#forwarding?.abort(error)
  }

  onOver(): void {
    this.#exchange.context.metrics.observe(
      'dropgate_request_duration_seconds',
      sinceS(this.startedAtUs),
    )
  }

  onUnread(): void {
    this.#exchange.context.metrics.count('dropgate_unread_answers_total')
  }

  // --- Other ways to end ----------------------------------------------------------------------------------------------

  /**
   * The exchange was allowed, but its upstream gave no usable answer. Does nothing after a cut, which has answered
   * already.
   */
  refuse(thrown: unknown): void {
    if (this.#cutFor !== undefined) return
    const { identified, decided } = this
    this.#exchange.refuse(thrown, { identified, decided })
  }

  cut(cut: Cut, denial?: Authorization): void {
    if (!this.open) return
    this.#cutFor = cut
    const { context, req, res, upgrade, id, trace } = this.#exchange
    const afterS = sinceS(cut.sinceUs)
    context.metrics.count('dropgate_cuts_total', cut.reason)
    if (cut.revocation !== undefined) context.onCut(cut.revocation)
    context.metrics.observe('dropgate_cut_delay_seconds', afterS)
    // Answer the client before aborting: `abort` may report a failure at once, which must not become the answer.
    const asked = req.complete || upgrade !== undefined
    if (this.#tunnel !== undefined) this.#tunnel.cut(cut.reason)
    else if (cut.code !== undefined && asked && !res.headersSent) {
      const error = new GateError(cut.code)
      context.metrics.count('dropgate_requests_total', error.code)
      const { cors, scheme, nonce } = trace
      deny(res, error, { decisionId: id, req, cors, scheme, nonce })
    } else breakOff(res)
    this.#forwarding?.abort(new Error(`cut: ${cut.reason}`))
    this.#recordEnd(cut.reason, afterS * 1000, cut, denial)
  }

  /** The response stream is closed: all of the answer is written, or the client has gone. */
  onClosed(): void {
    this.#exchange.context.live.remove(this)
    if (this.res.writableFinished) this.#recordLongEnd('done')
    else {
      this.#recordLongEnd(this.#forwarding?.failed === true ? 'upstream' : 'client')
      this.#forwarding?.abort(new Error('the client is gone'))
    }
  }

  #recordLongEnd(reason: string): void {
    if (this.#cutFor !== undefined) return
    if (sinceS(this.startedAtUs) * 1000 >= longMs) this.#recordEnd(reason)
  }

  #recordEnd(reason: string, cutAfterMs?: number, cut?: Cut, denial?: Authorization): void {
    const { identified, decided, protocol, bytesIn, bytesOut } = this
    const { revocation, cause } = cut ?? {}
    const end = { reason, cutAfterMs, protocol, bytesIn, bytesOut, revocation, cause }
    recordEnd(this.#exchange, { identified, decided }, end, denial)
  }
}

/** Gives the client the nonce for its next proof (RFC 9449 section 8.2), in place of one of the upstream. */
function withNonce(headers: string[], { nonce }: Trace): string[] {
  if (nonce === undefined) return headers
  const out = ['dpop-nonce', nonce]
  for (let i = 0; i < headers.length; i += 2)
    if (headers[i]!.toLowerCase() !== 'dpop-nonce') out.push(headers[i]!, headers[i + 1]!)
  return out
}
