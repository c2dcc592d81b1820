/**
 * How far the feed has read: makes a new cursor from the meta row of a tick, and decides whether ticks can go on from a
 * cursor. No I/O.
 */
import { GateError } from '../errors.ts'

/** The meta row of an answer: which database answered, and with which snapshot. Made by the SQL function `state()`. */
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
  /** Used share of the server's notification queue; it grows when a session does not read its notifications. */
  readonly queue_usage: number
}

/** What the ledger holds: everything that is visible in `snapshot` of this database. */
export interface Cursor extends Ident {
  /**
   * A `pg_snapshot` as text: ticks ask for what is not visible in it, receipts are given by it, the snapshot file
   * stores it. See `cursorOf`.
   */
  readonly seen: string
}

/**
 * The cursor after what a snapshot shows was read: that snapshot, but up to the newest transaction of a row or tombstone
 * that was seen, and no further. A crash of PostgreSQL gives ids again: the newest ones, whose transactions left nothing
 * in the log that had been flushed. A snapshot counts them as over, so it would hide the rows of the transactions that get
 * these ids next, and vouch for them in receipts.
 *
 *  1. What is visible is flushed: a commit is on the disk before others see it, since the triggers raise
 *     `synchronous_commit` in every transaction that changes a row.
 *  2. The log is one line, so with that commit all before it has survived: no id up to its transaction's is given again.
 *     Here that is every id below the xmax of `seen`.
 *  3. A transaction below it that was not over is in xip, and asked for until a later cursor has it as over. Those at or
 *     above it need not be in xip: from there on every row is asked for, of any run of the server.
 *  4. Nothing is read twice: from the xmax of `seen` on the snapshot showed no row, or xmax would be higher. (But rows
 *     with stamps of another server's time, until `reset_feed`; they are no proof of anything here and do not count.)
 *  5. It never falls, also where an older transaction has changed the newest row, which then has the older id: what was
 *     flushed once stays so.
 *  6. Receipts and notifications are held against `seen`: a row that was shown is below its xmax at once, one that was not
 *     never is. A row that an older transaction replaced before any tick showed it is vouched for with the next change.
 *
 * Not covered, since 1 does not hold: a writer that sets `synchronous_commit = off` after its statement, in the same
 * transaction; a disk that loses what it has flushed. Nor, since 2 does not: a server that was put back or promoted
 * without its last changes, where `gapAfter` does not tell. What a crash takes from the table stays in the ledger.
 */
export function cursorOf(ident: Ident, transactions: Iterable<bigint>, before?: Cursor): Cursor {
  const now = partsOf(ident.snapshot)
  let xmax = before === undefined ? 1n : partsOf(before.seen).xmax
  for (const xid of transactions) if (xid >= xmax && xid < now.xmax) xmax = xid + 1n
  const xmin = now.xmin < xmax ? now.xmin : xmax
  return { ...ident, seen: `${xmin}:${xmax}:${now.open.filter((xid) => xid < xmax).join()}` }
}

/** Newest `key_version` whose keys this release understands. */
export const keyVersion = 2

/** Most rows and most tombstones that a tick may read; one more of each is requested, to notice that there are more. */
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
 * Decides whether the changes since `cursor` can be found in this database. They cannot if it is another database, was
 * restored or promoted, if the table was truncated, or if tombstones after the cursor were purged; then everything is
 * loaded again.
 * @returns the reason, or undefined when the changes can be found
 */
export function gapAfter(cursor: Cursor, ident: Ident): string | undefined {
  if (ident.system_id !== cursor.system_id) return 'another database cluster answers'
  if (ident.timeline !== cursor.timeline) return 'the database was promoted or restored'
  if (ident.generation !== cursor.generation) return 'the table was truncated'
  // Compares the snapshots and not `seen`: this detects more restored databases. The price is a full load after some
  // crashes that lost nothing.
  const before = partsOf(cursor.snapshot)
  const now = partsOf(ident.snapshot)
  if (now.xmax < before.xmax || now.xmin < before.xmin) return 'the database has gone back in time'
  // A purge that the cursor has already seen removed nothing that this gate needs, even if an old transaction holds
  // back xmin.
  if (
    ident.tomb_floor !== cursor.tomb_floor &&
    partsOf(cursor.seen).xmin <= BigInt(ident.tomb_floor)
  )
    return 'tombstones that this gate needs were purged'
  return undefined
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

/** True when a transaction is visible in a snapshot. */
export type Visible = (xid: bigint) => boolean

export function seenIn(snapshot: string): Visible {
  const { xmax, open } = partsOf(snapshot)
  return (xid) => xid < xmax && !open.includes(xid)
}

/**
 * Pause before the next attempt: 25 ms, doubling up to 1 s, with jitter so that gates do not reconnect at the same
 * time.
 */
export function backoffMs(attempt: number, random: number): number {
  return Math.min(1000, 25 * 2 ** Math.min(attempt, 10)) * (0.5 + random / 2)
}
