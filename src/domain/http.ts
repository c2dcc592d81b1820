/**
 * HTTP: the methods, names and values of RFC 9110 and RFC 9112, each written once. Code that accepts less or more on
 * purpose says so in a comment.
 */

/** The methods that a route accepts when it lists none. CONNECT and TRACE are refused before any route is asked. */
export const methods: readonly string[] = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
]

/**
 * Methods of WebDAV and of what is built on it, CalDAV and Subversion (RFC 4918, 3744, 4791, 5323, 3253), as far as
 * Node.js reads them. A route accepts those that it lists. Not BIND and REBIND, whose bodies name further resources.
 */
export const davMethods: readonly string[] = [
  ...[
    'PROPFIND',
    'PROPPATCH',
    'MKCOL',
    'COPY',
    'MOVE',
    'LOCK',
    'UNLOCK',
    'ACL',
    'SEARCH',
    'REPORT',
  ],
  ...['MKCALENDAR', 'CHECKOUT', 'MERGE', 'MKACTIVITY'],
]

/** Methods that change nothing (RFC 9110 section 9.2.1). */
export const safeMethods: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS'])

/** Methods that may be sent twice (RFC 9110 section 9.2.2). */
export const idempotentMethods: ReadonlySet<string> = new Set([...safeMethods, 'PUT', 'DELETE'])

/**
 * Characters of a token, such as a header name (RFC 9110 section 5.6.2), for use inside the brackets of a regular
 * expression.
 */
export const tokenCharacters = "!#$%&'*+\\-.^_`|~0-9A-Za-z"

/**
 * Characters of a field value without obs-text, also for brackets: tab, space and visible ASCII (RFC 9110 section 5.5).
 */
export const valueCharacters = '\\t\\x20-\\x7e'

/**
 * Bytes above ASCII in a field value, also for brackets: RFC 9110 section 5.5 allows them, but readers decode them
 * differently.
 */
export const obsText = '\\x80-\\xff'

const token = new RegExp(`^[${tokenCharacters}]+$`)

export function isToken(text: string): boolean {
  return token.test(text)
}

/**
 * Headers that end at each hop (RFC 9110 section 7.6.1), and those that RFC 9110 section 11.7 defines for one proxy.
 * Lower case.
 */
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
 * A header name as CGI-like servers see it: they turn every character that is not a letter or digit into `_`, so
 * `x_user` and `x-user` are one name to them. Two names with the same result must be treated as the same header.
 * @param name Lower case.
 */
export function foldedName(name: string): string {
  return folded.test(name) ? name : name.replace(/[^0-9a-z]/g, '-')
}
