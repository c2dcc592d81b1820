/**
 * What carries a credential, by its usual names and by its shape: no log may hold it (design law 9).
 * For the log only; nothing is decided by it.
 */
import { encodedName, formDecode } from './form.ts'

/** In place of what is hidden. */
export const hidden = '***'

/** @param name lower-case. @param value of the header, which may be an address with a query. */
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
        name.includes('auth')
      )
  }
}

/**
 * Words that name a credential wherever they stand, and those that do so alone: RFC 6749 and 6750, OpenID Connect, signed
 * links of Amazon (`X-Amz-Signature`), Google and Azure (`sig`).
 */
const secretParameter =
  /token|secret|passw|credential|signature|assertion|bearer|sess(?:ion)?[-_.]?id|api[-_.]?key|(?:^|[-_.])(?:key|auth|authorization|jwt|otp)(?:[-_.]|$)|^(?:code|pin|pwd|sid|sig|session|ticket)$/i

/** @param name of a parameter of a query, form-decoded. */
export function isSecretParameter(name: string): boolean {
  return secretParameter.test(name)
}

const userinfo = /^([a-z][a-z\d+.-]*:\/\/)[^/?#]*@/i

/** An address or a target with the values of such parameters hidden, in its fragment as well, and its user information. */
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

/** A header of a token is JSON: it begins with `{"`, or with white space in between. */
const tokenStart = /e(?:yJ|yA|wo|w0|wk)/g
const usualStart = 'eyJ'
/** Characters of a header that begins unusually; what is shorter is some word (`newone.example.com`). */
const leastHeader = 16
const base64url = /[\w-]*/y

function endOfRun(text: string, at: number): number {
  base64url.lastIndex = at
  base64url.test(text)
  return base64url.lastIndex
}

/** Where the run behind a dot begins, the dot written out or percent-encoded; -1 where there is no dot. */
function behindDot(text: string, at: number): number {
  if (text[at] === '.') return at + 1
  return text[at] === '%' && /^%2e$/i.test(text.slice(at, at + 3)) ? at + 3 : -1
}

function startOfToken(text: string, from: number): number {
  tokenStart.lastIndex = from
  return tokenStart.exec(text)?.index ?? -1
}

/**
 * A text without anything that is shaped like a JWT (RFC 7519) wherever it stands; JSON stays JSON. No character is
 * looked at more than some twenty times.
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
      // The `e` may be the last digit of an escape (`\u001e`), and half of one is no JSON.
      const inEscape = /\\u[\da-f]{3}$/i.test(text.slice(Math.max(0, at - 5), at))
      out += text.slice(from, inEscape ? at + 1 : at) + hidden
      from = end
    }
    at = startOfToken(text, end)
  }
  return out + text.slice(from)
}
