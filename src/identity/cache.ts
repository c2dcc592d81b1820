/**
 * Verified tokens by their exact text, bounded in bytes. Two generations: a token that is used moves to the young one;
 * when that is full the old one is dropped whole. No bookkeeping on a hit but a look-up.
 */
import type { Principal } from '../domain/principal.ts'

export interface Verified {
  readonly principal: Principal
  readonly audience: readonly string[]
  /** `KeySet.version` it was verified under. */
  readonly keysVersion: number
  /** Stands for the issuer's rules it was verified by: other rules are another object. */
  readonly rules: object
}

/** Rough bytes of an entry besides its texts: claims as objects, keys, map slots. */
const overhead = 1200

export class TokenCache {
  readonly #halfBytes: number
  #young = new Map<string, Verified>()
  #old = new Map<string, Verified>()
  #youngBytes = 0

  constructor(maxBytes: number) {
    this.#halfBytes = maxBytes / 2
  }

  get(token: string): Verified | undefined {
    const entry = this.#young.get(token)
    if (entry !== undefined) return entry
    const older = this.#old.get(token)
    if (older !== undefined) {
      this.#old.delete(token)
      this.set(token, older)
    }
    return older
  }

  set(token: string, entry: Verified): void {
    const bytes = token.length + 3 * entry.principal.json.length + overhead
    if (bytes > this.#halfBytes) return
    if (this.#youngBytes + bytes > this.#halfBytes) {
      this.#old = this.#young
      this.#young = new Map()
      this.#youngBytes = 0
    }
    // A token taken out of the header is a slice of it: without a copy the whole header block would stay.
    this.#young.set(Buffer.from(token, 'latin1').toString('latin1'), entry)
    this.#youngBytes += bytes
  }

  delete(token: string): void {
    this.#young.delete(token)
    this.#old.delete(token)
  }
}
