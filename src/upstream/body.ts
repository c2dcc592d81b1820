/**
 * The request's body on its way upstream. It is a stream of its own: when the upstream fails, undici destroys the body
 * that it was given, and that must not destroy the client's socket before the answer is sent. A body that breaks off is
 * destroyed with an error and never ended, so the upstream cannot take it as complete.
 */
import type { IncomingMessage } from 'node:http'
import { Transform, type TransformCallback } from 'node:stream'
import { GateError } from '../errors.ts'

class BodyStream extends Transform {
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
  /** Most bytes of a streamed body; 0 for no limit. After more, the stream fails with ERR_BODY_TOO_LARGE. */
  readonly body_bytes: number
  /**
   * Longest time in ms between two pieces that the upstream is waiting for; then the stream fails with
   * ERR_BODY_TIMEOUT. 0 for no limit.
   */
  readonly body_idle: number
}

/** @param onBytes Called for each piece, before it is passed on. */
export function requestBody(
  req: IncomingMessage,
  limits: BodyLimits,
  onBytes: (bytes: number) => void,
): Transform {
  const body = new BodyStream(limits.body_bytes, onBytes)
  // The code that sends the body handles this error. After it has finished, an 'error' event without a listener would
  // end the worker.
  body.on('error', () => {})
  if (limits.body_idle > 0) watchPace(req, body, limits.body_idle)
  req.once('close', () => {
    if (!req.complete) body.destroy(new Error('the client broke off'))
  })
  req.once('error', (error) => body.destroy(error))
  // undici removes its listener when the exchange ends in the same tick in which the client is lost; an 'error' event
  // without a listener would end the worker. The code that waits for the body still gets the error.
  body.on('error', () => {})
  // When the body is destroyed early (the upstream failed or has answered), the rest of the request stays unread.
  body.once('close', () => req.unpipe(body))
  return req.pipe(body)
}

/** Ends the body when the client is late with the next piece. If the upstream does not read, the client is not late. */
function watchPace(req: IncomingMessage, body: BodyStream, idleMs: number): void {
  const timer = setTimeout(() => {
    if (body.writableNeedDrain) timer.refresh()
    else body.destroy(new GateError('ERR_BODY_TIMEOUT'))
  }, idleMs)
  req.on('data', () => timer.refresh())
  req.once('end', () => clearTimeout(timer))
  body.once('close', () => clearTimeout(timer))
}
