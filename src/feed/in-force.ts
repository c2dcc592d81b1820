/**
 * The rows that are in force: the ledger, the provisional rows in it, and the rows that the ledger cannot hold.
 * Everything that ticks, notifications and second sessions bring is written here. Never does: ask the database, move
 * the cursor.
 */
import type { Log } from '../domain/log.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import type { GateError } from '../errors.ts'
import { type FullLoad, type Ledger, unmatchable } from '../revocation/ledger.ts'
import { apply, type Changes, type Deferred } from './apply.ts'
import { seenIn, type Visible } from './cursor.ts'
import type { History } from './history.ts'
import { Overlay } from './overlay.ts'
import type { Payload } from './payload.ts'

export interface InForceOptions {
  readonly ledger: Ledger
  /** Told of each row before the ledger changes. */
  readonly history: History
  /** Makes the workers look up these claims in tokens. @returns whether one of them is new */
  readonly learnPointers: (pointers: readonly string[]) => boolean
  /**
   * Called when rows are in the ledger and published: the open exchanges that they concern must be cut. A row may come
   * twice, from a notification and from the tick that confirms it. Undefined: too many rows to list.
   */
  readonly onRows: (rows: readonly RevocationRow[] | undefined) => void
  /** Called when the ledger cannot hold a row; then the gate is not ready. */
  readonly onUnmatchable: (error: GateError) => void
  readonly log: Log
}

/** A load or a catch-up on a second session (bulk.ts), while ticks go on. */
export interface SecondRead {
  readonly kind: 'loading' | 'catching-up'
  /** The changes that ticks bring meanwhile. */
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

  /** Number of rows that a notification brought and no tick has shown yet. */
  get provisionalRows(): number {
    return this.#overlay.size
  }

  /** Number of rows in the table that this release cannot match. */
  get unmatchableRows(): number {
    return this.#unmatchable.size
  }

  /**
   * Makes the workers look up these claims in tokens, before rows that name them are written; `heldKeys` says why.
   */
  learnPointers(pointers: readonly string[]): void {
    if (this.#options.learnPointers(pointers)) this.ledger.publish()
  }

  /** Puts the rows of a notification in force, provisionally. @param lastTick Number of the last tick that was sent. */
  denyProvisionally(payload: Payload, seen: Visible, lastTick: number): void {
    for (const { id, keys } of payload.rows) this.#options.history.touchProvisionally(id, keys)
    if (this.#overlay.add(this.ledger, payload, seen, lastTick) === 0) return
    this.ledger.publish()
    this.#options.onRows(payload.rows)
  }

  /** The table has shown that the row exists, or that it was deleted: it is no longer provisional. */
  confirm(id: number): void {
    this.#overlay.confirm(id)
  }

  /** The ledger is about to hold this row under these keys, or no longer to do so. */
  touch(id: number, keys: Uint8Array): void {
    this.#options.history.touch(id, keys)
  }

  /**
   * Puts the changes of a tick in force. While a second session reads, they are also kept for later, since that session
   * reads an older state.
   * @param asked The cursor from which the tick asked; `tick` is its number.
   */
  async applyTick(
    changes: Changes,
    asked: { readonly tick: number; readonly seen: Visible },
    beside: SecondRead | undefined,
  ): Promise<void> {
    const { ledger } = this
    const { ident, rows, tombs } = changes
    this.learnPointers(ident.pointers)
    beside?.deferred.note(changes)
    for (const { id, keys } of tombs) {
      this.touch(id, keys)
      this.#unmatchable.delete(id)
      this.#overlay.confirm(id)
    }
    for (const { id, keys } of rows) {
      this.touch(id, keys)
      this.#overlay.confirm(id)
    }
    const provisional = this.#overlay.size
    if (ledger.loaded || beside?.kind !== 'loading') await this.#write(changes)
    this.#dropUnconfirmed(asked, beside, seenIn(ident.snapshot))
    if (rows.length + tombs.length > 0 || this.#overlay.size !== provisional) {
      ledger.publish()
      if (rows.length > 0) this.#options.onRows(rows)
    }
    ledger.setBroken(this.#unmatchable.size > 0)
  }

  /** Replaces the ledger's table by the one that a second session has filled. @param seen What that session saw. */
  async replaceAll(
    loading: FullLoad,
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
    // Called after the new table is published: before that, an exchange that was checked against the old table would
    // still count as clean.
    this.#options.onRows(undefined)
    ledger.setBroken(this.#unmatchable.size > 0)
  }

  /**
   * A catch-up is complete. @param seen What its session saw: provisional rows that it should have shown but did not
   * are dropped.
   */
  finishCatchUp(seen: Visible): void {
    this.#overlay.settle(this.ledger, Number.POSITIVE_INFINITY, seen, seen)
    this.ledger.publish()
    this.#options.onRows(undefined)
  }

  /** Rows are in the ledger and published, too many to list: all open exchanges are checked. */
  askAllOpen(): void {
    this.#options.onRows(undefined)
  }

  /**
   * A row that this release cannot match makes the gate not ready: if it were skipped, a revoked caller would get
   * through.
   */
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
    beside: SecondRead | undefined,
    shown: Visible,
  ): void {
    // While a second session reads, rows that only it can show must not be dropped because this tick did not show them.
    const judges: Visible = (xid) => beside === undefined || !seen(xid)
    const uncommitted = this.#overlay.settle(this.ledger, tick, judges, shown)
    if (uncommitted.length === 0) return
    this.#options.log.warn(
      { ids: uncommitted.slice(0, 10), rows: uncommitted.length },
      'rows of a notification are no longer in force: the database does not show their transaction',
    )
  }
}
