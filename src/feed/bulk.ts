/**
 * The second session: it reads what is too much for a tick, from a snapshot of its own. It reads either every row (a
 * full load) or the rows that a cursor has not seen. Meanwhile the first session goes on with its ticks, which ask for what
 * has changed since that snapshot; their changes are newer and win.
 */
import type pg from 'pg'
import { breather } from '../domain/clock.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import { type FullLoad, filedAlike, type Ledger } from '../revocation/ledger.ts'
import { connect, destroyClient, patiently } from '../store/connect.ts'
import {
  type Deferred,
  type OnUnmatchable,
  reserve,
  revocationKind,
  tombsOf,
  writeRow,
} from './apply.ts'
import { copyOut, mostRows, RowReader, rowColumns, rowOf, TombReader } from './copy.ts'
import { type Cursor, checkIdent, type Ident, partsOf } from './cursor.ts'
import type { Touched } from './history.ts'
import { Presence } from './presence.ts'

const sliceMs = 5
/** PostgreSQL counts silently: ten million rows in a second. */
const countMs = 60_000

/** A session in the middle of a REPEATABLE READ transaction. */
export class Bulk {
  readonly #client: pg.Client
  readonly #schema: string
  readonly ident: Ident
  readonly presence: Presence
  /** Rows of the whole table; null until they are counted. */
  expected: number | null = null
  /** Rows read so far. */
  rows = 0

  private constructor(client: pg.Client, schema: string, ident: Ident, presence: Presence) {
    this.#client = client
    this.#schema = schema
    this.ident = ident
    this.presence = presence
  }

  static async open(url: string, schema: string): Promise<Bulk> {
    const client = await connect({ url, kind: 'load' })
    try {
      const presence = await Presence.show(client)
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
      const ident = (await client.query(`SELECT * FROM ${schema}.state()`)).rows[0] as Ident
      checkIdent(ident)
      return new Bulk(client, schema, ident, presence)
    } catch (error) {
      destroyClient(client)
      throw error
    }
  }

  close(): void {
    destroyClient(this.#client)
  }

  async count(): Promise<number> {
    const { rows } = await patiently(this.#client, countMs, () =>
      this.#client.query(`SELECT count(*) AS n FROM ${this.#schema}.live`),
    )
    this.expected = Number(rows[0].n)
    return this.expected
  }

  /** Reads every row into a table that no worker uses yet. @returns the rows that this release cannot match */
  async load(loading: FullLoad, deferred: Deferred): Promise<RevocationRow[]> {
    const unmatchable: RevocationRow[] = []
    const reader = new RowReader((entry, length, flags) => {
      this.rows++
      if (deferred.has(entry.id)) return
      const { bytes, keysAt } = entry
      if (loading.insert(entry, length, flags)) return
      Object.assign(entry, { bytes, keysAt })
      unmatchable.push(rowOf(entry, length, flags))
    })
    const breathe = breather(sliceMs)
    await copyOut(this.#client, `SELECT ${rowColumns} FROM ${this.#schema}.live`, async (chunk) => {
      await loading.reserve(mostRows(chunk))
      reader.push(chunk)
      await breathe()
    })
    reader.end()
    await this.#client.query('COMMIT')
    return unmatchable
  }

  /**
   * Reads what `from` has not seen into the ledger that is in use: first new rows, then removals of rows that are gone.
   * @param onWritten Called when more of them are in the ledger and published.
   */
  async catchUp(
    from: ReadFrom,
    deferred: Deferred,
    into: CatchUpTarget,
    onWritten: () => void,
  ): Promise<void> {
    const missing = complementOf(from.cursor.snapshot)
    const gone = await this.#readTombs(missing)
    for (const { id, keys } of tombsOf(from.again)) noteGone(gone, id, keys)
    const ids = from.again.map(({ id }) => id).join()
    await this.#writeRows(`${missing} OR id = ANY ('{${ids}}')`, {
      gone,
      deferred,
      into,
      onWritten,
    })
    await removeGone(into, gone, deferred)
    await this.#client.query('COMMIT')
  }

  /** @returns for each row the keys that it was filed under: there may be several since the cursor */
  async #readTombs(missing: string): Promise<Gone> {
    const gone: Gone = new Map()
    const tombs = new TombReader((id, keys) => noteGone(gone, id, keys))
    const query = `SELECT row_id, keys FROM ${this.#schema}.tombs WHERE kind = '${revocationKind}' AND (${missing})`
    await copyOut(this.#client, query, (chunk) => tombs.push(chunk))
    tombs.end()
    return gone
  }

  /** Removes from `gone` the keys that a row is still filed under. */
  async #writeRows(
    missing: string,
    { gone, deferred, into, onWritten }: RowsToWrite,
  ): Promise<void> {
    const { ledger } = into
    let batch: RevocationRow[] = []
    const rows = new RowReader((entry, length, flags) => {
      this.rows++
      batch.push(rowOf(entry, length, flags))
    })
    const breathe = breather(sliceMs)
    const query = `SELECT ${rowColumns} FROM ${this.#schema}.live WHERE ${missing}`
    await copyOut(this.#client, query, async (chunk) => {
      rows.push(chunk)
      await reserve(ledger, batch)
      for (const row of batch) {
        const keys = gone.get(row.id)
        if (keys !== undefined) gone.set(row.id, without(keys, row.keys))
        into.confirm(row.id)
        into.touch(row.id, row.keys)
        if (!deferred.has(row.id)) writeRow(ledger, row, into.noteUnmatchable)
      }
      batch = []
      ledger.publish()
      onWritten()
      await breathe()
    })
    rows.end()
  }
}

/** The ledger that a catch-up writes to. */
export interface CatchUpTarget {
  readonly ledger: Ledger
  readonly noteUnmatchable: OnUnmatchable
  /** The table has the row: it is no longer provisional. */
  confirm(id: number): void
  /** The ledger is about to change. */
  touch(id: number, keys: Uint8Array): void
}

/** Where a catch-up begins: at a cursor, and with rows that are read whenever they were written. */
export interface ReadFrom {
  readonly cursor: Cursor
  readonly again: readonly Touched[]
}

/** The keys that each row was filed under. */
type Gone = Map<number, Uint8Array[]>

interface RowsToWrite {
  readonly gone: Gone
  readonly deferred: Deferred
  readonly into: CatchUpTarget
  readonly onWritten: () => void
}

function noteGone(gone: Gone, id: number, keys: Uint8Array): void {
  const more = gone.get(id)
  if (more === undefined) gone.set(id, [keys])
  else more.push(keys)
}

async function removeGone(into: CatchUpTarget, gone: Gone, deferred: Deferred): Promise<void> {
  const breathe = breather(sliceMs)
  for (const [id, keys] of gone) {
    const now = deferred.keysOf(id)
    for (const each of now === undefined ? keys : without(keys, now)) {
      into.touch(id, each)
      into.ledger.remove(id, each)
    }
    await breathe()
  }
}

function without(keys: readonly Uint8Array[], kept: Uint8Array): Uint8Array[] {
  return keys.filter((each) => !filedAlike(each, kept))
}

/**
 * The SQL condition for rows that a snapshot does not show. The numbers are parsed before, so no SQL can be injected.
 */
function complementOf(cursor: string): string {
  const { xmax, open } = partsOf(cursor)
  const more = open.length === 0 ? '' : ` OR chg_xid IN (${open.map((xid) => `'${xid}'`).join()})`
  return `chg_xid >= '${xmax}'${more}`
}
