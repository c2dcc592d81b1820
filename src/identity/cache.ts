/**
 * Cache of verified tokens by their exact text, bounded in bytes. It has two generations: a token that is used moves to
 * the young one; when the young one is full, the old one is dropped as a whole. A hit costs one look-up and no
 * bookkeeping.
 */
import type { Principal } from '../domain/principal.ts'

export interface Verified {
  readonly principal: Principal
  readonly audience: readonly string[]
  /** `KeySet.version` of the keys that verified the token. */
  readonly keysVersion: number
  /** The issuer's rules under which the token was verified, compared by identity: a reload makes a new object. */
  readonly rules: object
}

/** Estimated bytes of an entry besides its texts: claims as objects, keys, map slots. */
const overhead = 1300
/** Estimated bytes for each member and element of the claims: a slot, and a header for values other than numbers. */
const perPart = 60

/**
 * A token is filed under its last characters (144 bits of its signature), then compared as a whole. Hashing the whole
 * token would cost three times as much. Two tokens with the same end only replace each other in the cache.
 */
const tailLength = 24

interface Entry {
  readonly token: string
  readonly verified: Verified
}

type Generation = Map<string, Entry>

export class TokenCache {
  readonly #halfBytes: number
  #young: Generation = new Map()
  #old: Generation = new Map()
  #youngBytes = 0

  constructor(maxBytes: number) {
    this.#halfBytes = maxBytes / 2
  }

  get(token: string): Verified | undefined {
    const tail = token.slice(-tailLength)
    const entry = this.#young.get(tail)
    if (entry?.token === token) return entry.verified
    const older = this.#old.get(tail)
    if (older?.token !== token) return undefined
    this.#old.delete(tail)
    this.set(token, older.verified)
    return older.verified
  }

  set(token: string, verified: Verified): void {
    const { json, keys } = verified.principal
    const bytes =
      token.length + 3 * json.length + perPart * partsOf(json) + 2 * keys.byteLength + overhead
    if (bytes > this.#halfBytes) return
    if (this.#youngBytes + bytes > this.#halfBytes) {
      this.#old = this.#young
      this.#young = new Map()
      this.#youngBytes = 0
    }
    // The token is a slice of the header text; without a copy, the cache would keep all headers of that request in
    // memory.
    const kept = copyOf(token)
    this.#young.set(copyOf(token.slice(-tailLength)), { token: kept, verified })
    this.#youngBytes += bytes
  }

  delete(token: string): void {
    const tail = token.slice(-tailLength)
    for (const generation of [this.#young, this.#old])
      if (generation.get(tail)?.token === token) generation.delete(tail)
  }
}

/**
 * Upper bound of the members and elements in a JSON text: counts commas and opening brackets, those inside strings too.
 */
function partsOf(json: string): number {
  let parts = 0
  for (let i = 0; i < json.length; i++) {
    const code = json.charCodeAt(i)
    if (code === 0x2c || code === 0x5b || code === 0x7b) parts++
  }
  return parts
}

function copyOf(text: string): string {
  return Buffer.from(text, 'latin1').toString('latin1')
}
