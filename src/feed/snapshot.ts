/**
 * The full load: every row of one snapshot by COPY in binary form, on a session of its own.
 */
import type { Readable } from 'node:stream'
import type pg from 'pg'
import { to as copyTo } from 'pg-copy-streams'
import type { RevocationRow } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import type { Ident } from './state.ts'

/**
 * Opens a snapshot, tells its identity and number of rows, then hands every row over in order. The handler is
 * called between reads from the socket, so the event loop turns about every thousand rows.
 */
export async function loadAll(
  client: pg.Client,
  schema: string,
  onOpen: (ident: Ident, rows: number) => void,
  onRow: (row: RevocationRow) => void,
): Promise<Ident> {
  await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
  const ident = (await client.query(`SELECT * FROM ${schema}.ident()`)).rows[0] as Ident
  const { rows } = await client.query(`SELECT count(*)::int AS n FROM ${schema}.live`)
  onOpen(ident, rows[0].n)
  const stream = client.query(
    copyTo(
      `COPY (SELECT id, keys, cutoff_us, exact, auth_time, expires_s FROM ${schema}.live) TO STDOUT (FORMAT binary)`,
    ),
  ) as unknown as Readable
  const reader = new CopyReader(onRow)
  for await (const chunk of stream) reader.push(chunk as Buffer)
  reader.end()
  await client.query('COMMIT')
  return ident
}

const signature = Buffer.from('PGCOPY\n\xff\r\n\0', 'latin1')

/** Decodes COPY's binary form (PostgreSQL documentation, "Binary Format" under COPY); chunks break anywhere. */
export class CopyReader {
  readonly #onRow: (row: RevocationRow) => void
  #rest: Buffer = Buffer.alloc(0)
  #begun = false
  #ended = false

  constructor(onRow: (row: RevocationRow) => void) {
    this.#onRow = onRow
  }

  push(chunk: Buffer): void {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    if (!this.#begun) {
      if (bytes.length < 19) {
        this.#rest = bytes
        return
      }
      if (!bytes.subarray(0, 11).equals(signature)) throw malformed()
      bytes = bytes.subarray(19 + bytes.readInt32BE(15))
      this.#begun = true
    }
    let at = 0
    for (;;) {
      const end = endOfRow(bytes, at)
      if (end === -1) break
      if (bytes.readInt16BE(at) === -1) this.#ended = true
      else this.#onRow(readRow(bytes, at))
      at = end
    }
    // A copy, so that a few left-over bytes do not keep the whole chunk alive.
    this.#rest = Buffer.from(bytes.subarray(at))
  }

  /** @throws GateError when the stream broke off: half a table must never pass for all of it. */
  end(): void {
    if (!this.#ended || this.#rest.length !== 0) throw malformed()
  }
}

const columns = 6

/** Where the row at `at` ends, −1 when it is not complete yet. */
function endOfRow(bytes: Buffer, at: number): number {
  if (bytes.length < at + 2) return -1
  const fields = bytes.readInt16BE(at)
  let end = at + 2
  if (fields === -1) return end
  if (fields !== columns) throw malformed()
  for (let i = 0; i < columns; i++) {
    if (bytes.length < end + 4) return -1
    end += 4 + Math.max(0, bytes.readInt32BE(end))
  }
  return end <= bytes.length ? end : -1
}

function readRow(bytes: Buffer, start: number): RevocationRow {
  let at = start + 2
  let length = 0
  const next = (): boolean => {
    at += Math.max(0, length)
    length = bytes.readInt32BE(at)
    at += 4
    return length >= 0
  }
  next()
  const id = int8(bytes, at)
  next()
  const keys = Buffer.from(bytes.subarray(at, at + length))
  const cutoffUs = next() ? int8(bytes, at) : null
  const exact = next() && bytes[at] === 1
  const authTime = next() && bytes[at] === 1
  const expiresAtS = next() ? int8(bytes, at) : null
  return { id, keys, cutoffUs, exact, authTime, expiresAtS }
}

function int8(bytes: Buffer, at: number): number {
  return bytes.readInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4)
}

function malformed(): GateError {
  return new GateError(
    'ERR_DATABASE_REFUSED',
    'the copy of the revocations broke off or is malformed',
  )
}
