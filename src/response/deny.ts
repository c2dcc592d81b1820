/**
 * Writes the answer to a refused request: RFC 9457 problem details with the error code and the decision id, never a
 * cause. If the request body is still arriving, the connection is closed after the answer, so that the rest of the
 * body is not read as the next request.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { isCors } from '../domain/cors.ts'
import { destroyAfter } from '../domain/destroy-after.ts'
import { methods } from '../domain/http.ts'
import { problemOf } from '../domain/problem.ts'
import { proofAlgorithms } from '../domain/proof.ts'
import type { Code, GateError } from '../errors.ts'
import { closeLastBy } from '../node-quirks.ts'

export interface Denial {
  readonly decisionId: string
  readonly req: IncomingMessage
  /** True when the request had no credential. */
  readonly anonymous?: boolean
  /** Methods of the route, for the `Allow` header of a 405. */
  readonly allow?: readonly string[] | undefined
  /** Status (here) and body (below) that the policy chose for its denial. */
  readonly status?: number
  readonly headers?: readonly (readonly [name: string, value: string])[]
  /** Cross-origin headers (flat list of names and values), so that a web page may read why its request was refused. */
  readonly cors?: readonly string[]
  /** Scheme of the challenge of a 401. */
  readonly scheme?: 'Bearer' | 'DPoP'
  /** Nonce for the next proof of the client. */
  readonly nonce?: string | undefined
  readonly body?: string | undefined
}

export function deny(res: ServerResponse, error: GateError, denial: Denial): void {
  const { decisionId, req } = denial
  const status = denial.status ?? error.status
  const headers: string[] = ['cache-control', 'no-store', 'x-dropgate-decision-id', decisionId]
  if (denial.cors !== undefined) headers.push(...denial.cors)
  if (denial.nonce !== undefined) headers.push('dpop-nonce', denial.nonce)
  const { body: own } = denial
  const body = own ?? problemOf(error, decisionId, status)
  let typed = false
  let challenged = false
  for (const [name, value] of denial.headers ?? []) {
    if (name === 'cache-control' || (denial.cors?.length && isCors(name))) continue
    if (name === 'content-type') typed = true
    if (name === 'www-authenticate') challenged = true
    headers.push(name, value)
  }
  if (!typed)
    headers.push(
      'content-type',
      own === undefined ? 'application/problem+json' : 'text/plain; charset=utf-8',
    )
  headers.push('content-length', String(Buffer.byteLength(body)))
  if (status === 401 && !challenged) headers.push('www-authenticate', challengeOf(error, denial))
  if (status === 405) headers.push('allow', (denial.allow ?? methods).join(', '))
  if (error.retryAfterS !== undefined) headers.push('retry-after', String(error.retryAfterS))
  const pending = bodyPending(req)
  if (framingInDoubt(error) || pending) res.shouldKeepAlive = false
  if (pending) linger(req)
  res.writeHead(status, headers)
  res.end(req.method === 'HEAD' ? undefined : body)
}

const lingerMs = 2000

/**
 * Keeps reading and discarding what the client still sends for a while after the last answer. Closing at once would
 * reset the connection, and the client could lose the answer (RFC 9112 section 9.6).
 */
export function linger(req: IncomingMessage): void {
  const { socket } = req
  closeLastBy(socket, (destroySoon) => {
    if (req.complete) {
      destroySoon()
      return
    }
    socket.end()
    req.resume()
    destroyAfter(socket, lingerMs)
  })
}

/** Answers a CORS preflight request that the rules allow; the answer has no body. */
export function answerPreflight(
  res: ServerResponse,
  headers: readonly string[],
  { decisionId, req }: Pick<Denial, 'decisionId' | 'req'>,
): void {
  if (bodyPending(req)) res.shouldKeepAlive = false
  res.writeHead(204, ['x-dropgate-decision-id', decisionId, ...headers])
  res.end()
}

/**
 * Builds the `WWW-Authenticate` header (RFC 6750 section 3, RFC 9449 section 7.1). It names no error if the request had no
 * credential, also where a policy answers 401 to an anonymous request.
 */
function challengeOf({ code }: GateError, { anonymous, scheme }: Denial): string {
  if (anonymous || code === 'ERR_CREDENTIAL_MISSING') return 'Bearer'
  if (scheme !== 'DPoP') return 'Bearer error="invalid_token"'
  return `DPoP error="${proofErrors[code] ?? 'invalid_token'}", algs="${proofAlgorithms.join(' ')}"`
}

/** What these codes are called in RFC 9449 sections 7.1 and 9. */
const proofErrors: Partial<Record<Code, string>> = {
  ERR_PROOF_INVALID: 'invalid_dpop_proof',
  ERR_PROOF_REPLAYED: 'invalid_dpop_proof',
  ERR_PROOF_NONCE: 'use_dpop_nonce',
}

function framingInDoubt(error: GateError): boolean {
  const { status } = error
  return status === 400 || status === 414 || status === 417 || status === 431 || status === 501
}

function bodyPending(req: IncomingMessage): boolean {
  const { 'content-length': length, 'transfer-encoding': coding } = req.headers
  return (coding !== undefined || (length !== undefined && length !== '0')) && !req.complete
}
