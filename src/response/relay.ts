/**
 * Streams the upstream's answer to the client with backpressure, never whole in memory. A truncated answer
 * never looks complete: once the head is out, a failure destroys the socket instead of ending the message.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { atEndOfTurn } from '../domain/turn.ts'
import type { Flow, UpstreamAnswer } from '../domain/upstream-answer.ts'
import { asGateError, type GateError } from '../errors.ts'
import { linger } from './deny.ts'

/** The exchange whose answer it is. */
export interface Answered {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  /** Raw upstream headers -> what the client gets; throws GateError ERR_UPSTREAM_MALFORMED. */
  answerHeaders(status: number, raw: readonly Buffer[] | readonly string[]): string[]
  onHead(status: number): void
  /** Called for each piece of the body, before it is passed on. */
  passed(bytesIn: number, bytesOut: number): void
  /** The upstream switched protocols, which only a request that asked for it meets. */
  onSwitched(raw: readonly Buffer[] | readonly string[], socket: Duplex): void
  /** The failure came before the head: the caller answers. */
  onFailed(error: GateError): void
  /** Called once, when the exchange is over for the upstream. */
  onOver(): void
  /** The client has left a waiting answer unread for too long; the exchange is over. */
  onUnread(): void
}

const joinedBytes = 8192

export class Relay implements UpstreamAnswer {
  readonly #exchange: Answered
  readonly #readIdleMs: number
  #flow: Flow | undefined
  #unread: NodeJS.Timeout | undefined
  /** Until the end of the turn in which it came: till then the exchange can still be refused in words. */
  #head: { readonly status: number; readonly headers: string[] } | undefined
  #first: Buffer | undefined
  #ended = false

  /** @param readIdleMs How long a client may leave a waiting answer unread. */
  constructor(exchange: Answered, readIdleMs: number) {
    this.#exchange = exchange
    this.#readIdleMs = readIdleMs
  }

  onHead(status: number, raw: readonly Buffer[] | readonly string[], flow: Flow): void {
    this.#head = { status, headers: this.#exchange.answerHeaders(status, raw) }
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

  onEnd(): void {
    this.#ended = true
    if (this.#head === undefined) this.#end(undefined)
    this.#exchange.onOver()
  }

  /** Head, what has come of the body and, where it is over already, the end: in one write. */
  readonly #begin = (): void => {
    const { req, res } = this.#exchange
    const [head, first] = [this.#head, this.#first]
    this.#head = undefined
    this.#first = undefined
    // Begun already, or cut or failed meanwhile, and refused.
    if (head === undefined || res.headersSent || res.destroyed) return
    // The rest of a request body that the upstream did not wait for must not be read as the next request.
    if (!req.complete) {
      res.shouldKeepAlive = false
      linger(req)
    }
    try {
      res.writeHead(head.status, head.headers)
    } catch (error) {
      this.#exchange.onFailed(asGateError(error, 'ERR_UPSTREAM_MALFORMED'))
      return
    }
    this.#exchange.onHead(head.status)
    if (this.#ended) this.#end(first)
    else if (first !== undefined) this.#write(first)
    // Whoever waits for events waits for the head first.
    else res.flushHeaders()
  }

  #end(last: Buffer | undefined): void {
    const { res } = this.#exchange
    // As text it is written in one piece with the head; as bytes it would be a piece of its own.
    if (last !== undefined && last.length <= joinedBytes) res.end(last.toString('latin1'), 'latin1')
    else res.end(last)
  }

  #write(chunk: Buffer): void {
    const { res } = this.#exchange
    if (res.destroyed || res.writableEnded || res.write(chunk)) return
    // Pieces that were read already come through a pause; one timer waits for them all.
    if (this.#unread !== undefined) return
    this.#flow?.pause()
    this.#unread = setTimeout(() => {
      this.#exchange.onUnread()
      breakOff(res)
    }, this.#readIdleMs)
    res.once('drain', this.#resume)
    res.once('close', this.#forget)
  }

  onSwitched(raw: readonly Buffer[] | readonly string[], socket: Duplex): void {
    this.#exchange.onSwitched(raw, socket)
  }

  onError(error: GateError): void {
    const { res } = this.#exchange
    this.#exchange.onOver()
    // A cut has answered already.
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
    this.#unread = undefined
  }
}

/**
 * Ends an answer so that it never looks complete. To a client of HTTP/1.0 the end of the connection is the end of the
 * answer (RFC 9112 section 6.3): there it is reset.
 */
export function breakOff(res: ServerResponse): void {
  const { socket, req } = res
  // TLS says by itself that something is missing.
  const plain = socket !== null && !('encrypted' in socket)
  if (plain && req.httpVersionMinor === 0) socket.resetAndDestroy()
  else res.destroy()
}
