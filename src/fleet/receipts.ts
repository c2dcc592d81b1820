/**
 * Which rows this gate may confirm. A receipt is given for a row because the row is in the ledger exactly as the table
 * has it now, every worker reads that ledger, and every worker has looked at the open exchanges that the row concerns.
 * Never because a cursor has passed the row: the server may have lost it, or this session may lead to another server
 * than that of the feed.
 */
import { monotonicUs } from '../domain/clock.ts'
import { type RevocationRow, sameRow } from '../domain/revocation.ts'

export interface ReceiptsOptions {
  /** True when the ledger that every worker reads has exactly this row. */
  readonly holds: (row: RevocationRow) => boolean
  /**
   * Makes every worker cut the open exchanges that these rows concern. Resolves once all have done so and `cut` was
   * called for all that they have cut.
   */
  readonly look: (rows: readonly RevocationRow[]) => Promise<void>
  /** Called when rows may be confirmed that could not be before. */
  readonly wake: () => void
}

export interface Receipt {
  readonly row: RevocationRow
  /** Monotonic µs since which the row has been in force here. Where that is not known, a later moment. */
  readonly sinceUs: number
  /** Number of open exchanges that were cut because of the row. */
  readonly cuts: number
}

interface Look {
  readonly row: RevocationRow
  done: boolean
}

const maxRemembered = 8192
/** How long a call waits for the workers; one that needs longer gives no receipt before the next call. */
const lookMs = 50

export class Receipts {
  readonly #options: ReceiptsOptions
  /** When the newest rows came into force here, oldest first. */
  readonly #since = new Map<number, { readonly row: RevocationRow; readonly us: number }>()
  /** Open exchanges that rows have ended, oldest first. */
  readonly #cuts = new Map<number, number>()
  /** The rows at which the workers are looking, or have looked, for a receipt that is not given yet. */
  readonly #looks = new Map<number, Look>()

  constructor(options: ReceiptsOptions) {
    this.#options = options
  }

  /** These rows are now in force on every worker. */
  applied(rows: readonly RevocationRow[]): void {
    const us = monotonicUs()
    for (const row of rows.slice(-maxRemembered)) {
      const known = this.#since.get(row.id)?.row
      // A row comes first with a notification, then with the tick that confirms it: the first time counts. A row that
      // was changed, or another row with the number of a lost one, came now.
      if (known === undefined || !sameRow(known, row)) this.#since.set(row.id, { row, us })
    }
    forgetOldest(this.#since)
  }

  /** A worker has ended open exchanges because of this row. */
  cut(id: number, exchanges: number): void {
    this.#cuts.set(id, (this.#cuts.get(id) ?? 0) + exchanges)
    forgetOldest(this.#cuts)
  }

  /**
   * Those of the rows that may be confirmed.
   * @param wanted All rows whose writer waits, as the table has them now.
   */
  async given(wanted: readonly RevocationRow[]): Promise<readonly Receipt[]> {
    const { holds } = this.#options
    const waiting = new Set(wanted.map(({ id }) => id))
    for (const id of this.#looks.keys()) if (!waiting.has(id)) this.#looks.delete(id)
    const held = wanted.filter(holds)
    await this.#look(held.filter((row) => !this.#lookAt(row)))
    // Asked again: another row may have taken its place while the workers looked.
    const now = held.filter((row) => this.#lookAt(row)?.done === true && holds(row))
    return now.map((row) => ({
      row,
      sinceUs: this.#sinceOf(row),
      cuts: this.#cuts.get(row.id) ?? 0,
    }))
  }

  async #look(rows: readonly RevocationRow[]): Promise<void> {
    if (rows.length === 0) return
    const looks = rows.map((row) => ({ row, done: false }))
    for (const each of looks) this.#looks.set(each.row.id, each)
    const looked = this.#options.look(rows).then(() => {
      for (const each of looks) each.done = true
    })
    let late: NodeJS.Timeout | undefined
    const patience = new Promise<void>((resolve) => {
      late = setTimeout(() => {
        // A worker is stuck: heartbeats go on meanwhile, and the rows are confirmed once it has answered or has ended.
        void looked.then(this.#options.wake)
        resolve()
      }, lookMs)
    })
    await Promise.race([looked, patience])
    clearTimeout(late)
  }

  #lookAt(row: RevocationRow): Look | undefined {
    const look = this.#looks.get(row.id)
    return look !== undefined && sameRow(look.row, row) ? look : undefined
  }

  /** A row that came with a full load, or long ago, has no time of its own: it is in force now at the latest. */
  #sinceOf(row: RevocationRow): number {
    const known = this.#since.get(row.id)
    return known !== undefined && sameRow(known.row, row) ? known.us : monotonicUs()
  }
}

function forgetOldest(map: Map<number, unknown>): void {
  for (const id of map.keys()) {
    if (map.size <= maxRemembered) return
    map.delete(id)
  }
}
