/** How far the feed has read: reads snapshots, and decides whether ticks can go on from a cursor. No I/O. */
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
  /** The table of revocations: another number after it was dropped and made anew. */
  readonly relation: string
  readonly standby: boolean
  /** PostgreSQL's clock, ms since 1970. */
  readonly clock_ms: number
  /** Nonce and snapshot of the newest anchor, see history.ts; null before the first. */
  readonly anchor: string | null
  readonly anchor_snapshot: string | null
  /** The triggers of the feed: name, for which sessions it fires, and the transaction that has set that; see triggers.ts. */
  readonly triggers: readonly string[]
  /** The claims that rows visible in `snapshot` name, as JSON pointers. */
  readonly pointers: readonly string[]
  /** Id of the key that notifications are authenticated with. */
  readonly mac_key: number
  /** Used share of the server's notification queue; it grows when a session does not read its notifications. */
  readonly queue_usage: number
}

/**
 * What the ledger holds: everything that is visible in `snapshot` of this database. Ticks ask for what is not visible in
 * it. history.ts says how long that holds.
 */
export type Cursor = Pick<
  Ident,
  'snapshot' | 'generation' | 'tomb_floor' | 'system_id' | 'relation' | 'triggers'
>

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
 * Decides whether the changes since `cursor` can be found in this database. They cannot if it is another database, if the
 * table was truncated or made anew, or if tombstones after the cursor were purged; then everything is loaded again.
 * @returns the reason, or undefined when the changes can be found
 */
export function gapAfter(cursor: Cursor, ident: Ident): string | undefined {
  if (ident.system_id !== cursor.system_id) return 'another database cluster answers'
  if (ident.relation !== cursor.relation) return 'the table was dropped and made anew'
  if (ident.generation !== cursor.generation)
    return 'the table was truncated, or reset_feed() was called'
  const before = partsOf(cursor.snapshot)
  const now = partsOf(ident.snapshot)
  if (now.xmax < before.xmax || now.xmin < before.xmin) return 'the database has gone back in time'
  // A purge that the cursor has already seen removed nothing that this gate needs, even if an old transaction holds
  // back xmin.
  if (ident.tomb_floor !== cursor.tomb_floor && before.xmin <= BigInt(ident.tomb_floor))
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
 * Pause before the next attempt: 25 ms, doubling up to 500 ms, with jitter so that gates do not reconnect at the same time.
 * After a crash of the server this is most of what a gate needs until it is fresh again.
 */
export function backoffMs(attempt: number, random: number): number {
  return Math.min(500, 25 * 2 ** Math.min(attempt, 10)) * (0.5 + random / 2)
}
