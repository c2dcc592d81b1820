/**
 * Streams the upstream's answer to the client with backpressure, never whole in memory. A truncated answer
 * never looks complete: once the head is out, a failure destroys the socket instead of ending the message.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { GateError } from '../errors.ts'
import type { Flow, UpstreamAnswer } from '../upstream/forward.ts'

export interface RelayOptions {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  /** Raw upstream headers -> what the client gets; throws GateError ERR_UPSTREAM_MALFORMED. */
  readonly responseHeaders: (raw: readonly Buffer[] | readonly string[]) => string[]
  readonly onHead: (status: number) => void
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
    const { res } = this.#options
    if (res.write(chunk)) return
    flow.pause()
    this.#unread = setTimeout(() => {
      this.#options.onUnread()
      res.destroy()
    }, this.#options.readIdleMs)
    res.once('drain', this.#resume)
    res.once('close', this.#forget)
  }

  onEnd(): void {
    this.#options.res.end()
    this.#options.onOver(undefined)
  }

  onError(error: GateError): void {
    const { res, onFailed, onOver } = this.#options
    onOver(error)
    if (res.headersSent) res.destroy()
    else onFailed(error)
  }

  readonly #resume = (): void => {
    this.#forget()
    this.#options.res.off('close', this.#forget)
    this.#flow?.resume()
  }

  readonly #forget = (): void => clearTimeout(this.#unread)
}
