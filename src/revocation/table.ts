/**
 * One table of the ledger: a hash index with open addressing in a SharedArrayBuffer. The rules that its readers rely
 * on are at `Ledger`.
 *
 * Layout in 32-bit words: header | a tag per slot | 10 words per slot | overflow keys × 5.
 *   tag: 0 empty · 2 dead · else 30 bits of word 1 of the key, and a 1
 *   slot: 0 key word 0 · 1–2 key words 2, 3 · 3–4 row id, above it two bits of key word 1 · 5 kind, number of further
 *         keys, flags · 6–7 cutoff µs · 8 expiry · 9 index of the first overflow key
 *   overflow key: four words of digest, then its kind
 * A probe reads tags, sixteen per cache line, and touches a slot only if its tag fits. That allows the table to be
 * nine tenths full, at 44 bytes per slot.
 */
import { keyBytes, negatedBit, type RevocationRow } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'

const magic = 0x64676c32 // 'dgl2'
const head = { magic: 0, slots: 1, overflow: 2, used: 3, live: 4, overflowUsed: 5 } as const
const headWords = 16
const slotWords = 10
const overflowWords = 5
const dead = 2

/** Word 5 of a slot: bits 0–7 kind, 8–15 number of overflow keys, then these flags. */
export const flag = { cutoff: 1 << 16, exact: 1 << 17, authTime: 1 << 18 } as const

/**
 * Expiry is stored as 32-bit seconds since 2000-01-01 UTC. A later time is stored as never: the row then expires too
 * late, not too early.
 */
export const expiryEpochS = 946_684_800

/** Shares of used slots: in a new table, when a larger table is begun, and when no more rows are accepted. */
const load = { made: 0.72, grow: 0.8, full: 0.9 } as const

/** A row in the form in which a table takes it. The caller owns the key bytes and may reuse them afterwards. */
export interface Entry {
  id: number
  /** Holds the keys from `keysAt` on; the row is filed under the first key, negated keys are last. */
  bytes: DataView
  keysAt: number
  keys: number
  packed: number
  cutoffUs: number
  /** Expiry in stored form (`storedExpiry`). */
  expiry: number
}

export interface Counts {
  used: number
  live: number
  overflow: number
}

export class Table {
  readonly shared: SharedArrayBuffer
  readonly words: Int32Array
  readonly slots: number
  readonly #rowsAt: number
  readonly #overflowAt: number

  private constructor(shared: SharedArrayBuffer) {
    this.shared = shared
    this.words = new Int32Array(shared)
    this.slots = this.words[head.slots]!
    this.#rowsAt = headWords + this.slots
    this.#overflowAt = this.#rowsAt + this.slots * slotWords
    const end = this.#overflowAt + this.words[head.overflow]! * overflowWords
    if (this.words[head.magic] !== magic || this.words.length !== end)
      throw new GateError('ERR_INTERNAL', 'not a ledger')
  }

  static attach(shared: SharedArrayBuffer): Table {
    return new Table(shared)
  }

  /**
   * @param rows Number of rows to hold before the table has to grow. @param overflow Number of further keys to hold.
   */
  static create(rows: number, overflow: number): Table {
    const slots = Math.max(1024, Math.ceil(rows / load.made))
    const keys = Math.max(1024, slots >>> 5, overflow)
    const words = headWords + slots * (1 + slotWords) + keys * overflowWords
    const shared = new SharedArrayBuffer(words * 4)
    const view = new Int32Array(shared)
    view[head.magic] = magic
    view[head.slots] = slots
    view[head.overflow] = keys
    return new Table(shared)
  }

  /** Number of live rows. */
  get live(): number {
    return Atomics.load(this.words, head.live)
  }

  /** Number of used slots, including dead ones. */
  get used(): number {
    return Atomics.load(this.words, head.used)
  }

  get overflowUsed(): number {
    return this.words[head.overflowUsed]!
  }

  /** Number of slots that may be used. */
  get capacity(): number {
    return Math.floor(this.slots * load.full)
  }

  /** Returns true if this many more rows and further keys fit. */
  hasRoom(rows: number, overflow: number): boolean {
    return (
      this.used + rows <= this.capacity &&
      this.overflowUsed + overflow <= this.words[head.overflow]!
    )
  }

  /** Returns true if it is time to start a larger table, while this one still has room. */
  isFilling(rows: number, overflow: number): boolean {
    return (
      this.used + rows > this.slots * load.grow ||
      this.overflowUsed + overflow > this.words[head.overflow]! * load.grow
    )
  }

  // --- Reading: any thread, no lock ---

