/**
 * What the feed has in force: the ledger, the provisional rows in it, and the rows that it cannot hold. Everything that
 * ticks, notifications and second sessions bring is written here. Never does: ask the database, move the cursor.
 */
import type { Log } from '../domain/log.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import type { GateError } from '../errors.ts'
import { type Ledger, type Loading, unmatchable } from '../revocation/ledger.ts'
import { apply, type Changes, type Deferred } from './apply.ts'
import { seenIn, type Visible } from './cursor.ts'
import { Overlay } from './overlay.ts'
import type { Payload } from './payload.ts'

export interface InForceOptions {
  readonly ledger: Ledger
  /** Makes claims known to the workers. @returns whether one is new */
  readonly learnPointers: (pointers: readonly string[]) => boolean
  /**
   * These rows are in the ledger and published: the open exchanges that they concern must be cut. A row may come more
   * than once, from a payload and from the tick that confirms it. Undefined: too many to say.
   */
  readonly onRows: (rows: readonly RevocationRow[] | undefined) => void
  /** The ledger cannot hold a row, so the gate is not ready. */
  readonly onUnmatchable: (error: GateError) => void
  readonly log: Log
}

/** A second session at work beside the ticks. */
export interface Beside {
  readonly kind: 'loading' | 'catching-up'
  /** What ticks bring meanwhile. */
  readonly deferred: Deferred
}

export class InForce {
  readonly ledger: Ledger
  readonly #options: InForceOptions
  readonly #overlay = new Overlay()
  readonly #unmatchable = new Set<number>()

  constructor(options: InForceOptions) {
    this.#options = options
    this.ledger = options.ledger
  }

  /** Rows that a notification brought and no tick has shown yet. */
  get provisionalRows(): number {
    return this.#overlay.size
  }

  /** Rows of the table that this release cannot match. */
  get unmatchableRows(): number {
    return this.#unmatchable.size
  }

  /** Before the rows that need these claims, and published on their own: the invariant is at `heldKeys`. */
  learnPointers(pointers: readonly string[]): void {
    if (this.#options.learnPointers(pointers)) this.ledger.publish()
  }

  /** Denies by a notification. @param lastTick Number of the last tick sent. */
  denyProvisionally(payload: Payload, seen: Visible, lastTick: number): void {
    if (this.#overlay.add(this.ledger, payload, seen, lastTick) === 0) return
    this.ledger.publish()
    this.#options.onRows(payload.rows)
  }

  /** The row has been read from the table, or its deletion has. */
  confirm(id: number): void {
    this.#overlay.confirm(id)
  }

  /**
   * Puts what a tick brought in force. Beside a second session it is kept as well, since that session reads what is older.
   * @param asked What the tick asked from; `tick` is its number.
   */
  async applyTick(
    changes: Changes,
    asked: { readonly tick: number; readonly seen: Visible },
    beside: Beside | undefined,
  ): Promise<void> {
    const { ledger } = this
    const { ident, rows, tombs } = changes
    this.learnPointers(ident.pointers)
    beside?.deferred.note(changes)
    for (const { id } of tombs) {
      this.#unmatchable.delete(id)
      this.#overlay.confirm(id)
    }
    for (const { id } of rows) this.#overlay.confirm(id)
    const provisional = this.#overlay.size
    if (ledger.loaded || beside?.kind !== 'loading') await this.#write(changes)
    this.#dropUnconfirmed(asked, beside, seenIn(ident.snapshot))
    if (rows.length + tombs.length > 0 || this.#overlay.size !== provisional) {
      ledger.publish()
      if (rows.length > 0) this.#options.onRows(rows)
    }
    ledger.setBroken(this.#unmatchable.size > 0)
  }

  /** Puts a table that a second session has filled in place of what is held. @param seen What that session saw. */
  async replaceAll(
    loading: Loading,
    loaded: { readonly unmatchable: readonly RevocationRow[]; readonly deferred: Deferred },
    seen: Visible,
  ): Promise<void> {
    const { ledger } = this
    this.#overlay.forget(seen)
    this.#unmatchable.clear()
    for (const row of loaded.unmatchable) this.noteUnmatchable(row)
    const changes = loaded.deferred.changes()
    await loading.reserve(2 * (changes.rows.length + this.#overlay.size) + 1000)
    await ledger.finishLoad(loading, async () => {
      await this.#write(changes)
      for (const row of this.#overlay.rows()) ledger.upsert(row)
    })
    // Not before it is published: an exchange with an older stamp would be believed clean.
    this.#options.onRows(undefined)
    ledger.setBroken(this.#unmatchable.size > 0)
  }

  /** A catch-up is complete. @param seen What its session saw: a provisional row of it that was not shown is dropped. */
  finishCatchUp(seen: Visible): void {
    this.#overlay.settle(this.ledger, Number.POSITIVE_INFINITY, seen, seen)
    this.ledger.publish()
    this.#options.onRows(undefined)
  }

  /** More rows than can be named are in the ledger and published. */
  askAllOpen(): void {
    this.#options.onRows(undefined)
  }

  /** A row that this release cannot match makes the gate not ready: to skip it would let a revoked caller through. */
  readonly noteUnmatchable = (row: RevocationRow, error?: GateError): void => {
    if (this.#unmatchable.has(row.id)) return
    this.#unmatchable.add(row.id)
    const problem = error ?? unmatchable(row.id)
    this.#options.onUnmatchable(problem)
    this.#options.log.error({ code: problem.code, hint: problem.hint }, problem.message)
  }

  async #write(changes: Pick<Changes, 'rows' | 'tombs'>): Promise<void> {
    await apply(this.ledger, changes, this.noteUnmatchable)
  }

  #dropUnconfirmed(
    { tick, seen }: { readonly tick: number; readonly seen: Visible },
    beside: Beside | undefined,
    shown: Visible,
  ): void {
    // A row that the second session will show or not is not for this tick to judge.
    const judges: Visible = (xid) => beside === undefined || !seen(xid)
    const uncommitted = this.#overlay.settle(this.ledger, tick, judges, shown)
    if (uncommitted.length === 0) return
    this.#options.log.warn(
      { ids: uncommitted.slice(0, 10), rows: uncommitted.length },
      'rows of a notification were dropped: the database does not show their transaction',
    )
  }
}
