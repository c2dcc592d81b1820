/**
 * Reads rows by COPY in binary form, the only way that is fast enough for millions of rows. They are decoded in place,
 * without an object for each row.
 */
import type { Readable } from 'node:stream'
import type pg from 'pg'
import { to as copyTo } from 'pg-copy-streams'
import { keyBytes, type RevocationRow } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import { type Entry, flagsOf, newEntry } from '../revocation/ledger.ts'

/** Columns of `live`, in the order that `RowReader` reads them. */
export const rowColumns = 'id, keys, issued_before, exact, auth_time, expires_at'

/** Passes every chunk of a COPY to the handler, in order; the next chunk is read when the handler has finished. */
export async function copyOut(
  client: pg.Client,
  query: string,
  onChunk: (chunk: Buffer) => Promise<void> | void,
): Promise<void> {
  const stream = client.query(
    copyTo(`COPY (${query}) TO STDOUT (FORMAT binary)`),
  ) as unknown as Readable
  for await (const chunk of stream) await onChunk(chunk as Buffer)
}

const signature = Buffer.from('PGCOPY\n\xff\r\n\0', 'latin1')

/**
 * Splits the stream into its rows (PostgreSQL documentation, "Binary Format" under COPY); a chunk may end inside a row.
 */
abstract class CopyReader {
  readonly #columns: number
  #rest: Buffer = Buffer.alloc(0)
  #begun = false
  #ended = false

  constructor(columns: number) {
    this.#columns = columns
  }

  /** Reads the row that begins at `at`, after its number of fields. */
  protected abstract take(bytes: DataView, at: number): void

  push(chunk: Buffer): void {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    if (!this.#begun) {
      if (bytes.length < 19) {
        this.#rest = bytes
        return
      }
      if (!bytes.subarray(0, 11).equals(signature)) throw brokenOff()
      bytes = bytes.subarray(19 + bytes.readInt32BE(15))
      this.#begun = true
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    let at = 0
    for (;;) {
      const end = this.#endOfRow(view, at)
      if (end === -1) break
      if (view.getInt16(at) === -1) this.#ended = true
      else this.take(view, at + 2)
      at = end
    }
    // A copy, so that a few left-over bytes do not keep the whole chunk alive.
    this.#rest = Buffer.from(bytes.subarray(at))
  }

  /** @throws GateError when the stream ended early: half a table must never count as the whole. */
  end(): void {
    if (!this.#ended || this.#rest.length !== 0) throw brokenOff()
  }

  #endOfRow(bytes: DataView, at: number): number {
    const { byteLength } = bytes
    if (byteLength < at + 2) return -1
    const fields = bytes.getInt16(at)
    let end = at + 2
    if (fields === -1) return end
    if (fields !== this.#columns) throw brokenOff()
    for (let i = 0; i < fields; i++) {
      if (byteLength < end + 4) return -1
      end += 4 + Math.max(0, bytes.getInt32(end))
    }
    return end <= byteLength ? end : -1
  }
}

/** Microseconds from 1970 to 2000, where PostgreSQL's times begin. */
const epochUs = 946_684_800_000_000

/** Rows of `live`. The entry is reused for each row: to keep a row, call `rowOf`. */
export class RowReader extends CopyReader {
  readonly #entry: Entry = newEntry()
  readonly #onRow: (entry: Entry, keyLength: number, flags: number) => void

  constructor(onRow: (entry: Entry, keyLength: number, flags: number) => void) {
    super(6)
    this.#onRow = onRow
  }

  protected override take(bytes: DataView, start: number): void {
    const entry = this.#entry
    entry.bytes = bytes
    entry.id = int8(bytes, start + 4)
    let at = start + 12
    const keyLength = bytes.getInt32(at)
    entry.keysAt = at + 4
    at += 4 + keyLength
    const cutoff = bytes.getInt32(at) === 8
    entry.cutoffUs = cutoff ? int8(bytes, at + 4) + epochUs : 0
    at += cutoff ? 12 : 4
    const exact = bytes.getUint8(at + 4) === 1
    const authTime = bytes.getUint8(at + 9) === 1
    at += 10
    entry.expiry = bytes.getInt32(at) === 8 ? stored(int8(bytes, at + 4)) : 0
    this.#onRow(entry, keyLength, flagsOf(cutoff, exact, authTime))
  }
}

/** Tombstones: row id and keys. */
export class TombReader extends CopyReader {
  readonly #onTomb: (id: number, keys: Buffer) => void

  constructor(onTomb: (id: number, keys: Buffer) => void) {
    super(2)
    this.#onTomb = onTomb
  }

  protected override take(bytes: DataView, start: number): void {
    this.#onTomb(int8(bytes, start + 4), bytesOf(bytes, start + 16, bytes.getInt32(start + 12)))
  }
}

/** A copy of the row. To be called before the entry is written to the ledger, which changes it. */
export function rowOf(entry: Entry, keyLength: number, flags: number): RevocationRow {
  const cutoff = flags !== 0
  return {
    id: entry.id,
    keys: bytesOf(entry.bytes, entry.keysAt, keyLength),
    cutoffUs: cutoff ? entry.cutoffUs : null,
    exact: (flags & exactFlag) !== 0,
    authTime: (flags & authTimeFlag) !== 0,
    expiresAtS: entry.expiry === 0 ? null : entry.expiry + epochUs / 1e6,
  }
}

const exactFlag = flagsOf(true, true, false) & ~flagsOf(true, false, false)
const authTimeFlag = flagsOf(true, false, true) & ~flagsOf(true, false, false)

function bytesOf(bytes: DataView, at: number, length: number): Buffer {
  return Buffer.from(Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset + at, length))
}

/** Whole seconds since 2000. Rounded up, so that the row ends late rather than early. */
function stored(us: number): number {
  const seconds = Math.max(1, Math.ceil(us / 1e6))
  return seconds >= 2 ** 32 ? 0 : seconds
}

function int8(bytes: DataView, at: number): number {
  return bytes.getInt32(at) * 2 ** 32 + bytes.getUint32(at + 4)
}

function brokenOff(): GateError {
  return new GateError(
    'ERR_DATABASE_REFUSED',
    'the copy of the revocations from the database ended early or is malformed',
  )
}

/** Upper bound of the rows in a chunk of this size: the ledger makes room for that many. */
export function mostRows(chunk: Buffer): number {
  return Math.ceil(chunk.length / (2 + 12 + 4 + keyBytes + 4 + 10 + 4)) + 1
}
