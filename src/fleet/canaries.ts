/**
 * Canaries: rows that hit no token. One gate after the other writes them (`canary()` in store/sql elects it), and every
 * gate confirms them as any row whose writer waits. So each gate measures for how long a revocation that was just
 * committed is not in force on it, and learns when one does not come into force at all.
 *
 * The time is an upper bound, made of two differences, each by the clock of one machine: by that of the server, from just
 * before the commit until it answered what this gate asked; by ours, from sending that question until the row was in
 * force, which is negative where the row was in force before. While the answer was on its way, both run: that is too much
 * by at most one round trip.
 */
import { monotonicUs } from '../domain/clock.ts'
import type { Log } from '../domain/log.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import type { Receipt } from './receipts.ts'

/** A row whose writer waits for receipts. */
export interface Waiting {
  readonly id: number
  /** As the table has it now; undefined when it is gone. */
  readonly row: RevocationRow | undefined
  readonly canary: boolean
  /** Time since just before its commit, by the clock of the server when it answered. */
  readonly ageUs: number
  /** The transaction in which its writer asked for receipts. */
  readonly xid: string
}

export interface CanaryOptions {
  /** True once the gate has loaded the revocations. Before, it refuses every request. */
  readonly loaded: () => boolean
  /** A canary that is not in force after this long is late. */
  readonly lateMs: number
  readonly metrics: {
    count(name: 'dropgate_canaries_late_total'): void
    observe(name: 'dropgate_revocation_seconds', seconds: number): void
  }
  readonly log: Pick<Log, 'info' | 'error'>
}

export class Canaries {
  readonly #options: CanaryOptions
  /** Canaries that the server lists still: written before this gate had loaded, or noted as late. */
  readonly #noted = new Map<number, 'before' | 'late'>()
  /** Those whose rows this gate has found in the table: what was deleted before need not be in force. */
  readonly #found = new Set<number>()
  #started = false
  #row: RevocationRow | undefined
  #lastMs: number | null = null
  #late = 0
  #missing = false

  constructor(options: CanaryOptions) {
    this.#options = options
  }

  /** The newest canary that the table was seen to have. */
  get row(): RevocationRow | undefined {
    return this.#row
  }

  /** What the newest canary in force has measured. */
  get lastMs(): number | null {
    return this.#lastMs
  }

  /** Number of canaries that came into force late here, or never. */
  get late(): number {
    return this.#late
  }

  /** True while the newest canary is late and not in force. */
  get missing(): boolean {
    return this.#missing
  }

  /** Leaves out what was written before this gate had loaded: it says nothing about this gate. */
  concerning(waiting: readonly Waiting[]): readonly Waiting[] {
    const canaries = waiting.filter(({ canary }) => canary)
    const listed = new Set(canaries.map(({ id }) => id))
    for (const id of this.#noted.keys()) if (!listed.has(id)) this.#noted.delete(id)
    for (const id of this.#found) if (!listed.has(id)) this.#found.delete(id)
    for (const { id, row } of canaries) if (row !== undefined) this.#found.add(id)
    if (!this.#started) {
      this.#started = this.#options.loaded()
      for (const id of listed) this.#noted.set(id, 'before')
    }
    this.#row = canaries.find(({ row }) => row !== undefined)?.row ?? this.#row
    return waiting.filter(({ id }) => this.#noted.get(id) !== 'before')
  }

  /**
   * @param waiting What `concerning` has left.
   * @param receipts Those that were given to them.
   * @param askedUs Monotonic µs at which the server was asked for them.
   */
  note(waiting: readonly Waiting[], receipts: readonly Receipt[], askedUs: number): void {
    const { lateMs, metrics, log } = this.#options
    const since = new Map(receipts.map(({ row, sinceUs }) => [row.id, sinceUs]))
    const wasMissing = this.#missing
    // The oldest first: a newer one that is in force ends the alarm.
    for (const { id, canary, ageUs } of waiting.toSorted((a, b) => b.ageUs - a.ageUs)) {
      if (!canary) continue
      const sinceUs = since.get(id)
      const ms = (ageUs + (sinceUs ?? monotonicUs()) - askedUs) / 1000
      const late = ms > lateMs && this.#noted.get(id) !== 'late'
      if (late) {
        this.#noted.set(id, 'late')
        this.#late++
        metrics.count('dropgate_canaries_late_total')
      }
      if (sinceUs === undefined) {
        this.#missing ||= late && this.#found.has(id)
        continue
      }
      this.#missing = false
      // Below 0 the clock of the server was set back meanwhile: there is no figure.
      if (ms < 0) continue
      this.#lastMs = ms
      metrics.observe('dropgate_revocation_seconds', ms / 1000)
    }
    if (this.#missing && !wasMissing) {
      log.error(
        {
          hint: '`feed` in `dropgate status` says whether this gate follows the database, and which; while it does, other revocations may be missing too',
        },
        `a canary was not in force on this gate ${lateMs} ms after its commit`,
      )
    } else if (wasMissing && !this.#missing) log.info({}, 'a canary is in force on this gate again')
  }
}
