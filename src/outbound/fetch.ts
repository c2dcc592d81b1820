/**
 * Room: outbound. In: URLs of key sets and discovery documents. Out: their text. Never does: follow a redirect,
 * accept a compressed response, exceed a byte limit or one deadline for everything, run while a request waits for it.
 */
import { Agent, request } from 'undici'
import { GateError } from '../errors.ts'

export interface FetchLimits {
  readonly maxBytes: number
  readonly timeoutMs: number
}

const agent = new Agent({ connections: 4, keepAliveTimeout: 1000, maxHeaderSize: 16 * 1024 })

/** Returns the body of a 200 response as text. @throws GateError ERR_OUTBOUND */
export async function fetchDocument(url: string, limits: FetchLimits): Promise<string> {
  const signal = AbortSignal.timeout(limits.timeoutMs)
  try {
    const answer = await request(url, {
      dispatcher: agent,
      signal,
      // undici does not follow redirects by default, and decodes no content coding that was not asked for.
      headers: { accept: 'application/json', 'accept-encoding': 'identity' },
    })
    const { statusCode, headers, body } = answer
    // A body that is destroyed early emits an 'error' event. Without a listener it would end the process.
    body.on('error', () => {})
    const coding = headers['content-encoding']
    if (statusCode !== 200 || (coding !== undefined && coding !== 'identity')) {
      body.destroy()
      throw fetchFailure(
        url,
        statusCode === 200 ? `content-encoding ${String(coding)}` : `status ${statusCode}`,
      )
    }
    const chunks: Buffer[] = []
    let size = 0
    for await (const chunk of body as AsyncIterable<Buffer>) {
      size += chunk.length
      if (size > limits.maxBytes) {
        body.destroy()
        throw fetchFailure(url, `the response has more than ${limits.maxBytes} bytes`)
      }
      chunks.push(chunk)
    }
    return Buffer.concat(chunks).toString('utf8')
  } catch (error) {
    if (error instanceof GateError) throw error
    const why = signal.aborted
      ? `no complete response within ${limits.timeoutMs} ms`
      : (error as Error).message
    throw fetchFailure(url, why, error)
  }
}

function fetchFailure(url: string, why: string, cause?: unknown): GateError {
  return new GateError('ERR_OUTBOUND', `${url}: ${why}`, {
    cause,
    hint: 'check the address, and that the network of the gate can reach it',
  })
}
