/**
 * The request's body on its way upstream. A stream of its own, so that an upstream failure (undici destroys the
 * body it was given) does not take the client's socket, and its answer, with it. A body that breaks off is
 * destroyed with an error, never ended: the upstream must not see it as complete.
 */
import type { IncomingMessage } from 'node:http'
import { Transform, type TransformCallback } from 'node:stream'
import { GateError } from '../errors.ts'

class Body extends Transform {
  readonly #maxBytes: number
  readonly #onBytes: (bytes: number) => void
  #bytes = 0

  constructor(maxBytes: number, onBytes: (bytes: number) => void) {
    super()
    this.#maxBytes = maxBytes
    this.#onBytes = onBytes
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#bytes += chunk.length
    this.#onBytes(chunk.length)
    if (this.#maxBytes > 0 && this.#bytes > this.#maxBytes)
      done(new GateError('ERR_BODY_TOO_LARGE'))
    else done(null, chunk)
  }
}

export interface BodyLimits {
  /** Cap on the streamed bytes; 0 for none. Past it the stream fails with ERR_BODY_TOO_LARGE. */
  readonly body_bytes: number
  /** ms between two pieces that the upstream is waiting for; past them it fails with ERR_BODY_TIMEOUT. */
  readonly body_idle: number
}

/** @param onBytes Called for each piece, before it is passed on. */
export function requestBody(
  req: IncomingMessage,
  limits: BodyLimits,
  onBytes: (bytes: number) => void,
): Transform {
  const body = new Body(limits.body_bytes, onBytes)
  const timer = setTimeout(() => {
    // An upstream that does not read is no fault of the client's.
    if (body.writableNeedDrain) timer.refresh()
    else body.destroy(new GateError('ERR_BODY_TIMEOUT'))
  }, limits.body_idle)
  req.on('data', () => timer.refresh())
  req.once('end', () => clearTimeout(timer))
  body.once('close', () => clearTimeout(timer))
  req.once('close', () => {
    if (!req.complete) body.destroy(new Error('the client broke off'))
  })
  req.once('error', (error) => body.destroy(error))
  // undici has taken its listener away where the exchange ended in the same tick in which the client was lost; without
  // one the worker would end. Nobody misses the error: whoever still waits for the body hears of it there.
  body.on('error', () => {})
  // Whoever destroys the body early (an upstream that failed or answered) leaves the rest unread here.
  body.once('close', () => req.unpipe(body))
  return req.pipe(body)
}
