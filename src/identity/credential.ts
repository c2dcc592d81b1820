/**
 * Finds the caller's credential; does not verify it. A request with two credentials is refused: the upstream might read
 * the one that the gate did not verify.
 */
import type { IssuerConfig } from '../config/options.ts'
import { GateError } from '../errors.ts'

/** An entry of `from` in the configuration: `authorization`, `websocket-protocol` or `cookie:NAME`. */
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
/**
 * A browser cannot set headers on a WebSocket handshake, except the list of subprotocols. So the token is sent as a
 * subprotocol with this prefix.
 */
const protocolPrefix = 'bearer.'
const cookiePrefix = 'cookie:'

export class CredentialSources {
  readonly #byIssuer: ReadonlyMap<string, readonly CredentialSource[]>
  readonly #cookies: ReadonlySet<string>
  readonly #protocol: boolean

  constructor(issuers: readonly IssuerConfig[]) {
    this.#byIssuer = new Map(issuers.map(({ issuer, from }) => [issuer, from]))
    const all = issuers.flatMap(({ from }) => from)
    this.#cookies = new Set(
      all
        .filter((each) => each.startsWith(cookiePrefix))
        .map((each) => each.slice(cookiePrefix.length)),
    )
    this.#protocol = all.includes('websocket-protocol')
  }

  /**
   * @param pairs Flat list of header names and values; a second `authorization` has been refused before.
   * @param upgrade Whether this is a WebSocket handshake: only there may the token be a subprotocol.
   * @returns undefined when there is no credential; a scheme other than Bearer and DPoP does not count
   * @throws GateError ERR_CREDENTIAL_REPEATED
   */
  find(pairs: readonly string[], upgrade: boolean): Credential | undefined {
    let found: Credential | undefined
    const note = (token: string | undefined, source: CredentialSource, scheme?: Scheme): void => {
      if (token === undefined) return
      if (found !== undefined) throw new GateError('ERR_CREDENTIAL_REPEATED')
      found = { token, source, scheme }
    }
    for (let i = 0; i < pairs.length; i += 2) {
      const value = pairs[i + 1]!
      switch (pairs[i]) {
        case 'authorization':
          note(bearerToken(value), 'authorization', 'Bearer')
          if (found?.source !== 'authorization')
            note(dpop.exec(value)?.[1], 'authorization', 'DPoP')
          break
        case 'cookie':
          if (this.#cookies.size === 0) break
          for (const { name, content } of crumbs(value)) {
            if (this.#cookies.has(name)) note(unquoted(content), cookiePrefix + name)
          }
          break
        case 'sec-websocket-protocol':
          if (!this.#protocol || !upgrade) break
          for (const each of list(value)) {
            if (each.startsWith(protocolPrefix))
              note(each.slice(protocolPrefix.length), 'websocket-protocol')
          }
      }
    }
    return found
  }

  /**
   * Checks that the credential came from a place that the configuration allows for this issuer. @throws GateError
   * ERR_TOKEN_ISSUER
   */
  check(issuer: string, { source }: Credential): void {
    if (!this.#byIssuer.get(issuer)?.includes(source)) throw new GateError('ERR_TOKEN_ISSUER')
  }
}

/** True for a cookie: browsers send it with every request, also with requests that a foreign site causes. */
export function isAmbient({ source }: Credential): boolean {
  return source.startsWith(cookiePrefix)
}

/** The headers without the credential. `Authorization` stays in: `upstream/headers` handles it. */
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

function* crumbs(cookie: string): Generator<Crumb> {
  for (const part of cookie.split(';')) {
    const text = part.trim()
    if (text === '') continue
    const split = text.indexOf('=')
    const name = split === -1 ? '' : text.slice(0, split).trim()
    yield { name, content: text.slice(split + 1).trim(), text }
  }
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
