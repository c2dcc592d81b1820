/**
 * Finds the caller's credential; says nothing about whether it is any good. It is in one place only: of two, the upstream
 * might read the one that was not verified here, so a request that carries two is refused.
 */
import type { IssuerConfig } from '../config/options.ts'
import { GateError } from '../errors.ts'

/** An entry of `from` in the configuration: `authorization`, `websocket-protocol` or `cookie:NAME`. */
export type CredentialSource = string

export interface Credential {
  readonly token: string
  readonly source: CredentialSource
}

const bearer = /^bearer +(.*)$/i
/** Browsers can set no header on a WebSocket but the subprotocols: the token is one of them, behind this. */
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
   * @param pairs Flat name, value list; a second `authorization` was refused with the headers.
   * @param upgrade Whether it is a WebSocket handshake: only there a subprotocol means anything.
   * @returns undefined where there is none; another scheme than Bearer (RFC 6750 section 2.1) is none
   * @throws GateError ERR_CREDENTIAL_REPEATED
   */
  find(pairs: readonly string[], upgrade: boolean): Credential | undefined {
    let found: Credential | undefined
    const note = (token: string | undefined, source: CredentialSource): void => {
      if (token === undefined) return
      if (found !== undefined) throw new GateError('ERR_CREDENTIAL_REPEATED')
      found = { token, source }
    }
    for (let i = 0; i < pairs.length; i += 2) {
      const value = pairs[i + 1]!
      switch (pairs[i]) {
        case 'authorization':
          note(bearerToken(value), 'authorization')
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

  /** An issuer's tokens are only good where it says. @throws GateError ERR_TOKEN_ISSUER */
  check(issuer: string, { source }: Credential): void {
    if (!this.#byIssuer.get(issuer)?.includes(source)) throw new GateError('ERR_TOKEN_ISSUER')
  }
}

/** Browsers send it along whoever made them ask. */
export function isAmbient({ source }: Credential): boolean {
  return source.startsWith(cookiePrefix)
}

/** The headers without the credential, but for `Authorization`, which `upstream/headers` knows. */
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
 * What the answer must choose where the token was all that the client offered: browsers break off when none of their
 * subprotocols is chosen.
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
  // As nearly everybody writes it.
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