  /**
   * Returns the next live slot of a key, −1 if there is none.
   * @param keys Words of keys; the key to find starts at index `k`. @param from The slot found before, −1 at the
   * start.
   */
  find(keys: Uint32Array | Int32Array, k: number, from: number): number {
    const { words, slots } = this
    const tag = (keys[k + 1]! & ~3) | 1
    let slot = from === -1 ? this.#home(keys[k]!) : from + 1
    for (; ; slot++) {
      if (slot === slots) slot = 0
      const found = Atomics.load(words, headWords + slot)
      if (found === 0) return -1
      if (found !== tag) continue
      const at = this.#rowsAt + slot * slotWords
      if (
        words[at] === (keys[k]! | 0) &&
        words[at + 1] === (keys[k + 2]! | 0) &&
        words[at + 2] === (keys[k + 3]! | 0) &&
        words[at + 4]! >>> 30 === (keys[k + 1]! & 3)
      )
        return slot
    }
  }

  idAt(slot: number): number {
    const at = this.#rowsAt + slot * slotWords
    return (this.words[at + 4]! & 0x3fffffff) * 2 ** 32 + (this.words[at + 3]! >>> 0)
  }

  packedAt(slot: number): number {
    return this.words[this.#rowsAt + slot * slotWords + 5]!
  }

  cutoffUsAt(slot: number): number {
    const at = this.#rowsAt + slot * slotWords
    return (this.words[at + 7]! >>> 0) * 2 ** 32 + (this.words[at + 6]! >>> 0)
  }

  expiryAt(slot: number): number {
    return this.words[this.#rowsAt + slot * slotWords + 8]! >>> 0
  }

  /** Returns true if all further keys of the row are in `held`, and none of its negated keys is. */
  otherKeysFit(slot: number, held: Uint32Array): boolean {
    const { words } = this
    const at = this.#rowsAt + slot * slotWords
    const extra = (words[at + 5]! >>> 8) & 0xff
    for (let e = 0; e < extra; e++) {
      const from = this.#overflowAt + (words[at + 9]! + e) * overflowWords
      let found = false
      for (let k = 0; k < held.length && !found; k += 4) {
        found =
          words[from] === (held[k]! | 0) &&
          words[from + 1] === (held[k + 1]! | 0) &&
          words[from + 2] === (held[k + 2]! | 0) &&
          words[from + 3] === (held[k + 3]! | 0)
      }
      if (found === ((words[from + 4]! & negatedBit) !== 0)) return false
    }
    return true
  }

  // --- Writing: only the control thread ---

  /** Returns the live slot of this row under its first key, −1 if there is none. */
  locate(id: number, key: Int32Array): number {
    let slot = this.find(key, 0, -1)
    while (slot !== -1 && this.idAt(slot) !== id) slot = this.find(key, 0, slot)
    return slot
  }

  /**
   * Adds a row that is not in the table. The words are written before the tag, so that a reader who sees the tag sees
   * the whole row. The caller must ensure that there is room.
   */
  insert(entry: Entry, key: Int32Array): void {
    const { words } = this
    const slot = this.#free(key[0]!)
    const at = this.#rowsAt + slot * slotWords
    const overflowAt = words[head.overflowUsed]!
    const high = Math.floor(entry.id / 2 ** 32)
    words[at] = key[0]!
    words[at + 1] = key[2]!
    words[at + 2] = key[3]!
    words[at + 3] = (entry.id % 2 ** 32) | 0
    words[at + 4] = high | ((key[1]! & 3) << 30)
    words[at + 5] = entry.packed
    if ((entry.packed & flag.cutoff) !== 0) {
      words[at + 6] = (entry.cutoffUs % 2 ** 32) | 0
      words[at + 7] = Math.floor(entry.cutoffUs / 2 ** 32)
    }
    words[at + 8] = entry.expiry
    if (entry.keys > 1) {
      words[at + 9] = overflowAt
      for (let e = 1; e < entry.keys; e++) {
        const from = entry.keysAt + e * keyBytes
        const to = this.#overflowAt + (overflowAt + e - 1) * overflowWords
        for (let w = 0; w < 4; w++) words[to + w] = entry.bytes.getInt32(from + 1 + w * 4, true)
        words[to + 4] = entry.bytes.getUint8(from)
      }
      words[head.overflowUsed] = overflowAt + entry.keys - 1
    }
    this.#show(slot, key[1]!)
  }

  /** Removes a row for all readers. Its slot stays used, so that no probe ends too early. */
  kill(slot: number): void {
    Atomics.store(this.words, headWords + slot, dead)
    Atomics.sub(this.words, head.live, 1)
  }

  /** Copies the words of the key of a live slot. @returns False for any other slot. */
  keyAt(slot: number, into: Int32Array): boolean {
    const tag = this.words[headWords + slot]!
    if ((tag & 1) === 0) return false
    const at = this.#rowsAt + slot * slotWords
    into[0] = this.words[at]!
    into[1] = (tag & ~3) | (this.words[at + 4]! >>> 30)
    into[2] = this.words[at + 1]!
    into[3] = this.words[at + 2]!
    return true
  }

  /**
   * Adds a slot to counts that are computed again. If a copy was made while rows were written, its header does not
   * count them all.
   */
  count(slot: number, counts: Counts): void {
    const tag = this.words[headWords + slot]!
    if (tag === 0) return
    counts.used++
    if ((tag & 1) === 0) return
    counts.live++
    const at = this.#rowsAt + slot * slotWords
    const extra = (this.words[at + 5]! >>> 8) & 0xff
    if (extra > 0) counts.overflow = Math.max(counts.overflow, this.words[at + 9]! + extra)
  }

  setCounts({ used, live, overflow }: Counts): void {
    this.words[head.used] = used
    this.words[head.live] = live
    this.words[head.overflowUsed] = overflow
  }

  /** Copies the live row of a slot to another table unless it is already there. @returns Number of copied keys. */
  copyTo(other: Table, slot: number): number {
    const { words } = this
    if (!this.keyAt(slot, copied)) return 0
    const at = this.#rowsAt + slot * slotWords
    if (other.locate(this.idAt(slot), copied) !== -1) return 0
    const free = other.#free(copied[0]!)
    const to = other.#rowsAt + free * slotWords
    for (let w = 0; w < slotWords; w++) other.words[to + w] = words[at + w]!
    const extra = (words[at + 5]! >>> 8) & 0xff
    if (extra > 0) {
      const from = this.#overflowAt + words[at + 9]! * overflowWords
      const begin = other.words[head.overflowUsed]!
      const target = other.#overflowAt + begin * overflowWords
      for (let w = 0; w < extra * overflowWords; w++) other.words[target + w] = words[from + w]!
      other.words[to + 9] = begin
      other.words[head.overflowUsed] = begin + extra
    }
    other.#show(free, copied[1]!)
    return 1 + extra
  }

  /** Returns true if the live slot has the same content as the entry. */
  equals(slot: number, entry: Entry): boolean {
    const { words } = this
    const at = this.#rowsAt + slot * slotWords
    if (words[at + 5] !== entry.packed || words[at + 8] !== (entry.expiry | 0)) return false
    if ((entry.packed & flag.cutoff) !== 0 && this.cutoffUsAt(slot) !== entry.cutoffUs) return false
    for (let e = 1; e < entry.keys; e++) {
      const from = this.#overflowAt + (words[at + 9]! + e - 1) * overflowWords
      const given = entry.keysAt + e * keyBytes
      if (words[from + 4] !== entry.bytes.getUint8(given)) return false
      for (let w = 0; w < 4; w++) {
        if (words[from + w] !== entry.bytes.getInt32(given + 1 + w * 4, true)) return false
      }
    }
    return true
  }

  /** Returns the row of a live slot; undefined for any other slot. */
  rowAt(slot: number): RevocationRow | undefined {
    const { words } = this
    const tag = Atomics.load(words, headWords + slot)
    if ((tag & 1) === 0) return undefined
    const at = this.#rowsAt + slot * slotWords
    const packed = words[at + 5]!
    const extra = (packed >>> 8) & 0xff
    const keys = Buffer.alloc((1 + extra) * keyBytes)
    keys[0] = packed & 0xff
    keys.writeInt32LE(words[at]!, 1)
    keys.writeInt32LE((tag & ~3) | (words[at + 4]! >>> 30), 5)
    keys.writeInt32LE(words[at + 1]!, 9)
    keys.writeInt32LE(words[at + 2]!, 13)
    for (let e = 0; e < extra; e++) {
      const from = this.#overflowAt + (words[at + 9]! + e) * overflowWords
      const to = (e + 1) * keyBytes
      keys[to] = words[from + 4]!
      for (let w = 0; w < 4; w++) keys.writeInt32LE(words[from + w]!, to + 1 + w * 4)
    }
    const expiry = this.expiryAt(slot)
    return {
      id: this.idAt(slot),
      keys,
      cutoffUs: packed & flag.cutoff ? this.cutoffUsAt(slot) : null,
      exact: (packed & flag.exact) !== 0,
      authTime: (packed & flag.authTime) !== 0,
      expiresAtS: expiry === 0 ? null : expiry + expiryEpochS,
    }
  }

  #free(word: number): number {
    const { words, slots } = this
    let slot = this.#home(word)
    while (words[headWords + slot] !== 0) if (++slot === slots) slot = 0
    return slot
  }

  #show(slot: number, word1: number): void {
    this.words[head.used] = this.words[head.used]! + 1
    Atomics.store(this.words, headWords + slot, (word1 & ~3) | 1)
    Atomics.add(this.words, head.live, 1)
  }

  /** Maps a word to a slot by multiplication and shift, so that the number of slots need not be a power of two. */
  #home(word: number): number {
    return Math.floor(((word >>> 0) * this.slots) / 2 ** 32)
  }
}

const copied = new Int32Array(4)
