/**
 * Finds the caller's credential; does not verify it. A request with two credentials is refused: the upstream might read
 * the one that the gate did not verify. What the gate reads nowhere belongs to the app: an `Authorization` where no
 * issuer takes tokens from it, or Basic beside a token in a cookie.
 */
import type { IssuerConfig, RouteConfig } from '../config/options.ts'
import { formDecode } from '../domain/form.ts'
import { tokenCharacters } from '../domain/http.ts'
import { IssuerNames } from '../domain/issuer-pattern.ts'
import { textOfBytes } from '../domain/json.ts'
import { GateError } from '../errors.ts'
import { maxTokenLength } from './shape.ts'

/** An entry of `from` in the configuration: `authorization`, `websocket-protocol`, `cookie:NAME` or `header:name`. */
export type CredentialSource = string

export interface Credential {
  readonly token: string
  readonly source: CredentialSource
  /** Of the `Authorization` header; undefined when the token came in another place. */
  readonly scheme?: Scheme | undefined
}

/** RFC 6750 section 2.1, RFC 9449 section 7.1. */
export type Scheme = 'Bearer' | 'DPoP'

const bearer = /^bearer +(.*)$/i
const dpop = /^dpop +(.*)$/i
/** Everything that some reader may take for one of these schemes, also with a tab or nothing after it. */
const tokenLike = new RegExp(`^(?:bearer|dpop)(?![${tokenCharacters}])`, 'i')
/**
 * A browser cannot set headers on a WebSocket handshake, except the list of subprotocols. So the token is sent as a
 * subprotocol with this prefix.
 */
const protocolPrefix = 'bearer.'
const cookiePrefix = 'cookie:'
const headerPrefix = 'header:'

export class CredentialSources {
  /** Headers that carry a token of their own (`header:NAME`), in lower case. */
  readonly headers: readonly string[]
  readonly #byIssuer: IssuerNames<readonly CredentialSource[]>
  readonly #cookies: ReadonlySet<string>
  readonly #hidden: RegExp
  readonly #spelled: ReadonlySet<string>
  readonly #fromProxies: readonly string[]
  readonly #protocol: boolean
  readonly #authorization: boolean

  constructor(issuers: readonly IssuerConfig[]) {
    this.#byIssuer = new IssuerNames(issuers.map((each) => [each, each.from] as const))
    const all = issuers.flatMap(({ from }) => from)
    this.#cookies = new Set(namesIn(all, cookiePrefix))
    this.#hidden = cookieWithin(this.#cookies)
    this.#spelled = new Set([...this.#cookies].map(phpName))
    this.headers = namesIn(all, headerPrefix)
    this.#fromProxies = this.headers.length === 0 ? none : [...this.headers, ...proxyHeaders]
    this.#protocol = all.includes('websocket-protocol')
    this.#authorization = all.includes('authorization')
  }

