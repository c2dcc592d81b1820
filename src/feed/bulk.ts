/**
 * What is too much for a tick, read by a session of its own from a snapshot of its own: everything (a full load), or what
 * a cursor has not seen. Meanwhile ticks go on from that snapshot; what they bring is newer and wins.
 */
import type pg from 'pg'
import { breather } from '../domain/clock.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import { filedAlike, type Ledger, type Loading } from '../revocation/ledger.ts'
import { connect, destroyClient } from '../store/connect.ts'
import { type Deferred, reserve } from './apply.ts'
import { copyOut, mostRows, RowReader, rowColumns, rowOf, TombReader } from './copy.ts'
import { type Cursor, checkIdent, cursorOf, type Ident, partsOf } from './cursor.ts'
import type { Overlay } from './overlay.ts'

const sliceMs = 5

/** A session in the middle of a REPEATABLE READ transaction. */
export class Bulk {
  readonly #client: pg.Client
  readonly #schema: string
  readonly ident: Ident
  /** The newest transactions that its snapshot shows something of. */
  readonly #newest: readonly bigint[]
  /** Rows of the whole table, once counted. */
  expected: number | null = null
  /** Rows read so far. */
  rows = 0

  private constructor(client: pg.Client, schema: string, ident: Ident, newest: readonly bigint[]) {
    this.#client = client
    this.#schema = schema
    this.ident = ident
    this.#newest = newest
  }

  static async open(url: string, schema: string): Promise<Bulk> {
    const client = await connect({ url, name: 'dropgate load' })
    try {
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
      const ident = (await client.query(`SELECT * FROM ${schema}.state()`)).rows[0] as Ident
      checkIdent(ident)
      const newest: bigint[] = []
      for (const view of ['live', 'tombs']) {
        const { rows } = await client.query(
          `SELECT chg_xid FROM ${schema}.${view} WHERE chg_xid < $1 ORDER BY chg_xid DESC LIMIT 1`,
          [String(partsOf(ident.snapshot).xmax)],
        )
        for (const { chg_xid } of rows) newest.push(BigInt(chg_xid))
      }
      return new Bulk(client, schema, ident, newest)
    } catch (error) {
      client.end().catch(() => {})
      throw error
    }
  }

  close(): void {
    destroyClient(this.#client)
  }

  /** Where ticks go on from: all that this session will have read. */
  cursorAfter(before: Cursor | undefined): Cursor {
    return cursorOf(this.ident, this.#newest, before)
  }

  async count(): Promise<number> {
    const { rows } = await this.#client.query(`SELECT count(*) AS n FROM ${this.#schema}.live`)
    this.expected = Number(rows[0].n)
    return this.expected
  }

  /** Every row into a table that nobody reads. @returns those that this release cannot match */
  async load(loading: Loading, deferred: Deferred): Promise<RevocationRow[]> {
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

  /** What `cursor` has not seen, into the serving ledger: rows first, then what they do not replace is removed. */
  async catchUp(
    ledger: Ledger,
    cursor: string,
    deferred: Deferred,
    overlay: Overlay,
    on: {
      readonly unmatchable: (row: RevocationRow, error: GateError) => void
      /** More of them are in the ledger and published. */
      readonly written: () => void
    },
  ): Promise<void> {
    const missing = complementOf(cursor)
    // A row may have been filed under several keys since.
    const gone = new Map<number, Buffer[]>()
    const tombs = new TombReader((id, keys) => {
      const more = gone.get(id)
      if (more === undefined) gone.set(id, [keys])
      else more.push(keys)
    })
    const schema = this.#schema
    await copyOut(
      this.#client,
      `SELECT row_id, keys FROM ${schema}.tombs WHERE ${missing}`,
      (chunk) => tombs.push(chunk),
    )
    tombs.end()
    let batch: RevocationRow[] = []
    const rows = new RowReader((entry, length, flags) => {
      this.rows++
      batch.push(rowOf(entry, length, flags))
    })
    const breathe = breather(sliceMs)
    await copyOut(
      this.#client,
      `SELECT ${rowColumns} FROM ${schema}.live WHERE ${missing}`,
      async (chunk) => {
        rows.push(chunk)
        await reserve(ledger, batch)
        for (const row of batch) {
          const keys = gone.get(row.id)
          if (keys !== undefined) gone.set(row.id, without(keys, row.keys))
          overlay.confirm(row.id)
          if (deferred.has(row.id)) continue
          try {
            ledger.upsert(row)
          } catch (error) {
            if (!(error instanceof GateError) || error.code !== 'ERR_LEDGER_UNMATCHABLE')
              throw error
            on.unmatchable(row, error)
          }
        }
        batch = []
        ledger.publish()
        on.written()
        await breathe()
      },
    )
    rows.end()
    for (const [id, keys] of gone) {
      const now = deferred.keysOf(id)
      for (const each of now === undefined ? keys : without(keys, now)) ledger.remove(id, each)
      await breathe()
    }
    await this.#client.query('COMMIT')
  }
}

function without(keys: readonly Buffer[], kept: Uint8Array): Buffer[] {
  return keys.filter((each) => !filedAlike(each, kept))
}

/** The rows that a snapshot does not show; its numbers have been read as numbers. */
function complementOf(cursor: string): string {
  const { xmax, open } = partsOf(cursor)
  const more = open.length === 0 ? '' : ` OR chg_xid IN (${open.map((xid) => `'${xid}'`).join()})`
  return `chg_xid >= '${xmax}'${more}`
}
