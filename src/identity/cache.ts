/**
 * Cache of verified tokens by their exact text, bounded in bytes. The entry that leaves is chosen by SIEVE (Zhang et al.,
 * NSDI 2024): entries stand in the order of their arrival, a hand goes from the oldest to the newest and round again, and
 * takes the first one that was not used since the hand last passed. So a hit writes one mark, and tokens that are used
 * once do not drive out those that come again.
 *
 * Once it is full, only one of `newcomers` gets in. With more live tokens than room most of what came in would leave again
 * unused, and objects that live just so long cost the garbage collector more than a token costs that is known to another
 * worker (known-signatures.ts). A token that comes often is soon in.
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

/**
 * Estimated bytes of an entry besides its texts: its objects, map slot and list links, and the headers of texts and keys.
 * `make bench` prints what an entry really takes.
 */
const overhead = 1500

/** Of so many tokens that come to the full cache one gets in. */
const newcomers = 8

/**
 * A token is filed under its last characters (144 bits of its signature), then compared as a whole. Hashing the whole
 * token would cost three times as much. Two tokens with the same end only replace each other in the cache.
 */
const tailLength = 24

interface Entry {
  readonly token: string
  readonly tail: string
  readonly verified: Verified
  readonly bytes: number
  used: boolean
  newer: Entry | undefined
  older: Entry | undefined
}

export class TokenCache {
  readonly #maxBytes: number
  readonly #entries = new Map<string, Entry>()
  #bytes = 0
  #newest: Entry | undefined
  #oldest: Entry | undefined
  /** The entry that the hand looks at next; undefined: the oldest. */
  #hand: Entry | undefined
  /** Tokens that came while it was full. */
  #came = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Number of tokens in the cache. */
  get size(): number {
    return this.#entries.size
  }

  get(token: string): Verified | undefined {
    const entry = this.#entries.get(token.slice(-tailLength))
    if (entry?.token !== token) return undefined
    entry.used = true
    return entry.verified
  }

  /** Keeps a token, or does not where there is no room. */
  set(token: string, verified: Verified): void {
    const bytes = bytesOf(token, verified)
    if (bytes > this.#maxBytes) return
    if (this.#bytes + bytes > this.#maxBytes && ++this.#came % newcomers !== 0) return
    // The token is a slice of the header text; without a copy, the cache would keep all headers of that request in
    // memory.
    const kept = copyOf(token)
    const tail = copyOf(token.slice(-tailLength))
    const before = this.#entries.get(tail)
    if (before !== undefined) this.#remove(before)
    while (this.#bytes + bytes > this.#maxBytes) this.#evict()
    const older = this.#newest
    const entry: Entry = {
      token: kept,
      tail,
      verified,
      bytes,
      used: false,
      newer: undefined,
      older,
    }
    if (older === undefined) this.#oldest = entry
    else older.newer = entry
    this.#newest = entry
    this.#entries.set(tail, entry)
    this.#bytes += bytes
  }

  delete(token: string): void {
    const entry = this.#entries.get(token.slice(-tailLength))
    if (entry?.token === token) this.#remove(entry)
  }

  #evict(): void {
    let at = this.#hand ?? this.#oldest!
    while (at.used) {
      at.used = false
      at = at.newer ?? this.#oldest!
    }
    this.#hand = at
    this.#remove(at)
  }

  #remove(entry: Entry): void {
    const { newer, older } = entry
    if (this.#hand === entry) this.#hand = newer
    if (newer === undefined) this.#newest = older
    else newer.older = older
    if (older === undefined) this.#oldest = newer
    else older.newer = newer
    this.#entries.delete(entry.tail)
    this.#bytes -= entry.bytes
  }
}

/** The principal's text is kept three times: as it is, and what the policy and the decision log get of it. */
function bytesOf(token: string, { principal }: Verified): number {
  return token.length + 3 * principal.json.length + principal.keys.byteLength + overhead
}

function copyOf(text: string): string {
  return Buffer.from(text, 'latin1').toString('latin1')
}