  /**
   * @param pairs Flat list of header names and values; a second `authorization` has been refused before.
   * @param upgrade Whether this is a WebSocket handshake: only there may the token be a subprotocol.
   * @param proxied Whether a trusted proxy sent the request: only then is the token in a header of its own read.
   * @returns undefined when there is no credential; a scheme other than Bearer and DPoP does not count
   * @throws GateError ERR_CREDENTIAL_REPEATED, ERR_HEADER_MALFORMED
   */
  find(pairs: readonly string[], upgrade: boolean, proxied: boolean): Credential | undefined {
    let found: Credential | undefined
    let unread = false
    const note = (token: string | undefined, source: CredentialSource, scheme?: Scheme): void => {
      if (token === undefined) return
      if (found !== undefined) throw new GateError('ERR_CREDENTIAL_REPEATED')
      found = { token, source, scheme }
    }
    for (let i = 0; i < pairs.length; i += 2) {
      const value = pairs[i + 1]!
      switch (pairs[i]) {
        case 'authorization': {
          if (!this.#authorization) break
          const bare = bearerToken(value)
          const proven = bare === undefined ? dpop.exec(value)?.[1] : undefined
          note(bare, 'authorization', 'Bearer')
          note(proven, 'authorization', 'DPoP')
          unread = bare === undefined && proven === undefined && tokenLike.test(value)
          break
        }
        case 'cookie':
          if (this.#cookies.size === 0) break
          for (const { name, content, text } of crumbs(value)) {
            // A token that holds such a name is none.
            if (this.#cookies.has(name)) note(unquoted(content), cookiePrefix + name)
            else if (this.#isHidden(name, text)) throw hiddenCookie()
          }
          break
        case 'sec-websocket-protocol':
          if (!this.#protocol || !upgrade) break
          for (const each of list(value)) {
            if (each.startsWith(protocolPrefix))
              note(each.slice(protocolPrefix.length), 'websocket-protocol')
          }
          break
        default:
          if (proxied && this.headers.includes(pairs[i]!)) note(value, headerPrefix + pairs[i]!)
      }
    }
    if (unread && found !== undefined) throw new GateError('ERR_CREDENTIAL_REPEATED')
    return found
  }

  /** True when some server would read a cookie for a token where the gate has read another one. */
  #isHidden(name: string, text: string): boolean {
    if (this.#spelled.has(phpName(name)) || this.#hidden.test(text)) return true
    // Servers that decode the header (Python's) take every space of Unicode off a name.
    return nonAscii.test(text) && this.#hidden.test(` ${textOfBytes(text)}`)
  }

  /**
   * The token in `Authorization` on a route that reads none, if it names an issuer whose tokens come there: it is a
   * credential for the gate all the same, and the upstream gets it only where the route forwards credentials. Every
   * other value is the app's own. Nothing is verified here, and nothing but what is forwarded depends on it.
   */
  unasked(pairs: readonly string[]): Credential | undefined {
    if (!this.#authorization) return undefined
    for (let i = 0; i < pairs.length; i += 2) {
      if (pairs[i] !== 'authorization') continue
      const value = pairs[i + 1]!
      const token = bearerToken(value) ?? dpop.exec(value)?.[1]
      const from = token === undefined ? undefined : this.#byIssuer.get(issuerIn(token))
      return from?.includes('authorization')
        ? { token: token!, source: 'authorization' }
        : undefined
    }
    return undefined
  }

  /**
   * The refusal of a request in which `find` found nothing. On a route where the token is optional, only a request that
   * carries no credential of any kind is anonymous: an upstream could believe one that the gate has not read. Where no
   * issuer takes tokens from `Authorization`, that header is the app's own and no credential of the gate.
   * @param auth `auth` of the route
   * @param proxied As for `find`.
   * @returns undefined when the request may pass without a caller
   */
  refusal(
    pairs: readonly string[],
    auth: 'required' | 'optional',
    proxied: boolean,
  ): GateError | undefined {
    let why: string | undefined
    for (let i = 0; i < pairs.length; i += 2) {
      const value = pairs[i + 1]!
      if (pairs[i] === 'authorization') {
        if (this.#authorization) return missing(`its Authorization ${schemeText(value)}`)
        why = 'its Authorization is not read: issuers[].from names it for no issuer'
      }
      if (!proxied && this.headers.includes(pairs[i]!))
        why = `its ${pairs[i]} is read from trusted proxies only, and its sender is none`
      if (pairs[i] !== 'sec-websocket-protocol' || !this.#protocol) continue
      if (list(value).some((each) => each.startsWith(protocolPrefix)))
        return missing('it has a token as subprotocol, and is no WebSocket handshake')
    }
    return auth === 'optional' ? undefined : missing(why)
  }

  /**
   * The headers that neither policy nor upstream may get: a token header that is believed from trusted proxies only, or
   * that was not verified since the route asks for no token; and what else such proxies say about the caller, from others.
   */
  withheld(
    { auth, forward }: Pick<RouteConfig, 'auth' | 'forward'>,
    proxied: boolean,
  ): readonly string[] {
    if (!proxied) return this.#fromProxies
    return auth !== 'none' || forward.authorization === 'keep' ? none : this.headers
  }

  /**
   * Checks that the credential came from a place that the configuration allows for this issuer. @throws GateError
   * ERR_TOKEN_ISSUER
   */
  check(issuer: string, { source }: Credential): void {
    if (!this.#byIssuer.get(issuer)?.includes(source)) throw new GateError('ERR_TOKEN_ISSUER')
  }
}

const none: readonly string[] = []

/** What identity-aware proxies (of Google, Cloudflare, AWS, Azure) say about the caller beside the token, for the upstream. */
const proxyHeaders = [
  ...[
    'x-goog-iap-jwt-assertion',
    'x-goog-authenticated-user-email',
    'x-goog-authenticated-user-id',
  ],
  ...['cf-access-jwt-assertion', 'cf-access-authenticated-user-email'],
  ...['x-amzn-oidc-accesstoken', 'x-amzn-oidc-data', 'x-amzn-oidc-identity'],
  ...['x-ms-client-principal', 'x-ms-client-principal-id', 'x-ms-client-principal-name'],
]

function namesIn(sources: readonly CredentialSource[], prefix: string): readonly string[] {
  return sources.filter((each) => each.startsWith(prefix)).map((each) => each.slice(prefix.length))
}

function missing(cause: string | undefined): GateError {
  return new GateError('ERR_CREDENTIAL_MISSING', undefined, { cause })
}

/** Claim `iss` of a token, unverified; undefined for what is no token. */
function issuerIn(token: string): unknown {
  const payload = token.length > maxTokenLength ? undefined : token.split('.', 3)[1]
  if (payload === undefined) return undefined
  try {
    const claims: unknown = JSON.parse(Buffer.from(payload, 'base64url').toString())
    return (claims as { iss?: unknown } | null)?.iss
  } catch {
    return undefined
  }
}

/** Never the value itself: without its scheme, it may be a token. */
function schemeText(value: string): string {
  const [, scheme] = /^([A-Za-z][A-Za-z-]{0,19}) /.exec(value) ?? []
  return scheme === undefined
    ? 'names no scheme, expected Bearer or DPoP and a token'
    : `has the scheme ${JSON.stringify(scheme)}, expected Bearer or DPoP and a token`
}

/**
 * How a browser adds the credential by itself, also to requests that a foreign site causes; undefined when it does not.
 * `cookie`: it sends the cookie. `proxy`: a proxy in front knows it by a cookie of its own, and adds the header.
 */
export type Ambient = 'cookie' | 'proxy' | undefined

export function ambientBy({ source }: Credential): Ambient {
  if (source.startsWith(cookiePrefix)) return 'cookie'
  return source.startsWith(headerPrefix) ? 'proxy' : undefined
}

/** The headers without the credential. `Authorization` stays in, so that most requests need no copy: `upstream/headers` leaves it out. */
export function withoutCredential(
  pairs: readonly string[],
  { source }: Credential,
): readonly string[] {
  if (source === 'authorization') return pairs
  const out: string[] = []
  for (let i = 0; i < pairs.length; i += 2) {
    const name = pairs[i]!
    let value = pairs[i + 1]!
    if (name === 'cookie' && source.startsWith(cookiePrefix)) {
      const own = source.slice(cookiePrefix.length)
      value = [...crumbs(value)]
        .filter((crumb) => crumb.name !== own)
        .map(({ text }) => text)
        .join('; ')
    } else if (source.startsWith(headerPrefix) && name === source.slice(headerPrefix.length)) {
      continue
    } else if (name === 'sec-websocket-protocol' && source === 'websocket-protocol') {
      value = list(value)
        .filter((each) => !each.startsWith(protocolPrefix))
        .join(', ')
    }
    if (value !== '' || pairs[i + 1] === '') out.push(name, value)
  }
  return out
}

/**
 * The subprotocol of the answer when the token was the only one that the client offered: a browser ends the connection
 * when the answer chooses none of its subprotocols.
 */
export function protocolToEcho(
  pairs: readonly string[],
  { source, token }: Credential,
): string | undefined {
  if (source !== 'websocket-protocol') return undefined
  let offered = 0
  for (let i = 0; i < pairs.length; i += 2) {
    if (pairs[i] === 'sec-websocket-protocol') offered += list(pairs[i + 1]!).length
  }
  return offered === 1 ? protocolPrefix + token : undefined
}

interface Crumb {
  readonly name: string
  readonly content: string
  readonly text: string
}

/** Those of Python besides: the next line, and the separators that a header cannot hold. */
const spaces = '\\s\\x85'
const nonAscii = /[\x80-\xff]/

/**
 * Finds one of these cookies within another one. RFC 6265 section 5.4 separates cookies by semicolons alone; some servers
 * (of RFC 2965, and Python's) also by commas or spaces, and would read a token there that the gate has not.
 */
function cookieWithin(names: Iterable<string>): RegExp {
  const one = [...names].map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|')
  return new RegExp(`[${spaces},](?:${one})[${spaces}]*=`)
}

/** The name under which PHP has a cookie: percent-decoded (before 7.4.11), with `_` for dots and spaces, without an index. */
function phpName(name: string): string {
  if (!/[%+. [\0]/.test(name)) return name
  return formDecode(name)
    .replace(/[\0[].*$/s, '')
    .trimStart()
    .replace(/[. ]/g, '_')
}

function hiddenCookie(): GateError {
  const cause =
    'a cookie holds the name of the cookie for the token, behind a comma or a space or in another spelling'
  return new GateError('ERR_HEADER_MALFORMED', undefined, { cause })
}

function* crumbs(cookie: string): Generator<Crumb> {
  for (const part of cookie.split(';')) {
    const text = trimmed(part)
    if (text === '') continue
    const split = text.indexOf('=')
    const name = split === -1 ? '' : trimmed(text.slice(0, split))
    yield { name, content: trimmed(text.slice(split + 1)), text }
  }
}

/** Without spaces and tabs around it (RFC 6265 section 5.4). `trim` also takes 0xA0 away, which ends `à` in UTF-8. */
function trimmed(text: string): string {
  let from = 0
  let to = text.length
  while (from < to && isBlank(text.charCodeAt(from))) from++
  while (to > from && isBlank(text.charCodeAt(to - 1))) to--
  return text.slice(from, to)
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09
}

function bearerToken(value: string): string | undefined {
  // Fast path for the usual spelling.
  if (value.startsWith('Bearer ') && value.charCodeAt(7) !== 0x20) return value.slice(7)
  return bearer.exec(value)?.[1]
}

function unquoted(content: string): string {
  return content.length > 1 && content.startsWith('"') && content.endsWith('"')
    ? content.slice(1, -1)
    : content
}

function list(value: string): string[] {
  return value
    .split(',')
    .map((each) => each.trim())
    .filter((each) => each !== '')
}
