/**
 * Streams the response of the upstream to the client with backpressure, never whole in memory. A truncated response
 * must not look complete: after its headers are sent, a failure destroys the socket instead of ending the message.
 */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { atEndOfTurn } from '../domain/turn.ts'
import type { Flow, UpstreamAnswer } from '../domain/upstream-answer.ts'
import { asGateError, type GateError } from '../errors.ts'
import { linger } from './deny.ts'

/** Callbacks and streams of the exchange whose response is relayed. */
export interface RelayedExchange {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  /** Turns raw upstream headers into those for the client. @throws GateError ERR_UPSTREAM_MALFORMED */
  answerHeaders(status: number, raw: readonly Buffer[] | readonly string[]): string[]
  /** Returns the values of `Link` to pass on before the response. */
  earlyLinks(raw: readonly Buffer[]): string[]
  /** Returns the trailers for the client, as names with values. */
  trailers(raw: readonly Buffer[]): [name: string, value: string][]
  onHead(status: number): void
  /** Called for each piece of the body before it is passed on. */
  passed(bytesIn: number, bytesOut: number): void
  /** Called when the upstream switched protocols; this happens only if the request asked for it. */
  onSwitched(raw: readonly Buffer[] | readonly string[], socket: Duplex): void
  /** Called when a failure came before the response headers were sent: the exchange must answer the client. */
  onFailed(error: GateError): void
  /** Called once, when the exchange with the upstream is over. */
  onOver(): void
  /** Called when the client has left response data unread for too long; the exchange is then over. */
  onUnread(): void
}

const joinedBytes = 8192

export class Relay implements UpstreamAnswer {
  readonly #exchange: RelayedExchange
  readonly #readIdleMs: number
  #flow: Flow | undefined
  #unread: NodeJS.Timeout | undefined
  /** The upstream waits for the client to read. */
  #held = false
  /**
   * Response headers that arrived in this turn of the event loop. They are sent at its end; until then the exchange
   * can still be refused with an error response.
   */
  #head:
    | { readonly status: number; readonly reason: string; readonly headers: string[] }
    | undefined
  #first: Buffer | undefined
  #ended = false

  /** @param readIdleMs How long a client may leave response data unread; 0 for no limit. */
  constructor(exchange: RelayedExchange, readIdleMs: number) {
    this.#exchange = exchange
    this.#readIdleMs = readIdleMs
  }

  onEarlyHints(raw: readonly Buffer[]): void {
    const { req, res } = this.#exchange
    // HTTP/1.0 knows no interim answers (RFC 9110 section 15.2).
    if (req.httpVersionMinor === 0 || res.headersSent || res.destroyed) return
    const link = this.#exchange.earlyLinks(raw)
    if (link.length === 0) return
    try {
      res.writeEarlyHints({ link })
    } catch {
      // Node does not take this value for a link. A hint may be left out: the answer that follows has its own headers.
    }
  }

  onHead(
    status: number,
    raw: readonly Buffer[] | readonly string[],
    flow: Flow,
    reason: string,
  ): void {
    this.#head = { status, reason, headers: this.#exchange.answerHeaders(status, raw) }
    this.#flow = flow
    atEndOfTurn(this.#begin)
  }

  onData(chunk: Buffer): void {
    this.#exchange.passed(0, chunk.length)
    if (this.#head !== undefined && this.#first === undefined) this.#first = chunk
    else {
      this.#begin()
      this.#write(chunk)
    }
  }

  onEnd(rawTrailers: readonly Buffer[]): void {
    this.#ended = true
    const trailers = rawTrailers.length === 0 ? [] : this.#exchange.trailers(rawTrailers)
    // Node sends them only after chunks: an answer with a length has none (RFC 9112 section 7.1.2).
    if (trailers.length > 0) this.#exchange.res.addTrailers(trailers)
    if (this.#head === undefined) this.#end(undefined)
    this.#exchange.onOver()
  }

  /** Sends the headers, the part of the body that has arrived, and the end if it has arrived, in one write. */
  readonly #begin = (): void => {
    const { req, res } = this.#exchange
    const [head, first] = [this.#head, this.#first]
    this.#head = undefined
    this.#first = undefined
    // Nothing to do: the response was begun already, or the exchange was cut or failed and an error was sent.
    if (head === undefined || res.headersSent || res.destroyed) return
    // If the request body is incomplete, its rest must not be read as the next request: close the connection.
    if (!req.complete) {
      res.shouldKeepAlive = false
      linger(req)
    }
    try {
      res.writeHead(head.status, reasonOf(head), head.headers)
    } catch (error) {
      this.#exchange.onFailed(asGateError(error, 'ERR_UPSTREAM_MALFORMED'))
      return
    }
    this.#exchange.onHead(head.status)
    if (this.#ended) this.#end(first)
    else if (first !== undefined) this.#write(first)
    // Send the headers at once: a client that waits for server-sent events waits for the headers first.
    else res.flushHeaders()
  }

  #end(last: Buffer | undefined): void {
    const { res } = this.#exchange
    // Node writes a text together with the headers; bytes would be a write of their own.
    if (last !== undefined && last.length <= joinedBytes) res.end(last.toString('latin1'), 'latin1')
    else res.end(last)
  }

  #write(chunk: Buffer): void {
    const { res } = this.#exchange
    if (res.destroyed || res.writableEnded || res.write(chunk)) return
    // More pieces may arrive although the upstream is paused. One timer covers all of them.
    if (this.#held) return
    this.#flow?.pause()
    if (this.#readIdleMs > 0)
      this.#unread = setTimeout(() => {
        this.#exchange.onUnread()
        breakOff(res)
      }, this.#readIdleMs)
    this.#held = true
    res.once('drain', this.#resume)
    res.once('close', this.#forget)
  }

  onSwitched(raw: readonly Buffer[] | readonly string[], socket: Duplex): void {
    this.#exchange.onSwitched(raw, socket)
  }

  onError(error: GateError): void {
    const { res } = this.#exchange
    this.#exchange.onOver()
    // A cut has already sent its error response.
    if (res.writableEnded) return
    if (res.headersSent) breakOff(res)
    else this.#exchange.onFailed(error)
  }

  readonly #resume = (): void => {
    this.#forget()
    this.#exchange.res.off('close', this.#forget)
    this.#flow?.resume()
  }

  readonly #forget = (): void => {
    clearTimeout(this.#unread)
    this.#held = false
  }
}

const plainReason = /^[\t\x20-\x7e]{1,256}$/

/** The upstream's own words; the standard ones where it has none, or bytes that clients read differently. */
function reasonOf({ status, reason }: { status: number; reason: string }): string {
  return plainReason.test(reason) ? reason : (STATUS_CODES[status] ?? 'unknown')
}

/**
 * Breaks a response off so that it does not look complete. For an HTTP/1.0 client, the end of the connection is the
 * end of the response (RFC 9112 section 6.3), so its connection is reset.
 */
export function breakOff(res: ServerResponse): void {
  const { socket, req } = res
  // A TLS connection without a closing alert shows the client by itself that data is missing.
  const plain = socket !== null && !('encrypted' in socket)
  if (plain && req.httpVersionMinor === 0) socket.resetAndDestroy()
  else res.destroy()
}
