/**
 * Which history does what this gate holds belong to? Within one session of the feed a snapshot is a cursor. When the
 * session is lost, the server may have crashed, a standby may have been promoted, or older files may have been put back:
 * then transaction ids are given out a second time, and the same snapshot may stand for other transactions. What carries
 * the cursor over is an anchor: a row that a gate had written with a nonce of its own and the snapshot of that moment. A
 * database in which this row is found shares all history up to the anchor's commit with the one that the gate has read,
 * whatever has happened to it since. What the gate has changed in its ledger since then is read again by id.
 *
 * Invariants; below, S(x) is the snapshot of x, and "in S" means that the transaction has ended in S.
 *
 *  1. A snapshot is a cursor only for the server process that took it: a crash ends them all, and while one of them runs no
 *     transaction id is given out twice. Enforced by: `Feed.#loseSession` drops the cursor.
 *  2. An anchor that a database holds proves: all that is in S(anchor) is in this database's history, and no id in
 *     S(anchor) is given out again. So S(anchor) is a valid cursor there. (The records of these transactions come before
 *     the anchor's commit in the log.) Enforced by: `held()` in store/sql, which also compares the database and the server.
 *  3. An anchor is adopted only when a tick of the session in which it was asked for has shown it, and when it covers what
 *     was held at that time: S(asked) is in S(anchor) is in S(tick). Enforced by: `show`. The gate makes the nonce, since a
 *     server that was put back with its memory repeats its random numbers.
 *  4. Each row whose change in the ledger may not be in S(anchor) is remembered, and read again by id: else the rest of a
 *     lost history stays in the ledger, such as the lifting of a row that is still in the table. Enforced by: everything
 *     that writes to the ledger calls `touch`; an anchor keeps what was touched after the tick at which it was asked for.
 *  5. An anchor is on disk before a tick can show it, so no crash takes one that was adopted. Enforced by: `anchor()` in
 *     store/sql raises `synchronous_commit`.
 *  6. Where no anchor is held, everything is loaded. Nothing is guessed from log positions, timelines or start times.
 *  7. A cursor that another session has made or uses (load, catch-up, comparison) counts only if both sessions are known
 *     to run on the same server since before that snapshot: the other session holds a random advisory lock, and the feed's
 *     session must fail to get it. Enforced by: presence.ts.
 */
import { randomUUID } from 'node:crypto'
import { type Cursor, type Ident, partsOf } from './cursor.ts'

/** Where ticks go on in a new session. */
export interface Anchor {
  readonly nonce: string
  /** What the ledger held when the anchor was adopted, with the anchor's own snapshot. */
  readonly cursor: Cursor
  /** Rows touched by this tick and later ones may not be in the anchor's snapshot. */
  readonly since: number
}

/** A row that was changed in the ledger, with all keys under which the ledger may have it. */
export interface Touched {
  readonly id: number
  readonly keys: readonly Uint8Array[]
}

interface Touch {
  readonly tick: number
  readonly keys: readonly Uint8Array[]
}

const mostAnchors = 4
/** Where more rows have changed since an anchor, a load is hardly dearer than reading them by id. */
const mostTouched = 50_000

/** Tests switch the rule off, to see that the faults which it is for do happen. */
export type HistoryRule = 'anchors' | 'off'

export class History {
  readonly #rule: HistoryRule
  /** The oldest first. */
  #anchors: Anchor[] = []
  /** In the order of their ticks. */
  readonly #touched = new Map<number, Touch>()
  /** Number of the last tick that was sent. */
  #tick = 0
  /** The newest tick after which the ledger held exactly its snapshot; undefined once rows have been written since. */
  #shown: { readonly tick: number; readonly snapshot: string } | undefined
  /** What the ledger held when an anchor was asked for; undefined when none is awaited. */
  #asked: { readonly tick: number; readonly snapshot: string } | undefined
  /** The tick of the newest touch. */
  #touchedAt = -1
  #pinned: Anchor | undefined
  #last: Cursor | undefined

  constructor(rule: HistoryRule) {
    this.#rule = rule
  }

  get newest(): Anchor | undefined {
    return this.#anchors.at(-1)
  }

  get nonces(): string[] {
    return this.#anchors.map(({ nonce }) => nonce)
  }

  /** A tick is sent: what its answer changes is touched by it. */
  sent(tick: number): void {
    this.#tick = tick
  }

  /** The ledger is about to hold this row under these keys, or no longer to hold it under them. */
  touch(id: number, keys: Uint8Array): void {
    this.#shown = undefined
    this.touchProvisionally(id, keys)
  }

