/**
 * Writes the rows of one tick into the ledger. At every moment and for every reader, a row that is in force is in the
 * ledger. So new rows are written before old ones are removed.
 */
import { fromStored, keyBytes, type RevocationRow } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import { filedAlike, type Ledger } from '../revocation/ledger.ts'
import { changesCap, type Ident } from './cursor.ts'
import type { Touched } from './history.ts'

/** The result of `changes()` in pg's array mode, all as text but `keys`. */
export type ChangeRow = readonly [
  op: string,
  kind: string | null,
  id: string | null,
  keys: Buffer | null,
  cutoffUs: string | null,
  exact: boolean | null,
  authTime: boolean | null,
  expiresS: string | null,
  meta: string | null,
]

/** The letter by which the feed names the table of revocations. */
export const revocationKind = 'r'

export interface Changes {
  readonly ident: Ident
  /** The tick found more rows or tombstones than it may read (over all tables), so this answer may be incomplete. */
  readonly partial: boolean
  readonly tombs: readonly { readonly id: number; readonly keys: Uint8Array }[]
  readonly rows: readonly RevocationRow[]
}

/** @param again The rows that were asked for by id: those that are not in the answer are gone. */
export function parseChanges(result: readonly ChangeRow[], again: readonly Touched[]): Changes {
  const tombs: { id: number; keys: Uint8Array }[] = tombsOf(again)
  const rows: RevocationRow[] = []
  let ident: Ident | undefined
  const counts = { t: 0, r: 0 }
  for (const [op, kind, id, keys, cutoffUs, exact, authTime, expiresS, meta] of result) {
    if (op === 't' || op === 'r') {
      // Counted before rows of other tables are skipped: the cap is on what the database returned, not on what this
      // release uses.
      counts[op]++
      // A row of a table that only a newer release follows; its ids are not ids of revocations.
      if (kind !== revocationKind) continue
    }
    if (op === 'm') ident = JSON.parse(meta!) as Ident
    else if (op === 't') tombs.push({ id: Number(id), keys: keys! })
    else if (op === 'r' || op === 'i') {
      rows.push(
        fromStored({
          id: id!,
          keys: keys!,
          cutoff_us: cutoffUs,
          exact,
          auth_time: authTime,
          expires_s: expiresS,
        }),
      )
    } else
      throw new GateError(
        'ERR_DATABASE_SCHEMA',
        `the SQL function changes() returned a row of an unknown kind: ${op}`,
      )
  }
  if (ident === undefined)
    throw new GateError('ERR_DATABASE_SCHEMA', 'the SQL function changes() returned no meta row')
  return {
    ident,
    partial: Math.max(counts.t, counts.r) > changesCap,
    tombs,
    rows,
  }
}

/** Tombstones for all keys of these rows: what the database still has under them is in the same answer, and stays. */
export function tombsOf(again: readonly Touched[]): { id: number; keys: Uint8Array }[] {
  return again.flatMap(({ id, keys }) => keys.map((each) => ({ id, keys: each })))
}

/** Number of rows between two checks of the clock. */
const stride = 256
const sliceMs = 5

/** Called with each row that the ledger of this release cannot hold. */
export type OnUnmatchable = (row: RevocationRow, error: GateError) => void

/** @throws GateError ERR_LEDGER_FULL */
export function writeRow(ledger: Ledger, row: RevocationRow, onUnmatchable: OnUnmatchable): void {
  try {
    ledger.upsert(row)
  } catch (error) {
    if (!(error instanceof GateError) || error.code !== 'ERR_LEDGER_UNMATCHABLE') throw error
    onUnmatchable(row, error)
  }
}

/**
 * Writes the changes in slices of at most 5 ms. Removals come last. A row that was updated but has the same first key
 * was replaced in place, so it is not removed.
 * @throws GateError ERR_LEDGER_FULL
 */
export async function apply(
  ledger: Ledger,
  changes: Pick<Changes, 'rows' | 'tombs'>,
  onUnmatchable: OnUnmatchable,
): Promise<void> {
  const present = new Map<number, Uint8Array>()
  let since = performance.now()
  const breathe = async (): Promise<void> => {
    if (performance.now() - since < sliceMs) return
    ledger.publish()
    await new Promise((resolve) => setImmediate(resolve))
    since = performance.now()
  }
  const { rows, tombs } = changes
  for (const [i, row] of rows.entries()) {
    if (i % stride === 0) {
      await reserve(ledger, rows.slice(i, i + stride))
      await breathe()
    }
    present.set(row.id, row.keys)
    writeRow(ledger, row, onUnmatchable)
  }
  for (const [i, { id, keys }] of tombs.entries()) {
    if (i % stride === 0) await breathe()
    const now = present.get(id)
    if (now === undefined || !filedAlike(now, keys)) ledger.remove(id, keys)
  }
}

/** Makes room for rows that are about to be written. Waits only when rows come faster than the ledger grows. */
export async function reserve(ledger: Ledger, rows: readonly RevocationRow[]): Promise<void> {
  let further = 0
  for (const { keys } of rows) further += Math.max(0, keys.length / keyBytes - 1)
  const growing = ledger.reserve(rows.length, further)
  if (growing === undefined) return
  // Publish first: the rows that are written already must not wait until the ledger has grown.
  ledger.publish()
  await growing
}

/**
 * The changes that ticks brought while a second session reads: the newest state of each row. The session reads an older
 * snapshot, so its rows must not undo these changes.
 */
export class Deferred {
  readonly #rows = new Map<number, { row: RevocationRow | undefined; gone: Uint8Array[] }>()

  get size(): number {
    return this.#rows.size
  }

  note({ rows, tombs }: Pick<Changes, 'rows' | 'tombs'>): void {
    for (const { id, keys } of tombs) {
      const known = this.#of(id)
      known.gone.push(keys)
      known.row = undefined
    }
    for (const row of rows) this.#of(row.id).row = row
  }

  has(id: number): boolean {
    return this.#rows.has(id)
  }

  /** Keys of the row as a tick last showed it; undefined when the row is gone or no tick has shown it. */
  keysOf(id: number): Uint8Array | undefined {
    return this.#rows.get(id)?.row?.keys
  }

  changes(): Pick<Changes, 'rows' | 'tombs'> {
    const rows: RevocationRow[] = []
    const tombs: { id: number; keys: Uint8Array }[] = []
    for (const [id, { row, gone }] of this.#rows) {
      if (row !== undefined) rows.push(row)
      for (const keys of gone) tombs.push({ id, keys })
    }
    return { rows, tombs }
  }

  #of(id: number): { row: RevocationRow | undefined; gone: Uint8Array[] } {
    let known = this.#rows.get(id)
    if (known === undefined) {
      known = { row: undefined, gone: [] }
      this.#rows.set(id, known)
    }
    return known
  }
}
