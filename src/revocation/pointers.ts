/**
 * The claims that rows name, as JSON pointers, in shared memory: the control thread adds, every worker reads without a
 * message in between, so a worker cannot be late (the invariant is at `heldKeys`). Only ever grows.
 *
 * Layout: word 0 the number of pointers, word 1 the bytes in use; then for each its length in two bytes and UTF-8.
 */
import type { Pointers } from '../domain/principal.ts'
import { GateError } from '../errors.ts'

/** `prepare_revocation()` in store/sql allows 64 of 256 bytes; a gate may outlive several databases. */
const capacityBytes = 8 + 256 * 258

export class ClaimPointers implements Pointers {
  readonly shared: SharedArrayBuffer
  readonly #words: Int32Array
  readonly #bytes: Uint8Array
  readonly #read: string[] = []
  #readTo = 8

  constructor(shared: SharedArrayBuffer = new SharedArrayBuffer(capacityBytes + 2)) {
    this.shared = shared
    this.#words = new Int32Array(shared, 0, 2)
    this.#bytes = new Uint8Array(shared)
  }

  get count(): number {
    return Atomics.load(this.#words, 0)
  }

  at(index: number): string {
    while (this.#read.length <= index) {
      const length = this.#bytes[this.#readTo]! * 256 + this.#bytes[this.#readTo + 1]!
      const from = this.#readTo + 2
      this.#read.push(Buffer.from(this.#bytes.slice(from, from + length)).toString())
      this.#readTo = from + length
    }
    return this.#read[index]!
  }

  /**
   * Control thread only. To be called with what a snapshot names before any of its rows is written.
   * @returns whether there was a new one; then the ledger must publish, so that no older stamp is believed.
   * @throws GateError ERR_LEDGER_FULL: the gate must not claim to be complete then.
   */
  learn(pointers: readonly string[]): boolean {
    const known = this.count
    for (let i = 0; i < known; i++) this.at(i)
    for (const pointer of pointers) if (!this.#read.includes(pointer)) this.#append(pointer)
    return this.count !== known
  }

  #append(pointer: string): void {
    const text = Buffer.from(pointer)
    const at = 8 + this.#words[1]!
    if (at + 2 + text.length > capacityBytes) {
      throw new GateError('ERR_LEDGER_FULL', 'rows name more claims than the gate has room for', {
        hint: 'restart the gate: it forgets the claims of databases it has left',
      })
    }
    this.#bytes[at] = text.length >>> 8
    this.#bytes[at + 1] = text.length & 0xff
    this.#bytes.set(text, at + 2)
    this.#words[1] = this.#words[1]! + 2 + text.length
    Atomics.add(this.#words, 0, 1)
    this.#read.push(pointer)
    this.#readTo = at + 2 + text.length
  }
}
