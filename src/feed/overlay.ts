/**
 * Provisional denials: rows from notifications, in force before a tick has shown them. None of them stays without proof:
 *
 *  - a row of a transaction that the cursor has seen is ignored: a tick was faster, or the row is gone again already;
 *  - a tick that shows the row confirms it;
 *  - a tick that was sent after the row arrived and does not show it drops it. One that was sent before proves nothing:
 *    its snapshot may be older than the row, since a running statement holds notifications back.
 */
import type { RevocationRow } from '../domain/revocation.ts'
import type { Ledger } from '../revocation/ledger.ts'
import type { Visible } from './cursor.ts'
import type { Payload } from './payload.ts'

interface Provisional {
  readonly row: RevocationRow
  readonly xid: bigint
  /** Number of the last tick that had been sent when it arrived. */
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

  /** @param tick Number of the last tick sent. @returns how many rows are in force that were not before. */
  add(ledger: Ledger, payload: Payload, seen: Visible, tick: number): number {
    if (seen(payload.xid)) return 0
    let added = 0
    for (const row of payload.rows) {
      // A row that the ledger holds already is from a tick and stays as it is.
      if (this.#rows.has(row.id) || ledger.has(row.id, row.keys) || !ledger.hasRoom(1)) continue
      try {
        ledger.upsert(row)
      } catch {
        // A row that cannot be matched comes again with the tick, which reports it.
        continue
      }
      this.#rows.set(row.id, { row, xid: payload.xid, afterTick: tick })
      added++
    }
    return added
  }

  /** The row has been read from the table, or its deletion has. */
  confirm(id: number): void {
    if (this.#rows.size > 0) this.#rows.delete(id)
  }

  /** A full load has shown all rows of these transactions: a row is in its table now, or does not exist. */
  forget(seen: Visible): void {
    for (const [id, { xid }] of this.#rows) if (seen(xid)) this.#rows.delete(id)
  }

  /**
   * Drops the rows that a tick under its cap did not show.
   * @param judges Whether this tick's answer speaks of that transaction.
   * @returns ids of dropped rows whose transaction is not visible either: it was not committed
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
