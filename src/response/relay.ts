/**
 * Streams the upstream's answer to the client with backpressure, never whole in memory. A truncated answer
 * never looks complete: once the head is out, a failure destroys the socket instead of ending the message.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { GateError } from '../errors.ts'
import type { Flow, UpstreamAnswer } from '../upstream/forward.ts'

export interface RelayOptions {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  /** Raw upstream headers -> what the client gets; throws GateError ERR_UPSTREAM_MALFORMED. */
  readonly responseHeaders: (raw: readonly Buffer[] | readonly string[]) => string[]
  readonly onHead: (status: number) => void
  /** Called for each piece of the body, before it is passed on. */
  readonly onBytes: (bytes: number) => void
  /** The upstream switched protocols, which only a request that asked for it meets. */
  readonly onSwitched: (raw: readonly Buffer[] | readonly string[], socket: Duplex) => void
  /** The failure came before the head: the caller answers. */
  readonly onFailed: (error: GateError) => void
  /** Called once, when the exchange is over for the upstream; undefined when it ended well. */
  readonly onOver: (error: GateError | undefined) => void
  /** ms that a client may leave a waiting answer unread. */
  readonly readIdleMs: number
  /** It has left it unread for longer; the exchange is over. */
  readonly onUnread: () => void
}

export class Relay implements UpstreamAnswer {
  readonly #options: RelayOptions
  #flow: Flow | undefined
  #unread: NodeJS.Timeout | undefined

  constructor(options: RelayOptions) {
    this.#options = options
  }

  onHead(status: number, raw: readonly Buffer[] | readonly string[], flow: Flow): void {
    const { req, res, responseHeaders, onHead } = this.#options
    const headers = responseHeaders(raw)
    this.#flow = flow
    // The rest of a request body that the upstream did not wait for must not be read as the next request.
    if (!req.complete) res.shouldKeepAlive = false
    res.writeHead(status, headers)
    onHead(status)
  }

  onData(chunk: Buffer, flow: Flow): void {
    const { res, onBytes } = this.#options
    onBytes(chunk.length)
    if (res.destroyed || res.write(chunk)) return
    flow.pause()
    this.#unread = setTimeout(() => {
      this.#options.onUnread()
      res.destroy()
    }, this.#options.readIdleMs)
    res.once('drain', this.#resume)
    res.once('close', this.#forget)
  }

  onSwitched(raw: readonly Buffer[] | readonly string[], socket: Duplex): void {
    this.#options.onSwitched(raw, socket)
  }

  onEnd(): void {
    this.#options.res.end()
    this.#options.onOver(undefined)
  }

  onError(error: GateError): void {
    const { res, onFailed, onOver } = this.#options
    onOver(error)
    // A cut has answered already.
    if (res.writableEnded) return
    if (res.headersSent) breakOff(res)
    else onFailed(error)
  }

  readonly #resume = (): void => {
    this.#forget()
    this.#options.res.off('close', this.#forget)
    this.#flow?.resume()
  }

  readonly #forget = (): void => clearTimeout(this.#unread)
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
