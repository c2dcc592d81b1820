/**
 * Principal: the verified caller of an exchange. `identity/token` makes one per token; all exchanges with that token
 * share it. It never changes, except for the keys that `heldKeys` adds and for `cleanAtVersion`. Not: user, account.
 */
import type { Caller } from './caller.ts'
import { parseKeepingDigits } from './json.ts'
import { claimKeys, wordsOfKeys } from './revocation.ts'

/** What a token is bound to (claim `cnf`, RFC 7800); at least one of the two. Each is a SHA-256 in base64url. */
export interface Binding {
  /** Of the certificate that the client must show. */
  readonly certificate: string | undefined
  /** RFC 7638 thumbprint of the key whose possession the client must prove for each request. */
  readonly key: string | undefined
}

export interface Principal {
  readonly issuer: string
  readonly subject: string
  /** The caller of this token; an evaluation that does not end counts against the caller. */
  readonly caller: Caller
  readonly sessionId: string | undefined
  readonly tokenId: string | undefined
  readonly clientId: string | undefined
  readonly tenant: string | undefined
  readonly scopes: readonly string[]
  /** Claim `iat` in seconds, as written in the token: an integer covers its whole second. */
  readonly issuedAtS: number
  /** Claim `auth_time` in seconds: the last sign-in. Undefined if the token has no usable one. */
  readonly authTimeS: number | undefined
  /** Claim `exp` in seconds. */
  readonly expiresAtS: number
  /** Undefined when the token is a plain bearer. */
  readonly boundTo: Binding | undefined
  /**
   * The text of `input.principal`, serialised once. The claims are kept only in this form: as objects they would take more
   * memory than all the rest.
   */
  readonly json: string
  /** Revocation keys, four 32-bit words each (16 bytes, little-endian). Use `heldKeys` to read them. */
  keys: Uint32Array
  /** The claims that rows name, shared by all parts of the gate; the list only grows. */
  readonly pointers: Pointers
  /** Number of entries of `pointers` that `keys` covers. */
  pointersSeen: number
  /** `clock_skew` of the issuer in ms; it is added to cutoffs that Postgres stamped. */
  readonly clockSkewMs: number
  /** With `exclusive`, a token issued in the same second as a cutoff stays valid. */
  readonly boundary: 'inclusive' | 'exclusive'
  /**
   * Ledger version at which a look-up last found no row; -1 before the first. Rows for the exchange itself
   * (`peerKinds`) are not covered.
   */
  cleanAtVersion: number
}

/**
 * The content of the principal that was made last, parsed. Its first request is decided in the same turn and need not parse
 * `json` again; one is enough for that.
 */
let latest: { readonly json: string; readonly content: object } = { json: '', content: {} }

/** @param content What `json` says; numbers that a double cannot hold have their digits (domain/json.ts). */
export function noteContent(json: string, content: object): void {
  latest = { json, content }
}

/** What `principal.json` says. Not to be changed. */
export function contentOf({ json }: Pick<Principal, 'json'>): Readonly<Record<string, unknown>> {
  const content = latest.json === json ? latest.content : parseKeepingDigits(json)
  return content as Record<string, unknown>
}

/** JSON pointers (RFC 6901), in the order in which the gate learned them. */
export interface Pointers {
  readonly count: number
  at(index: number): string
}

export const noPointers: Pointers = {
  count: 0,
  at() {
    throw new RangeError('the pointer index is out of range')
  },
}

/**
 * Returns all keys of a principal, including those of the claims that rows name now.
 *
 * Invariant: a reader that loads the ledger's version first and calls this function afterwards gets a key for every
 * claim that a row published under that version names. The writer adds a pointer *before* it writes the first row
 * that needs it, and publishes after that row. So a version that covers the row implies the pointer, and a stamp made
 * without the pointer belongs to an older version and is ignored.
 */
export function heldKeys(principal: Principal): Uint32Array {
  const { pointers } = principal
  const known = pointers.count
  if (known === principal.pointersSeen) return principal.keys
  const found: Buffer[] = []
  const { claims } = JSON.parse(principal.json) as { claims: unknown }
  for (let i = principal.pointersSeen; i < known; i++) {
    const pointer = pointers.at(i)
    found.push(...claimKeys(principal.issuer, pointer, valueAt(claims, pointer)))
  }
  const more = wordsOfKeys(found)
  const keys = new Uint32Array(principal.keys.length + more.length)
  keys.set(principal.keys)
  keys.set(more, principal.keys.length)
  principal.keys = keys
  principal.pointersSeen = known
  return keys
}

const index = /^(?:0|[1-9]\d*)$/

/** Returns the value at a JSON pointer (RFC 6901); only own properties count. */
export function valueAt(claims: unknown, pointer: string): unknown {
  let at = claims
  for (const part of pointer.split('/').slice(1)) {
    if (typeof at !== 'object' || at === null) return undefined
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~')
    if (!Object.hasOwn(at, name) || (Array.isArray(at) && !index.test(name))) return undefined
    at = (at as Record<string, unknown>)[name]
  }
  return at
}
