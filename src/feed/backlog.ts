/**
 * A backlog: more changes than ticks can carry. A second session (bulk.ts) reads it, while ticks go on from the
 * snapshot of that session. The changes that ticks bring meanwhile are kept here: they are newer than those of the
 * session. Never does: tick, decide when the backlog is complete.
 */
import type { Log } from '../domain/log.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import type { FullLoad } from '../revocation/ledger.ts'
import { Deferred } from './apply.ts'
import type { Bulk, ReadFrom } from './bulk.ts'
import { type Cursor, seenIn } from './cursor.ts'
import type { InForce, SecondRead } from './in-force.ts'
import type { Presence } from './presence.ts'

/** How often, during a catch-up, workers check all open exchanges against the new rows. */
const cutEveryMs = 250
const progressLogMs = 2000

export class Backlog implements SecondRead {
  readonly kind: SecondRead['kind']
  readonly deferred = new Deferred()
  readonly startedAt = performance.now()
  readonly #bulk: Bulk
  readonly #inForce: InForce
  #loading: FullLoad | undefined
  #unmatchable: readonly RevocationRow[] = []
  #outcome: 'reading' | 'done' | Error = 'reading'
  /** What ticks have shown since; it begins with the snapshot of the second session. */
  cursor: Cursor

  constructor(kind: SecondRead['kind'], bulk: Bulk, inForce: InForce) {
    this.kind = kind
    this.#bulk = bulk
    this.#inForce = inForce
    this.cursor = bulk.ident
    inForce.learnPointers(bulk.ident.pointers)
  }

  get presence(): Presence {
    return this.#bulk.presence
  }

  /** Number of rows that the second session has read so far. */
  get rows(): number {
    return this.#bulk.rows
  }

  /** Number of rows that it will read; null when that is not known. */
  get expected(): number | null {
    return this.#bulk.expected
  }

  get outcome(): 'reading' | 'done' | Error {
    return this.#outcome
  }

  /** Begins to read every row into a new table. @param spareRows Room for rows beyond those. */
  load(spareRows: number, log: Log, onEnd: () => void): void {
    this.#run(log, onEnd, async () => {
      const rows = await this.#bulk.count()
      this.#loading = this.#inForce.ledger.startLoad(rows + spareRows)
      this.#unmatchable = await this.#bulk.load(this.#loading, this.deferred)
    })
  }

  /** Begins to read what `from` does not show, into the ledger that is in use. */
  catchUp(from: ReadFrom, log: Log, onEnd: () => void): void {
    let cutNext = 0
    const cut = (): void => {
      if (performance.now() < cutNext) return
      cutNext = performance.now() + cutEveryMs
      this.#inForce.askAllOpen()
    }
    this.#run(log, onEnd, () => this.#bulk.catchUp(from, this.deferred, this.#inForce, cut))
  }

  /**
   * Puts everything in force. To be called when a tick is applied that was sent after the second session had finished.
   */
  async finish(): Promise<void> {
    // Ticks have shown every row of these transactions by now.
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
