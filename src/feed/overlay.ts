/**
 * Provisional denies: rows from notifications, in force before a tick has shown them. They are never believed for long:
 *
 *  - a row of a transaction that the cursor has seen is ignored: a tick was faster, or the row is gone again already;
 *  - a tick that shows the row confirms it;
 *  - a tick that was sent after the row arrived and does not show it drops it. One that was sent before proves nothing:
 *    its snapshot may be older than the row, since a running statement holds notifications back.
 */
import type { RevocationRow } from '../domain/revocation.ts'
import type { Ledger } from '../revocation/ledger.ts'
import type { Seen } from './cursor.ts'
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
  add(ledger: Ledger, payload: Payload, seen: Seen, tick: number): number {
    if (seen(payload.xid)) return 0
    let added = 0
    for (const row of payload.rows) {
      // What the ledger holds already is from a tick and stays as it is.
      if (this.#rows.has(row.id) || ledger.has(row.id, row.keys) || !ledger.hasRoom(1)) continue
      try {
        ledger.upsert(row)
      } catch {
        // What cannot be matched is for the tick to show and to say.
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

  /** A full load has shown what there is of these: they are not provisional any more, or not at all. */
  forget(seen: Seen): void {
    for (const [id, { xid }] of this.#rows) if (seen(xid)) this.#rows.delete(id)
  }

  /**
   * What a tick that was under its cap did not show.
   * @param judges Whether this tick's answer speaks of that transaction.
   * @returns ids of rows that were dropped though their transaction is not to be seen: nobody committed them
   */
  settle(ledger: Ledger, tick: number, judges: Seen, seen: Seen): number[] {
    const unheardOf: number[] = []
    for (const [id, { row, xid, afterTick }] of this.#rows) {
      if (tick <= afterTick || !judges(xid)) continue
      ledger.remove(id, row.keys)
      this.#rows.delete(id)
      if (!seen(xid)) unheardOf.push(id)
    }
    return unheardOf
  }
}
