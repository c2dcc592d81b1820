/**
 * Principal: the verified caller of an exchange. Made once per token by `identity/token`, shared by every
 * exchange that carries that token, and never changed but for what `heldKeys` adds and `cleanAtVersion`. Not: user,
 * account.
 */
import type { Caller } from './caller.ts'
import { claimKeys, wordsOfKeys } from './revocation.ts'

export interface Principal {
  readonly issuer: string
  readonly subject: string
  /** By whom an evaluation is known that does not end. */
  readonly caller: Caller
  readonly sessionId: string | undefined
  readonly tokenId: string | undefined
  readonly clientId: string | undefined
  readonly tenant: string | undefined
  readonly scopes: readonly string[]
  /** Claim `iat` in seconds, as given: an integer covers its whole second. */
  readonly issuedAtS: number
  /** Claim `auth_time` in seconds: the last sign-in. Undefined where the token does not say a usable one. */
  readonly authTimeS: number | undefined
  /** Claim `exp` in seconds. */
  readonly expiresAtS: number
  /** SHA-256 of the client certificate over whose connections alone the token is good; undefined: over any. */
  readonly boundTo: string | undefined
  readonly claims: Readonly<Record<string, unknown>>
  /** The text of `input.principal`, serialised once. */
  readonly json: string
  /** Revocation keys, four 32-bit words each (little-endian reading of the 16 bytes). Read them by `heldKeys`. */
  keys: Uint32Array
  /** The claims that rows name, shared by the whole gate; it only grows. */
  readonly pointers: Pointers
  /** How many of them `keys` covers. */
  pointersSeen: number
  /** The issuer's `clock_skew` in ms, added to cutoffs that Postgres stamped. */
  readonly clockSkewMs: number
  /** `exclusive` lets the ambiguous second live. */
  readonly boundary: 'inclusive' | 'exclusive'
  /** Ledger version at which a look-up last found nothing; -1 before the first. Not covered: rows on the exchange (`peerKinds`). */
  cleanAtVersion: number
}

/** JSON pointers (RFC 6901), in the order in which they became known. */
export interface Pointers {
  readonly count: number
  at(index: number): string
}

export const noPointers: Pointers = {
  count: 0,
  at() {
    throw new RangeError('there is no such pointer')
  },
}

/**
 * Every key of a principal, with those of the claims that rows name now.
 *
 * Invariant: whoever reads the ledger's version first and calls this after holds a key for every claim that a row
 * published under that version names. The writer makes a pointer known *before* it writes the first row that needs
 * it, and publishes after that row; so a version that covers the row implies the pointer, and a stamp made without
 * the pointer is of an older version and is not believed any more.
 */
export function heldKeys(principal: Principal): Uint32Array {
  const { pointers } = principal
  const known = pointers.count
  if (known === principal.pointersSeen) return principal.keys
  const found: Buffer[] = []
  for (let i = principal.pointersSeen; i < known; i++) {
    const pointer = pointers.at(i)
    found.push(...claimKeys(principal.issuer, pointer, pointed(principal.claims, pointer)))
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

/** What a JSON pointer (RFC 6901) finds, by own properties only. */
export function pointed(claims: unknown, pointer: string): unknown {
  let at = claims
  for (const part of pointer.split('/').slice(1)) {
    if (typeof at !== 'object' || at === null) return undefined
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~')
    if (!Object.hasOwn(at, name) || (Array.isArray(at) && !index.test(name))) return undefined
    at = (at as Record<string, unknown>)[name]
  }
  return at
}
