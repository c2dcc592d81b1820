/**
 * The proofs that were used, in memory that all workers share: a proof is good once, whichever worker it comes to (RFC
 * 9449 section 11.1).
 *
 * The memory is a ring of segments, one for each slice of time. A proof belongs to the slice in which it was made (`iat`);
 * the ring is long enough that a slice is over, and each of its proofs too old, before a later one takes its segment. So
 * nothing is ever deleted, and an entry is kept until `iat` + the greatest age, not for that long after its use.
 *
 * A slot is one word of 64 bits: the round of the ring that it was written in (28 bits), and a tag (36 bits) of the key and
 * the `jti` under a secret of this process. The tag can be that short because the worst that two proofs with one tag do is
 * that the second is refused, about once in 10^10 requests, and a client, which does not have the secret, cannot look for such a pair.
 *
 * Invariants, which hold without locks (a worker that is terminated in the middle leaves nothing locked):
 *
 *  1. The round of a slot never decreases, and within a round its word never changes: a slot is only written by
 *     compare-and-exchange, from an earlier round (or empty) to a later one.
 *  2. The segment and the order in which its slots are visited depend on the proof alone, not on the clock or the worker.
 *     A use takes the first slot that is not of its round.
 *
 * So of two uses of one proof only one succeeds. Say both took a slot, a and b, and a is visited before b. The use that
 * took b had seen a in its round with another tag; by 1 it has that tag for good, so the other use did not take it.
 *
 * The same holds when the clock is set back, or two workers read it differently: a use that meets a slot of a later round
 * cannot know any more, and is refused. So is a proof that was made before the memory: a gate that ran before this one may
 * have taken it.
 */
import { hash, randomBytes } from 'node:crypto'

/** What the control thread makes once and gives to every worker. */
export interface SharedProofs {
  readonly table: SharedArrayBuffer
  readonly secret: string
  /** Greatest age of a proof in seconds. It stays the same as long as the process runs. */
  readonly maxAgeS: number
  /** Since when proofs are remembered, in whole seconds. */
  readonly sinceS: number
}

/** `forgotten`: the gate cannot tell whether the proof was used. */
export type Use = 'first' | 'again' | 'full' | 'forgotten'

/** Slices in the ring. */
const segments = 8
const tagBits = 36n
const slotBytes = 8
/** How far a full part of a segment is searched; a segment is nine tenths full before a use comes to this. */
const maxVisits = 512

export class UsedProofs {
  readonly #slots: BigUint64Array
  readonly #perSegment: number
  readonly #sliceS: number
  readonly #maxAgeS: number
  readonly #sinceS: number
  readonly #secret: string

  constructor({ table, secret, maxAgeS, sinceS }: SharedProofs) {
    this.#slots = new BigUint64Array(table)
    this.#perSegment = this.#slots.length / segments
    // Two segments more than cover the greatest age: one under way, one for clients whose clocks are ahead. At least 2 s each,
    // so that 28 bits hold the rounds of a century.
    this.#sliceS = Math.max(2, Math.ceil(maxAgeS / (segments - 2)))
    this.#maxAgeS = maxAgeS
    this.#sinceS = sinceS
    this.#secret = secret
  }

  /** @param bytes Size of the memory; 8 bytes are used for each proof. */
  static create(bytes: number, maxAgeMs: number, nowMs: number): SharedProofs {
    const perSegment = Math.max(1, Math.floor(bytes / (segments * slotBytes)))
    return {
      table: new SharedArrayBuffer(perSegment * segments * slotBytes),
      secret: randomBytes(32).toString('hex'),
      maxAgeS: maxAgeMs / 1000,
      sinceS: Math.floor(nowMs / 1000),
    }
  }

  /**
   * Uses a proof. Call it when everything else about the proof is good.
   * @param key Thumbprint of its key, always of the same length. @param madeAtS Its `iat`.
   */
  use(key: string, jti: string, madeAtS: number, nowS: number): Use {
    if (madeAtS < this.#sinceS) return 'forgotten'
    const digest = hash('sha256', `${this.#secret}${key}${jti}`, 'buffer')
    const tag = BigInt(digest.readUIntBE(0, 5) % 2 ** 36)
    const start = digest.readUInt32LE(8) % this.#perSegment
    const own = this.#sliceOf(madeAtS)
    // Not a replay, but a client that uses a `jti` twice may not have made the second proof itself: refused as well.
    const last = Math.max(own, this.#sliceOf(nowS))
    for (let slice = this.#sliceOf(nowS - this.#maxAgeS); slice <= last; slice++)
      if (slice !== own && this.#holds(slice, start, tag)) return 'again'
    return this.#take(own, start, tag)
  }

  #sliceOf(timeS: number): number {
    return Math.floor(timeS / this.#sliceS)
  }

  #take(slice: number, start: number, tag: bigint): Use {
    const slots = this.#slots
    const round = roundOf(slice)
    const word = (round << tagBits) | tag
    for (let visit = 0; visit < this.#visits; visit++) {
      const at = this.#slotAt(slice, start, visit)
      let found = Atomics.load(slots, at)
      while (found >> tagBits < round) {
        const before = Atomics.compareExchange(slots, at, found, word)
        if (before === found) return 'first'
        found = before
      }
      if (found === word) return 'again'
      if (found >> tagBits > round) return 'forgotten'
    }
    return 'full'
  }

  #holds(slice: number, start: number, tag: bigint): boolean {
    const round = roundOf(slice)
    const word = (round << tagBits) | tag
    for (let visit = 0; visit < this.#visits; visit++) {
      const found = Atomics.load(this.#slots, this.#slotAt(slice, start, visit))
      if (found === word) return true
      if (found >> tagBits !== round) return false
    }
    return false
  }

  get #visits(): number {
    return Math.min(maxVisits, this.#perSegment)
  }

  #slotAt(slice: number, start: number, visit: number): number {
    return (slice % segments) * this.#perSegment + ((start + visit) % this.#perSegment)
  }
}

/** From 1 on for every time after 1970, so that an empty slot is of an earlier round. */
function roundOf(slice: number): bigint {
  return BigInt(Math.floor(slice / segments) + 1)
}
