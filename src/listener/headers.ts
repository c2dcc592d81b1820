/**
 * Reads the request's headers from what came over the wire (`rawHeaders`), never from Node's merged view, which hides
 * repeated headers. Headers that a later hop could read differently are refused.
 */
import { isUtf8 } from 'node:buffer'
import type { IncomingMessage } from 'node:http'
import { davMethods, foldedName, methods, obsText, valueCharacters } from '../domain/http.ts'
import type { RequestHeaders } from '../domain/request-headers.ts'
import { GateError } from '../errors.ts'

export interface HeaderLimits {
  readonly headers: number
  readonly header_bytes: number
  readonly header_value_bytes: number
  readonly cookies: number
}

const knownMethods: ReadonlySet<string> = new Set([...methods, ...davMethods])
const usualMethods: ReadonlySet<string> = new Set(methods)

/** @throws GateError ERR_METHOD_UNKNOWN, ERR_METHOD_NOT_ALLOWED */
export function parseMethod(method: string | undefined): string {
  if (method !== undefined && knownMethods.has(method)) return method
  throw new GateError(
    method === 'CONNECT' || method === 'TRACE' ? 'ERR_METHOD_NOT_ALLOWED' : 'ERR_METHOD_UNKNOWN',
  )
}

/** @throws GateError ERR_METHOD_NOT_ALLOWED, ERR_METHOD_UNKNOWN when the route does not accept the method. */
export function checkMethod(method: string, accepted: readonly string[] | undefined): void {
  if (accepted === undefined ? usualMethods.has(method) : accepted.includes(method)) return
  throw new GateError(usualMethods.has(method) ? 'ERR_METHOD_NOT_ALLOWED' : 'ERR_METHOD_UNKNOWN')
}

/**
 * Fewer characters than a token may hold (RFC 9110 section 5.6.2): CGI-like upstreams turn every other character into
 * `_`, so a client could send a second spelling of a header name that the gate sets.
 */
const goodName = /^[0-9a-z-]+$/
/** No bytes above 0x7f (obs-text), which RFC 9110 allows: regular expressions and upstreams decode them differently. */
const goodValue = new RegExp(`^[${valueCharacters}]*$`)
const anyValue = new RegExp(`^[${valueCharacters}${obsText}]*$`)

/**
 * Headers that are refused when they occur twice, on every route; `host` and `authorization` have their own codes
 * below.
 */
const single = new Set([
  'access-control-request-method',
  'content-length',
  'content-type',
  'destination',
  'dpop',
  'expect',
  'host',
  'origin',
  'proxy-authorization',
  'transfer-encoding',
  'upgrade',
  'x-forwarded-method',
  'x-forwarded-uri',
])

/** Headers that are lists: sending them twice is the same as joining them (RFC 9110 section 5.3). */
const lists = new Set([
  'accept',
  'accept-charset',
  'accept-encoding',
  'accept-language',
  'access-control-request-headers',
  'baggage',
  'cache-control',
  'connection',
  'content-encoding',
  'content-language',
  'cookie',
  'forwarded',
  'if-match',
  'if-none-match',
  'link',
  'pragma',
  'prefer',
  'sec-websocket-extensions',
  'sec-websocket-protocol',
  'te',
  'trailer',
  'tracestate',
  'via',
  'warning',
  'x-forwarded-for',
])

/**
 * Header names that a client may not list in `Connection`, in any spelling: a later hop would remove a header that the
 * decision was based on.
 */
const protectedName =
  /^(?:host|authorization|dpop|cookie|client-cert|origin|expect|content-.*|transfer-encoding|x-real-ip|x-(?:dropgate|forwarded|original|envoy)-.*|forwarded|proxy-.*)$/

const none: readonly string[] = []

