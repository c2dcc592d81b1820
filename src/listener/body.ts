/**
 * Reads a request body that the policy needs, as a whole before the decision, with a size limit and a deadline of its
 * own. All other bodies stay streams.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { GateError } from '../errors.ts'

export interface BodyLimits {
  readonly maxBytes: number
  readonly timeoutMs: number
}

/** @throws GateError ERR_BODY_TOO_LARGE, ERR_BODY_TIMEOUT; ERR_FRAMING where the request ends early */
export function collectBody(
  req: IncomingMessage,
  res: ServerResponse,
  limits: BodyLimits,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let bytes = 0
    const stop = (then: () => void): void => {
      clearTimeout(timer)
      req.off('data', onData).off('end', onEnd).off('error', onBroken)
      res.off('close', onBroken)
      then()
    }
    const onData = (chunk: Buffer): void => {
      bytes += chunk.length
      if (bytes > limits.maxBytes) fail(new GateError('ERR_BODY_TOO_LARGE'))
      else chunks.push(chunk)
    }
    const onEnd = (): void => stop(() => resolve(Buffer.concat(chunks, bytes)))
    const onBroken = (): void => fail(new GateError('ERR_FRAMING'))
    const fail = (error: GateError): void =>
      stop(() => {
        req.pause()
        reject(error)
      })
    const late = (): void => fail(new GateError('ERR_BODY_TIMEOUT'))
    const timer = limits.timeoutMs > 0 ? setTimeout(late, limits.timeoutMs) : undefined
    req.on('data', onData).on('end', onEnd).on('error', onBroken)
    // The client has gone, or the exchange was ended.
    res.on('close', onBroken)
  })
}
