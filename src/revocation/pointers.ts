/**
 * The claims that rows name, as JSON pointers in shared memory. The control thread adds pointers and every worker
 * reads them directly, without a message that could arrive late (the invariant is at `heldKeys`). The list only
 * grows.
 *
 * Layout: word 0 is the number of pointers, word 1 the bytes in use; then for each pointer two bytes of length and
 * its UTF-8.
 */
import type { Pointers } from '../domain/principal.ts'
import { GateError } from '../errors.ts'

/**
 * Room for 256 pointers of 256 bytes. `prepare_revocation()` in store/sql allows 64, but a gate may be connected to
 * several databases in turn.
 */
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
   * Adds pointers. Only the control thread calls this, with the pointers of a snapshot before any of its rows is
   * written.
   * @returns True if a pointer was new; then the ledger must publish, so that older stamps become invalid.
   * @throws GateError ERR_LEDGER_FULL; then the gate must not claim that its ledger is complete.
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
      throw new GateError(
        'ERR_LEDGER_FULL',
        'the revocation rows name more different claims than the gate has room for',
        {
          hint: 'restart the gate: it then forgets claims that only an earlier database named',
        },
      )
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
