/**
 * HTTP: what RFC 9110 and RFC 9112 say of methods, names and values, each written once. A place that knowingly accepts
 * less or more than this says so where it does.
 */

/** The methods that a route may accept. CONNECT and TRACE are refused before any route is asked. */
export const methods: readonly string[] = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
]

/** Methods that change nothing (RFC 9110 section 9.2.1). */
export const safeMethods: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS'])

/** Methods that may be sent twice (RFC 9110 section 9.2.2). */
export const idempotentMethods: ReadonlySet<string> = new Set([...safeMethods, 'PUT', 'DELETE'])

/** The characters of a token, such as a header name (RFC 9110 section 5.6.2), as they stand inside a regular expression's brackets. */
export const tokenCharacters = "!#$%&'*+\\-.^_`|~0-9A-Za-z"

/** The characters of a field value without obs-text, likewise: tab, space and visible ASCII (RFC 9110 section 5.5). */
export const valueCharacters = '\\t\\x20-\\x7e'

/** Bytes above ASCII in a field value, likewise: allowed by RFC 9110 section 5.5, and read differently by every reader. */
export const obsText = '\\x80-\\xff'

const token = new RegExp(`^[${tokenCharacters}]+$`)

export function isToken(text: string): boolean {
  return token.test(text)
}

/** Headers that end at each hop (RFC 9110 section 7.6.1), with those that RFC 9110 section 11.7 ties to one proxy. Lower case. */
export const hopByHop: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

const folded = /^[0-9a-z-]*$/

/**
 * A header name as CGI-like servers tell names apart: they turn every character that is no letter or digit into `_`, so
 * `x_user` and `x-user` are one name to them. Two names that are equal here must be treated as the same header.
 * @param name Lower case.
 */
export function foldedName(name: string): string {
  return folded.test(name) ? name : name.replace(/[^0-9a-z]/g, '-')
}
