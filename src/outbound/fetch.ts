/**
 * Room: outbound. In: URLs of key sets and metadata. Out: their text. Never does: follow a redirect, accept a compressed
 * response, exceed a byte limit or one deadline for everything, send a header that it was not given, read a proxy from
 * the environment, run while a request waits for it.
 */
import { Agent, type Dispatcher, ProxyAgent, request as send } from 'undici'
import type { DocumentAnswer, DocumentRequest } from '../domain/document.ts'
import { hideInAddress } from '../domain/secrets.ts'
import { GateError } from '../errors.ts'
import { addressProblem, lookupIn } from './addresses.ts'
import { etagIn, freshMsIn } from './freshness.ts'

/** @throws GateError ERR_OUTBOUND for every answer but 200, 304, 404 and 410 */
export async function fetchDocument(
  url: string,
  request: DocumentRequest,
): Promise<DocumentAnswer> {
  const { timeoutMs, headers, etag } = request
  const signal = AbortSignal.timeout(timeoutMs)
  let dispatcher: Dispatcher | undefined
  try {
    dispatcher = dispatcherFor(new URL(url), request)
    const answer = await send(url, {
      dispatcher,
      signal,
      // undici does not follow redirects by default, and decodes no content coding that was not asked for.
      headers: {
        accept: 'application/json',
        ...headers,
        'accept-encoding': 'identity',
        ...(etag === undefined ? {} : { 'if-none-match': etag }),
      },
    })
    return await read(url, request, answer)
  } catch (error) {
    if (error instanceof GateError) throw error
    const { code, message } = error as NodeJS.ErrnoException
    // An error of several addresses at once has a code and no message.
    const why = signal.aborted
      ? `no complete response within ${timeoutMs} ms`
      : message || code || 'failed'
    throw fetchFailure(url, why, { cause: error, hint: authorityHint(code) })
  } finally {
    // Its connections end with it, also one that is still being made.
    dispatcher?.destroy().catch(() => {})
  }
}

/** One for each request: keys are fetched every few minutes. @throws GateError ERR_OUTBOUND */
function dispatcherFor(
  { protocol, hostname }: URL,
  { ca, proxy, httpNetworks = [], timeoutMs }: DocumentRequest,
): Dispatcher {
  const options = { maxHeaderSize: 16 * 1024, allowH2: false }
  const tls = { timeout: timeoutMs, ...(ca === undefined ? {} : { ca }) }
  if (protocol === 'https:') {
    if (proxy === undefined) return new Agent({ ...options, connect: tls })
    return new ProxyAgent({ ...options, uri: proxy, requestTls: tls, connectTimeout: timeoutMs })
  }
  const problem =
    proxy === undefined
      ? addressProblem(hostname, httpNetworks)
      : new GateError('ERR_OUTBOUND', 'only https is fetched through a proxy')
  if (problem !== undefined) throw problem
  return new Agent({ ...options, connect: { timeout: timeoutMs, lookup: lookupIn(httpNetworks) } })
}

async function read(
  url: string,
  { maxBytes, etag: sent }: DocumentRequest,
  { statusCode: status, headers, body }: Dispatcher.ResponseData,
): Promise<DocumentAnswer> {
  // A body that is destroyed early emits an 'error' event. Without a listener it would end the process.
  body.on('error', () => {})
  const told = {
    etag: etagIn(headers.etag),
    freshMs: freshMsIn(headers['cache-control'], headers.age),
  }
  const coding = headers['content-encoding']
  if (status !== 200 || (coding !== undefined && coding !== 'identity')) {
    body.destroy()
    if (status === 304 && sent !== undefined) return { kind: 'unchanged', ...told }
    if (status === 404 || status === 410) return { kind: 'absent', status }
    throw fetchFailure(
      url,
      status === 200 ? `content-encoding ${String(coding)}` : `status ${status}`,
    )
  }
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > maxBytes) {
      body.destroy()
      throw fetchFailure(url, `the response has more than ${maxBytes} bytes`)
    }
    chunks.push(chunk)
  }
  return { kind: 'text', text: Buffer.concat(chunks).toString('utf8'), ...told }
}

const unknownAuthority = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
])

function authorityHint(code: string | undefined): string | undefined {
  return code !== undefined && unknownAuthority.has(code)
    ? 'name the certificate authority of this server in issuers[].fetch.tls.ca'
    : undefined
}

function fetchFailure(
  url: string,
  why: string,
  { cause, hint }: { cause?: unknown; hint?: string | undefined } = {},
): GateError {
  return new GateError('ERR_OUTBOUND', `${hideInAddress(url)}: ${why}`, {
    cause,
    hint: hint ?? 'check the address, and that the network of the gate can reach it',
  })
}
