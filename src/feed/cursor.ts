/**
 * Where the feed stands, as pure transitions: what a tick's meta row means for the cursor. No I/O.
 */
import { GateError } from '../errors.ts'

/** The meta row: which database answered and what it had seen. Made by `state()`. */
export interface Ident {
  /** `pg_snapshot` as text: `xmin:xmax:xip,…`. */
  readonly snapshot: string
  readonly generation: string
  readonly schema_version: number
  readonly channel: string
  readonly tomb_floor: string
  readonly system_id: string
  readonly timeline: string | null
  readonly standby: boolean
  /** PostgreSQL's clock, ms since 1970. */
  readonly clock_ms: number
  /** The claims that rows visible in `snapshot` name, as JSON pointers. */
  readonly pointers: readonly string[]
  /** Id of the key that notifications are authenticated with. */
  readonly mac_key: number
  /** Share of the queue of notifications that somebody has not read yet. */
  readonly queue_usage: number
}

/** What the ledger holds: everything visible in `snapshot` of the database that `ident` names. */
export type Cursor = Ident

/** Newest `key_version` whose keys this release knows all of. */
export const keyVersion = 2

/** Most rows of each sort that a tick reads; one more is asked for, to know that there are more. */
export const changesCap = 10_000

/** The version of `changes()` that this release reads. */
const schemaVersion = 1

/** @throws GateError ERR_DATABASE_SCHEMA when this release cannot follow that database at all. */
export function checkIdent(ident: Ident): void {
  if (ident.schema_version !== schemaVersion) {
    throw new GateError(
      'ERR_DATABASE_SCHEMA',
      `the database has feed version ${ident.schema_version}, this release reads ${schemaVersion}`,
      { hint: 'run `dropgate migrate` of this release, or upgrade the gates' },
    )
  }
  if (ident.standby) {
    throw new GateError('ERR_DATABASE_SCHEMA', 'the database is a standby: it cannot notify', {
      hint: 'point database.url at the primary, e.g. with target_session_attrs=read-write',
    })
  }
}

/**
 * Whether rows since `cursor` can be told from this answer. Otherwise everything is loaded anew: another
 * database, a restored or promoted one, a truncated table, or tombstones purged past the cursor.
 * @returns why not, or undefined
 */
export function gapAfter(cursor: Cursor, ident: Ident): string | undefined {
  if (ident.system_id !== cursor.system_id) return 'another database cluster answers'
  if (ident.timeline !== cursor.timeline) return 'the database was promoted or restored'
  if (ident.generation !== cursor.generation) return 'the table was truncated'
  const before = boundsOf(cursor.snapshot)
  const now = boundsOf(ident.snapshot)
  if (now.xmax < before.xmax || now.xmin < before.xmin) return 'the database has gone back in time'
  // A floor that the cursor has seen took nothing from it, however long a transaction has held its xmin down.
  if (ident.tomb_floor !== cursor.tomb_floor && before.xmin <= BigInt(ident.tomb_floor))
    return 'tombstones that this gate needs were purged'
  return undefined
}

function boundsOf(snapshot: string): { xmin: bigint; xmax: bigint } {
  const { xmin, xmax } = partsOf(snapshot)
  return { xmin, xmax }
}

/** Parts of a `pg_snapshot` as text; everything below `xmax` that is not in `open` is visible in it. */
export function partsOf(snapshot: string): { xmin: bigint; xmax: bigint; open: readonly bigint[] } {
  const found = /^(\d+):(\d+):(\d+(?:,\d+)*)?$/.exec(snapshot)
  if (found === null) throw new GateError('ERR_DATABASE_SCHEMA', 'the database gave no snapshot')
  const [, xmin, xmax, open] = found
  return {
    xmin: BigInt(xmin!),
    xmax: BigInt(xmax!),
    open: open === undefined ? [] : open.split(',').map(BigInt),
  }
}

/** Whether a transaction is visible in a snapshot. */
export type Seen = (xid: bigint) => boolean

export function seenIn(snapshot: string): Seen {
  const { xmax, open } = partsOf(snapshot)
  return (xid) => xid < xmax && !open.includes(xid)
}

/** Pause before the next attempt: 25 ms doubling to 1 s, with jitter so that gates do not return in step. */
export function backoffMs(attempt: number, random: number): number {
  return Math.min(1000, 25 * 2 ** Math.min(attempt, 10)) * (0.5 + random / 2)
}
