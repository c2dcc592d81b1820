/**
 * Sums over the rows of a ledger, updated with each added or removed row, so that the whole ledger can be compared
 * with the database table at any time. `digest()` in store/sql computes the same sums there. The sums are 32-bit with
 * overflow, in 256 buckets by row id.
 */
import { type Entry, flag, type Table } from './table.ts'

export const digestBuckets = 256
/** Number of sums per bucket: rows, ids, first words of first keys, cutoffs, and key counts with flags and expiries. */
export const digestColumns = 5

export class Digest {
  readonly sums = new Int32Array(digestBuckets * digestColumns)

  add(entry: Entry, key: Int32Array): void {
    this.#sum(1, entry.id, key[0]!, entry.packed, entry.cutoffUs, entry.expiry)
  }

  addRow(table: Table, slot: number, key: Int32Array): void {
    this.#row(1, table, slot, key)
  }

  subtract(table: Table, slot: number, key: Int32Array): void {
    this.#row(-1, table, slot, key)
  }

  #row(sign: 1 | -1, table: Table, slot: number, key: Int32Array): void {
    const packed = table.packedAt(slot)
    this.#sum(sign, table.idAt(slot), key[0]!, packed, table.cutoffUsAt(slot), table.expiryAt(slot))
  }

  #sum(
    sign: 1 | -1,
    id: number,
    word: number,
    packed: number,
    cutoff: number,
    expiry: number,
  ): void {
    const { sums } = this
    const at = (id % digestBuckets) * digestColumns
    const cutoffLow = (packed & flag.cutoff) === 0 ? 0 : (cutoff % 2 ** 32) | 0
    sums[at] = sums[at]! + sign
    sums[at + 1] = sums[at + 1]! + sign * ((id % 2 ** 32) | 0)
    sums[at + 2] = sums[at + 2]! + sign * word
    sums[at + 3] = sums[at + 3]! + sign * cutoffLow
    sums[at + 4] = sums[at + 4]! + sign * (packed >>> 8) + sign * (expiry | 0)
  }
}