/** @throws GateError ERR_HEADERS_TOO_LARGE, ERR_HEADER_*, ERR_CREDENTIAL_REPEATED, ERR_CREDENTIAL_BOUND, ERR_HOST_MALFORMED, ERR_FRAMING, ERR_TRANSFER_CODING, ERR_EXPECTATION */
export function parseHeaders(
  req: Pick<IncomingMessage, 'rawHeaders' | 'httpVersionMajor' | 'httpVersionMinor'>,
  limits: HeaderLimits,
): RequestHeaders {
  const raw = req.rawHeaders
  if (raw.length / 2 > limits.headers) throw new GateError('ERR_HEADERS_TOO_LARGE')
  const pairs: string[] = new Array(raw.length)
  let host: string | undefined
  let contentLength = -1
  let coding: string | undefined
  let expect: string | undefined
  let connectionNames = none
  let repeated: string | undefined
  let nonAscii: string | undefined
  let bytes = 0
  let cookies = 0
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!.toLowerCase()
    const value = raw[i + 1]!
    bytes += name.length + value.length + 4
    if (!goodName.test(name)) throw new GateError('ERR_HEADER_MALFORMED')
    if (!goodValue.test(value)) nonAscii = checkBytes(name, value) ?? nonAscii
    if (value.length > limits.header_value_bytes) throw new GateError('ERR_HEADERS_TOO_LARGE')
    for (let k = 0; k < i; k += 2) {
      if (pairs[k] !== name) continue
      if (name === 'host') throw new GateError('ERR_HOST_MALFORMED')
      if (name === 'authorization') throw new GateError('ERR_CREDENTIAL_REPEATED')
      if (single.has(name) || name.startsWith('x-dropgate-'))
        throw new GateError('ERR_HEADER_REPEATED')
      if (!lists.has(name)) repeated = name
    }
    pairs[i] = name
    pairs[i + 1] = value
    if (name === 'host') host = value
    else if (name === 'content-length') contentLength = parseContentLength(value)
    else if (name === 'transfer-encoding') coding = value
    else if (name === 'expect') expect = value
    else if (name === 'connection')
      connectionNames = [...connectionNames, ...parseConnection(value)]
    else if (name === 'cookie') cookies += countCookies(value)
    else if (name === 'authorization') refuseBound(value)
  }
  if (bytes > limits.header_bytes || cookies > limits.cookies)
    throw new GateError('ERR_HEADERS_TOO_LARGE')
  const { httpVersionMajor, httpVersionMinor } = req
  if (httpVersionMajor !== 1 || httpVersionMinor > 1) throw new GateError('ERR_FRAMING')
  if (host === undefined || host === '') throw new GateError('ERR_HOST_MALFORMED')
  if (coding !== undefined) {
    if (httpVersionMinor !== 1 || contentLength !== -1) throw new GateError('ERR_FRAMING')
    if (coding.toLowerCase() !== 'chunked') throw new GateError('ERR_TRANSFER_CODING')
  }
  // HTTP/1.0 knows no expectations; they are ignored there (RFC 9110 section 10.1.1).
  const expects = expect !== undefined && httpVersionMinor === 1
  if (expects && expect!.toLowerCase() !== '100-continue') throw new GateError('ERR_EXPECTATION')
  return {
    pairs,
    host,
    contentLength,
    chunked: coding !== undefined,
    expectContinue: expects,
    connectionNames,
    repeated,
    nonAscii,
  }
}

/** Headers whose values the gate or the other end splits and compares, beside `single` and `lists`. */
const ascii = /^(?:authorization|access-control-.*|forwarded|sec-.*|x-dropgate-.*|x-forwarded-.*)$/

/**
 * Looks at a value with other bytes than visible ASCII. Browsers send cookies in UTF-8, since pages set them so.
 * @returns the name, if only some routes accept such a value of it. @throws GateError ERR_HEADER_MALFORMED
 */
function checkBytes(name: string, value: string): string | undefined {
  if (!anyValue.test(value)) throw new GateError('ERR_HEADER_MALFORMED')
  if (name === 'cookie' && isUtf8(Buffer.from(value, 'latin1'))) return undefined
  if (name !== 'cookie' && (single.has(name) || lists.has(name) || ascii.test(name)))
    throw new GateError('ERR_HEADER_MALFORMED')
  return name
}

/** The header's value, joined when it is a list; undefined when it is absent. */
export function headerValue(headers: RequestHeaders, name: string): string | undefined {
  const { pairs } = headers
  let value: string | undefined
  for (let i = 0; i < pairs.length; i += 2) {
    if (pairs[i] === name)
      value = value === undefined ? pairs[i + 1]! : `${value}, ${pairs[i + 1]!}`
  }
  return value
}

/**
 * @throws GateError ERR_HEADER_REPEATED when a header occurs twice, ERR_HEADER_MALFORMED when one has bytes above 0x7F;
 * each unless the route accepts it.
 */
export function checkHeaders(
  headers: RequestHeaders,
  route: {
    readonly repeated_headers: 'refuse' | 'join'
    readonly non_ascii_headers: 'refuse' | 'pass'
  },
): void {
  if (headers.nonAscii !== undefined && route.non_ascii_headers === 'refuse')
    throw new GateError('ERR_HEADER_MALFORMED')
  if (headers.repeated !== undefined && route.repeated_headers === 'refuse') {
    throw new GateError('ERR_HEADER_REPEATED')
  }
}

function parseContentLength(value: string): number {
  const length = Number(value)
  if (!/^[0-9]{1,16}$/.test(value) || !Number.isSafeInteger(length))
    throw new GateError('ERR_FRAMING')
  return length
}

function countCookies(value: string): number {
  let count = 1
  for (let at = value.indexOf(';'); at !== -1; at = value.indexOf(';', at + 1)) count++
  return count
}

/**
 * NTLM and Negotiate authenticate the connection and not the request: on a pooled upstream connection, the next caller
 * would be taken for the last one (RFC 4559 section 6).
 */
function refuseBound(value: string): void {
  if (/^(?:ntlm|negotiate)\b/i.test(value)) throw new GateError('ERR_CREDENTIAL_BOUND')
}

/** The value of a header that occurs at most once; undefined when it is absent. */
export function headerOf(pairs: readonly string[], name: string): string | undefined {
  for (let i = 0; i < pairs.length; i += 2) if (pairs[i] === name) return pairs[i + 1]
  return undefined
}

function parseConnection(value: string): string[] {
  const names = value
    .toLowerCase()
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '')
  if (names.some((name) => protectedName.test(foldedName(name))))
    throw new GateError('ERR_HEADER_MALFORMED')
  return names
}