  /**
   * The same for a row of a notification. The next tick touches it again, or drops it; until then the ledger counts as
   * holding what the last one has shown.
   */
  touchProvisionally(id: number, keys: Uint8Array): void {
    // Without an anchor there is nothing to go back to, and one that is adopted later covers this.
    if (this.#anchors.length === 0 && this.#asked === undefined) return
    const before = this.#touched.get(id)
    this.#touched.delete(id)
    this.#touched.set(id, { tick: this.#tick, keys: withKeys(before?.keys, keys) })
    this.#touchedAt = this.#tick
    if (this.#touched.size > mostTouched) this.#shrink()
  }

  /** The ledger holds exactly what the snapshot of this tick shows. */
  show(ident: Ident, tick: number): void {
    this.#last = ident
    this.#shown = { tick, snapshot: ident.snapshot }
    const { anchor: nonce, anchor_snapshot: snapshot } = ident
    if (nonce === null || snapshot === null || nonce === this.newest?.nonce) return
    if (this.#asked === undefined || !covers(snapshot, this.#asked.snapshot)) return
    this.#anchors.push({ nonce, cursor: { ...ident, snapshot }, since: this.#asked.tick + 1 })
    this.#asked = undefined
    if (this.#anchors.length > mostAnchors) {
      this.#anchors.splice(this.#anchors[0] === this.#pinned ? 1 : 0, 1)
    }
    this.#forget()
  }

  /** @returns a nonce when an anchor should be written now: to be called from time to time */
  wanted(): string | undefined {
    if (this.#shown === undefined) return undefined
    if (this.#asked === undefined && !this.#unanchored) return undefined
    this.#asked ??= this.#shown
    return randomUUID()
  }

  /** The feed's session is lost: what it has shown last is no cursor for the next one. */
  loseSession(): void {
    this.#shown = undefined
    this.#asked = undefined
  }

  /** A load begins: nothing of what is held now is the past of what it will bring. */
  clear(): void {
    this.#anchors = []
    this.#touched.clear()
    this.#shown = undefined
    this.#asked = undefined
    this.#last = undefined
  }

  /**
   * Where to go on in a new session. Anchors that are younger than the newest held one are dropped.
   * @param held Nonces that the database has.
   */
  resume(held: ReadonlySet<string>): { cursor: Cursor; again: readonly Touched[] } | undefined {
    if (this.#rule === 'off')
      return this.#last === undefined ? undefined : { cursor: this.#last, again: [] }
    const at = this.#anchors.findLastIndex(({ nonce }) => held.has(nonce))
    this.#anchors = this.#anchors.slice(0, at + 1)
    const { newest } = this
    return newest && { cursor: newest.cursor, again: this.#touchedSince(newest) }
  }

  /** What a snapshot file has kept: the only past of a ledger that was just restored from it. */
  restore(anchor: Pick<Anchor, 'nonce' | 'cursor'>, touched: readonly Touched[]): void {
    this.clear()
    this.#anchors = [{ ...anchor, since: this.#tick }]
    for (const { id, keys } of touched) this.#touched.set(id, { tick: this.#tick, keys })
    this.#touchedAt = this.#tick
    this.#last = anchor.cursor
  }

  /** Keeps the newest anchor, and what is touched since it, until `unpin`. */
  pin(): Anchor | undefined {
    this.#pinned = this.newest
    return this.#pinned
  }

  /** @returns the rows touched since the pinned anchor; undefined where they were too many to remember */
  unpin(): readonly Touched[] | undefined {
    const anchor = this.#pinned
    this.#pinned = undefined
    return anchor !== undefined && this.#anchors.includes(anchor)
      ? this.#touchedSince(anchor)
      : undefined
  }

  #touchedSince({ since }: Anchor): Touched[] {
    const touched: Touched[] = []
    for (const [id, { tick, keys }] of this.#touched) if (tick >= since) touched.push({ id, keys })
    return touched
  }

  /** Something was touched that the newest anchor does not cover. */
  get #unanchored(): boolean {
    return this.newest === undefined || this.#touchedAt >= this.newest.since
  }

  /** Drops the oldest anchors, and those of which not everything can be remembered. */
  #shrink(): void {
    this.#anchors.shift()
    if (this.#anchors.length > 0) this.#forget()
    if (this.#touched.size <= mostTouched) return
    this.#anchors = []
    this.#asked = undefined
    this.#touched.clear()
  }

  #forget(): void {
    const since = this.#anchors[0]!.since
    for (const [id, { tick }] of this.#touched) {
      if (tick >= since) break
      this.#touched.delete(id)
    }
  }
}

function withKeys(known: readonly Uint8Array[] = [], keys: Uint8Array): readonly Uint8Array[] {
  return known.some((each) => Buffer.compare(each, keys) === 0) ? known : [...known, keys]
}

/** Is all that has ended in `inner` ended in `outer`? */
export function covers(outer: string, inner: string): boolean {
  const o = partsOf(outer)
  const i = partsOf(inner)
  return i.xmax <= o.xmax && o.open.every((xid) => xid >= i.xmax || i.open.includes(xid))
}
