/**
 * A backlog: more than ticks can carry. A second session (bulk.ts) reads it while ticks go on from that session's snapshot;
 * what the ticks bring is kept here, newer than what the session reads. Never does: tick, decide when both have met.
 */
import type { Log } from '../domain/log.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import type { Loading } from '../revocation/ledger.ts'
import { Deferred } from './apply.ts'
import type { Bulk } from './bulk.ts'
import { type Cursor, seenIn } from './cursor.ts'
import type { Beside, InForce } from './in-force.ts'

/** How often, during a catch-up, workers look through all that they hold open for exchanges that a row concerns. */
const cutEveryMs = 250
const progressLogMs = 2000

export class Backlog implements Beside {
  readonly kind: Beside['kind']
  readonly deferred = new Deferred()
  readonly startedAt = performance.now()
  readonly #bulk: Bulk
  readonly #inForce: InForce
  #loading: Loading | undefined
  #unmatchable: readonly RevocationRow[] = []
  #outcome: 'reading' | 'done' | Error = 'reading'
  /** What ticks have shown since; begins with the second session's snapshot. */
  cursor: Cursor

  /** @param before The cursor that the second session catches up from, or undefined for a load. */
  constructor(kind: Beside['kind'], bulk: Bulk, inForce: InForce, before: Cursor | undefined) {
    this.kind = kind
    this.#bulk = bulk
    this.#inForce = inForce
    this.cursor = bulk.cursorAfter(before)
    inForce.learnPointers(bulk.ident.pointers)
  }

  /** Rows that the second session has read so far. */
  get rows(): number {
    return this.#bulk.rows
  }

  /** Of how many; null where that is not known. */
  get expected(): number | null {
    return this.#bulk.expected
  }

  get outcome(): 'reading' | 'done' | Error {
    return this.#outcome
  }

  /** Begins to read every row into a table of its own. @param spareRows Room beyond them. */
  load(spareRows: number, log: Log, onEnd: () => void): void {
    this.#run(log, onEnd, async () => {
      const rows = await this.#bulk.count()
      this.#loading = this.#inForce.ledger.startLoad(rows + spareRows)
      this.#unmatchable = await this.#bulk.load(this.#loading, this.deferred)
    })
  }

  /** Begins to read what `seen` does not show into the ledger that serves. */
  catchUp(seen: string, log: Log, onEnd: () => void): void {
    let cutNext = 0
    const cut = (): void => {
      if (performance.now() < cutNext) return
      cutNext = performance.now() + cutEveryMs
      this.#inForce.askAllOpen()
    }
    this.#run(log, onEnd, () => this.#bulk.catchUp(seen, this.deferred, this.#inForce, cut))
  }

  /** Puts all of it in force. To be called when a tick that was sent after the second session was done is applied. */
  async finish(): Promise<void> {
    // Every row of these transactions has been shown by now.
    const seen = seenIn(this.#bulk.ident.snapshot)
    if (this.#loading === undefined) this.#inForce.finishCatchUp(seen)
    else {
      const { deferred } = this
      const loaded = { unmatchable: this.#unmatchable, deferred }
      await this.#inForce.replaceAll(this.#loading, loaded, seen)
    }
  }

  close(): void {
    this.#bulk.close()
  }

  #run(log: Log, onEnd: () => void, read: () => Promise<void>): void {
    const progress = setInterval(() => {
      log.info({ rows: this.rows, of: this.expected }, `${this.kind}: ${this.rows} rows so far`)
    }, progressLogMs)
    read()
      .then(() => {
        this.#outcome = 'done'
      })
      .catch((error: unknown) => {
        this.#outcome = error instanceof Error ? error : new Error(String(error))
      })
      .finally(() => {
        clearInterval(progress)
        this.close()
        onEnd()
      })
  }
}
