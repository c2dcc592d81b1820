/**
 * How far the feed has read: makes a new cursor from the meta row of a tick, and decides whether ticks can go on from a
 * cursor. No I/O.
 */
import { GateError } from '../errors.ts'
import { alteredSince } from './triggers.ts'

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
  /** The triggers of the feed: name, for which sessions it fires, and the transaction that has set that; see triggers.ts. */
  readonly triggers: readonly string[]
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
 * Makes the cursor after the rows of a snapshot were read. The cursor is not the whole snapshot: it ends at the newest
 * transaction whose row or tombstone was read. The reason is a crash of PostgreSQL, after which the newest transaction ids
 * are given out a second time. The whole snapshot would count these ids as seen, so the feed would miss the rows of the
 * transactions that get them next, and receipts would vouch for those rows.
 *
 *  1. A visible row is on disk: the triggers raise `synchronous_commit` in every transaction that changes a row, so its
 *     commit is flushed before other sessions see it.
 *  2. PostgreSQL writes its log in order, so everything before that commit is on disk too. No transaction id up to that
 *     of the row is given out again: these are the ids below the xmax of `seen`.
 *  3. A transaction below this xmax that had not ended is in the list of `seen`, and ticks ask for it until a later cursor
 *     shows that it has ended. Transactions from xmax on need no list: ticks ask for all of their rows.
 *  4. No row is read twice: the snapshot showed no row from xmax on, or xmax would be higher. (Except rows with stamps from
 *     another server, until `reset_feed`; these stamps prove nothing here and are not counted.)
 *  5. The xmax never becomes lower, even when an older transaction changes the newest row, which then has the older id:
 *     a commit that was flushed once stays flushed.
 *  6. Receipts and notifications are compared with `seen`. A row that was shown is below its xmax at once; a row that was
 *     not shown never is. When an older transaction replaces a row before any tick has shown it, its receipt comes with
 *     the next change.
 *
 * Not covered, because 1 does not hold: a writer that sets `synchronous_commit = off` after its statement in the same
 * transaction, and a disk that loses flushed data. Not covered, because 2 does not hold: a server that was restored or
 * promoted without its last changes, if `gapAfter` does not notice. Rows that a crash removes from the table stay in the
 * ledger.
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
      {
        hint: 'run `dropgate migrate` of this release, or upgrade the gates to the release of the database',
      },
    )
  }
  if (ident.standby) {
    throw new GateError(
      'ERR_DATABASE_SCHEMA',
      'the database is a standby, which cannot send notifications',
      {
        hint: 'point database.url at the primary, e.g. with target_session_attrs=read-write',
      },
    )
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
  return alteredSince(cursor, ident)
}

/** Parts of a `pg_snapshot` as text; everything below `xmax` that is not in `open` is visible in it. */
export function partsOf(snapshot: string): { xmin: bigint; xmax: bigint; open: readonly bigint[] } {
  const found = /^(\d+):(\d+):(\d+(?:,\d+)*)?$/.exec(snapshot)
  if (found === null)
    throw new GateError('ERR_DATABASE_SCHEMA', 'the database did not return a valid snapshot')
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
