/**
 * The layout of OPA's values in the memory of a module, as in its wasm/src/value.h, and the space for new ones.
 *
 * The gate writes the `data` document itself: the module's own parser gives each number 76 bytes and each name of a
 * member a copy of its own, which makes 11 bytes of memory of one byte of JSON. Values of `data` are never changed or
 * freed by an evaluation, so equal strings and numbers share one value here.
 *
 * `checkLayout` in data-writer.ts compares what is written here with what the module reads: a module that stores values
 * in another way is refused.
 */

/** Numbers that OPA gives to the types of values. */
export const valueType = {
  null: 1,
  boolean: 2,
  number: 3,
  string: 4,
  array: 5,
  object: 6,
  set: 7,
  /** A text that the module holds as a constant. */
  internedString: 8,
} as const

/** How a number is stored: as 64 bits, or by its digits. */
export const numberForm = { integer: 1, digits: 2 } as const

/** Bytes of a value's head; what belongs to it follows in the same piece of memory or elsewhere. */
export const size = { boolean: 4, number: 24, string: 12, array: 16, object: 16, member: 12 }

/** The allocator of the module. */
export interface ModuleHeap {
  readonly memory: WebAssembly.Memory
  /** @throws when the memory is used up */
  readonly allocate: (bytes: number) => number
  readonly end: () => number
  readonly setEnd: (at: number) => void
}

const smallChunk = 4096
const largeChunk = 1 << 20

/** Views of a module's memory, and space in it. Addresses are in bytes; `words` holds 32 bits each. */
export class DataMemory {
  readonly #heap: ModuleHeap
  bytes!: Uint8Array
  words!: Uint32Array
  #at = 0
  #end = 0

  constructor(heap: ModuleHeap) {
    this.#heap = heap
    this.refresh()
  }

  /** Makes new views when the memory has grown: the old ones then read as empty. */
  refresh(): void {
    const { buffer } = this.#heap.memory
    if (this.bytes?.buffer === buffer) return
    this.bytes = new Uint8Array(buffer)
    this.words = new Uint32Array(buffer)
  }

  /** Space for a value, aligned to 4 bytes. @throws when the memory is used up */
  allocate(bytes: number): number {
    const at = this.#at
    const next = at + ((bytes + 3) & ~3)
    if (next <= this.#end) {
      this.#at = next
      return at
    }
    return this.#allocateNew(bytes)
  }

  /** Ends the writing: what was not used of the last chunk is given back. @returns the new end of the heap */
  finish(): number {
    if (this.#end !== 0) this.#heap.setEnd(this.#at)
    this.#at = 0
    this.#end = 0
    return this.#heap.end()
  }

  /** Gives back everything that was written since the heap ended at `end`. */
  abandon(end: number): void {
    this.#at = 0
    this.#end = 0
    this.#heap.setEnd(end)
    this.refresh()
  }

  #allocateNew(bytes: number): number {
    const rounded = (bytes + 3) & ~3
    // The first chunk is small, so that a change of one member does not take a large one; each further chunk is large.
    const chunk = Math.max(rounded, this.#end === 0 ? smallChunk : largeChunk)
    // The module may give an address that is not a multiple of 4: its blocks have the sizes of texts.
    const at = (this.#heap.allocate(chunk + 4) + 3) & ~3
    this.refresh()
    this.#at = (at >>> 0) + rounded
    this.#end = (at >>> 0) + chunk
    return at >>> 0
  }

  typeOf(value: number): number {
    return this.bytes[value]!
  }

  textOf(string: number): string {
    const [length, at] = [this.words[(string + 4) >>> 2]!, this.words[(string + 8) >>> 2]!]
    return Buffer.from(this.bytes.buffer, at, length).toString('utf8')
  }

  /** True when the string has these bytes. */
  holds(string: number, text: Uint8Array, from: number, to: number): boolean {
    const { words } = this
    if (words[(string + 4) >>> 2] !== to - from) return false
    return this.#equals(words[(string + 8) >>> 2]!, text, from, to)
  }

  /** True when the number is stored by these digits. */
  holdsDigits(number: number, text: Uint8Array, from: number, to: number): boolean {
    const { words } = this
    if (words[(number + 12) >>> 2] !== to - from) return false
    return this.#equals(words[(number + 8) >>> 2]!, text, from, to)
  }

  #equals(at: number, text: Uint8Array, from: number, to: number): boolean {
    const { bytes } = this
    for (let i = from; i < to; i++) if (bytes[at + i - from] !== text[i]) return false
    return true
  }

  copy(text: Uint8Array, from: number, to: number, at: number): void {
    const { bytes } = this
    // For the short texts of names and numbers a loop is faster than a call.
    if (to - from > 32) bytes.set(text.subarray(from, to), at)
    else for (let i = from; i < to; i++) bytes[at + i - from] = text[i]!
  }

  /** Member with this name among those of one bucket; 0 when there is none. */
  findIn(bucket: number, name: number): number {
    const { words } = this
    const [length, at] = [words[(name + 4) >>> 2]!, words[(name + 8) >>> 2]!]
    let member = words[bucket >>> 2]!
    while (member !== 0) {
      const other = words[member >>> 2]!
      if (other === name || this.holds(other, this.bytes, at, at + length)) break
      member = words[(member + 8) >>> 2]!
    }
    return member
  }

  /** Where the address of a new member goes: in the bucket or in another member; they are in the order of their names. */
  placeIn(bucket: number, name: number): number {
    const { words } = this
    let place = bucket
    let after = words[bucket >>> 2]!
    while (after !== 0 && !this.precedes(name, words[after >>> 2]!)) {
      place = after + 8
      after = words[place >>> 2]!
    }
    return place
  }

  /** Puts a member into its bucket. */
  link(bucket: number, member: number, name: number, value: number): void {
    const { words } = this
    const place = this.placeIn(bucket, name)
    words[member >>> 2] = name
    words[(member + 4) >>> 2] = value
    words[(member + 8) >>> 2] = words[place >>> 2]!
    words[place >>> 2] = member
  }

  /** Order of strings in the module: by bytes. */
  precedes(a: number, b: number): boolean {
    const { words, bytes } = this
    const [lengthA, lengthB] = [words[(a + 4) >>> 2]!, words[(b + 4) >>> 2]!]
    const [atA, atB] = [words[(a + 8) >>> 2]!, words[(b + 8) >>> 2]!]
    const shorter = Math.min(lengthA, lengthB)
    for (let i = 0; i < shorter; i++) {
      const order = bytes[atA + i]! - bytes[atB + i]!
      if (order !== 0) return order < 0
    }
    return lengthA < lengthB
  }
}

/** The hash by which the module files strings is FNV-1. */
export const hashStart = 0x811c9dc5
export const hashFactor = 0x01000193

export function hashOf(text: Uint8Array, from: number, to: number): number {
  let hash = hashStart
  for (let i = from; i < to; i++) hash = Math.imul(hash, hashFactor) ^ text[i]!
  return hash >>> 0
}

/** Number of buckets with which the module holds this many members. */
export function bucketsFor(members: number): number {
  let buckets = 8
  while (members > buckets * 0.7) buckets *= 2
  return buckets
}
