/**
 * Finds credentials by their usual names and by their form, so that no log contains them. Only the logs use this; no
 * decision depends on it.
 */
import { encodedName, formDecode } from './form.ts'

/** Text that replaces a hidden value. */
export const hidden = '***'

/** @param name Header name in lower case. @param value Value of the header, which may be an address with a query. */
export function isSecretHeader(name: string, value: string): boolean {
  switch (name) {
    case 'host':
    case 'accept':
    case 'user-agent':
    case 'content-type':
    case 'content-length':
      return false
    case 'authorization':
    case 'cookie':
    case 'dpop':
    case 'proxy-authorization':
    case 'sec-websocket-protocol':
    case 'set-cookie':
      return true
    case 'referer':
      return hideInAddress(value) !== value
    default:
      return (
        name.includes('key') ||
        name.includes('token') ||
        name.includes('secret') ||
        name.includes('session') ||
        name.includes('auth') ||
        // What identity-aware proxies add (`X-Goog-Iap-Jwt-Assertion`).
        name.includes('jwt') ||
        name.includes('assertion')
      )
  }
}

/**
 * Words that mark a parameter as a credential anywhere in its name, and words that do so only as the whole name: from
 * RFC 6749 and 6750, OpenID Connect, and signed links of Amazon (`X-Amz-Signature`), Google and Azure (`sig`).
 */
const secretParameter =
  /token|secret|passw|credential|signature|assertion|bearer|sess(?:ion)?[-_.]?id|api[-_.]?key|(?:^|[-_.])(?:key|auth|authorization|jwt|otp)(?:[-_.]|$)|^(?:code|pin|pwd|sid|sig|session|ticket)$/i

/** @param name Name of a query parameter, form-decoded. */
export function isSecretParameter(name: string): boolean {
  return secretParameter.test(name)
}

const userinfo = /^([a-z][a-z\d+.-]*:\/\/)[^/?#]*@/i

/**
 * Returns an address or request target with its secrets hidden: values of such parameters, also in the fragment, and
 * user information.
 */
export function hideInAddress(address: string): string {
  const open = address.replace(userinfo, `$1${hidden}@`)
  const mark = open.search(/[?#]/)
  if (mark === -1) return open
  const pairs = open.slice(mark + 1).split(/([&#])/)
  return `${open.slice(0, mark + 1)}${pairs.map(hideInPair).join('')}`
}

function hideInPair(pair: string): string {
  const name = encodedName(pair)
  if (name === pair || !isSecretParameter(formDecode(name))) return pair
  return `${name}=${hidden}`
}

/** Start of a base64url-encoded token header, which is JSON: `{"`, or with white space in between. */
const tokenStart = /e(?:yJ|yA|wo|w0|wk)/g
const usualStart = 'eyJ'
/** Fewest characters of a header with white space. A shorter match is an ordinary word (`newone.example.com`). */
const leastHeader = 16
const base64url = /[\w-]*/y

function endOfRun(text: string, at: number): number {
  base64url.lastIndex = at
  base64url.test(text)
  return base64url.lastIndex
}

/** Returns the position after a dot, plain or percent-encoded; -1 if there is no dot. */
function behindDot(text: string, at: number): number {
  if (text[at] === '.') return at + 1
  return text[at] === '%' && /^%2e$/i.test(text.slice(at, at + 3)) ? at + 3 : -1
}

function startOfToken(text: string, from: number): number {
  tokenStart.lastIndex = from
  return tokenStart.exec(text)?.index ?? -1
}

/**
 * Replaces all parts of a text that look like a JWT (RFC 7519). JSON text stays valid JSON. Each character is read
 * about twenty times at most, so the time is linear.
 */
export function hideTokens(text: string): string {
  let at = startOfToken(text, 0)
  if (at === -1) return text
  let out = ''
  let from = 0
  while (at !== -1) {
    let end = endOfRun(text, at)
    if (end - at < leastHeader && !text.startsWith(usualStart, at)) {
      at = startOfToken(text, at + 1)
      continue
    }
    let dots = 0
    for (let next = behindDot(text, end); next !== -1; next = behindDot(text, end)) {
      dots++
      end = endOfRun(text, next)
    }
    if (dots >= 2) {
      // The `e` may be the last digit of an escape (`\u001e`); half an escape would make the JSON invalid.
      const inEscape = /\\u[\da-f]{3}$/i.test(text.slice(Math.max(0, at - 5), at))
      out += text.slice(from, inEscape ? at + 1 : at) + hidden
      from = end
    }
    at = startOfToken(text, end)
  }
  return out + text.slice(from)
}
