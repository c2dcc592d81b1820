/**
 * Provisional denials: rows from notifications that are in force before a tick has shown them. None of them stays
 * without proof:
 *
 *  - a row whose transaction the cursor has seen is ignored: a tick has shown the row before, or it is deleted again;
 *  - a tick that shows the row confirms it;
 *  - a tick that was sent after the row arrived and does not show it drops it. A tick that was sent before proves
 *    nothing: a running statement holds notifications back, so the snapshot of that tick may be older than the row.
 */
import type { RevocationRow } from '../domain/revocation.ts'
import type { Ledger } from '../revocation/ledger.ts'
import type { Visible } from './cursor.ts'
import type { Payload } from './payload.ts'

interface Provisional {
  readonly row: RevocationRow
  readonly xid: bigint
  /** Number of the last tick that had been sent when the row arrived. */
  readonly afterTick: number
}

export class Overlay {
  readonly #rows = new Map<number, Provisional>()

  get size(): number {
    return this.#rows.size
  }

  rows(): RevocationRow[] {
    return [...this.#rows.values()].map(({ row }) => row)
  }

  /** @param tick Number of the last tick sent. @returns how many rows are newly in force */
  add(ledger: Ledger, payload: Payload, seen: Visible, tick: number): number {
    if (seen(payload.xid)) return 0
    let added = 0
    for (const row of payload.rows) {
      // The ledger has this row from a tick already: keep it unchanged.
      if (this.#rows.has(row.id) || ledger.has(row.id, row.keys) || !ledger.hasRoom(1)) continue
      try {
        ledger.upsert(row)
      } catch {
        // Skip a row that cannot be matched: the next tick brings it again and reports it.
        continue
      }
      this.#rows.set(row.id, { row, xid: payload.xid, afterTick: tick })
      added++
    }
    return added
  }

  /** The table has shown that the row exists, or that it was deleted: it is no longer provisional. */
  confirm(id: number): void {
    if (this.#rows.size > 0) this.#rows.delete(id)
  }

  /** A full load has shown all rows of these transactions: their rows are now from the table, or do not exist. */
  forget(seen: Visible): void {
    for (const [id, { xid }] of this.#rows) if (seen(xid)) this.#rows.delete(id)
  }

  /**
   * Drops the rows that a complete tick did not show.
   * @param judges Whether this tick's answer would have shown rows of that transaction.
   * @returns ids of dropped rows whose transaction is not visible: it was never committed
   */
  settle(ledger: Ledger, tick: number, judges: Visible, seen: Visible): number[] {
    const uncommitted: number[] = []
    for (const [id, { row, xid, afterTick }] of this.#rows) {
      if (tick <= afterTick || !judges(xid)) continue
      ledger.remove(id, row.keys)
      this.#rows.delete(id)
      if (!seen(xid)) uncommitted.push(id)
    }
    return uncommitted
  }
}
