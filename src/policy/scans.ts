/**
 * The order of scans: OPA visits the members of sets and the keys of objects in their order, the module in the order of
 * hashes. The module asks for the next key where the order matters (planned.ts). The keys of one collection are sorted
 * when a scan of it begins, and kept until another scan of it does.
 *
 * The layout of sets and objects is that of OPA's value.h: the addresses of the buckets at 4, their number at 8, the
 * number of members at 12. A bucket is a list of elements: the key at 0; the next one at 8 for objects, at 4 for sets.
 */
import { valueType } from './data-memory.ts'

interface Scan {
  readonly keys: readonly number[]
  at: number
}

export class Scans {
  readonly #compare: (a: number, b: number) => number
  /** By address of the collection. */
  readonly #scans = new Map<number, Scan>()

  /** @param compare The module's own comparison of two values. */
  constructor(compare: (a: number, b: number) => number) {
    this.#compare = compare
  }

  /** Forgets everything before the next evaluation, which may have other values at the same addresses. */
  reset(): void {
    if (this.#scans.size > 0) this.#scans.clear()
  }

  /** @param previous The key that was visited last; 0 at the beginning. @returns 0 at the end. */
  next(memory: Buffer, collection: number, previous: number): number {
    if (previous === 0) return this.#begin(memory, collection)
    const scan = this.#scans.get(collection)
    if (scan === undefined) return 0
    // An inner scan of the same collection may have moved on.
    if (scan.keys[scan.at] !== previous) scan.at = scan.keys.indexOf(previous)
    return scan.keys[++scan.at] ?? 0
  }

  #begin(memory: Buffer, collection: number): number {
    const keys = keysIn(memory, collection)
    keys.sort(this.#compare)
    this.#scans.set(collection, { keys, at: 0 })
    return keys[0] ?? 0
  }
}

function keysIn(memory: Buffer, collection: number): number[] {
  const nextAt = memory[collection] === valueType.object ? 8 : 4
  const buckets = memory.readUInt32LE(collection + 4)
  const count = memory.readUInt32LE(collection + 8)
  const members = memory.readUInt32LE(collection + 12)
  const keys: number[] = []
  for (let i = 0; i < count && keys.length < members; i++) {
    let element = memory.readUInt32LE(buckets + 4 * i)
    // A module that lies about its members must not hold the host in a circle.
    while (element !== 0 && keys.length < members) {
      keys.push(memory.readUInt32LE(element))
      element = memory.readUInt32LE(element + nextAt)
    }
  }
  return keys
}
