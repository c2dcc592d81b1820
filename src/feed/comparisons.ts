/**
 * Decides when the whole ledger is compared with the whole table, and keeps the result; verify.ts makes one comparison.
 * Never does: tick. The feed sends a tick on the session of the comparison, so that the ledger holds exactly what the
 * snapshot of that session shows.
 */
import type { Log } from '../domain/log.ts'
import { GateError } from '../errors.ts'
import { type Digest, digestBuckets } from '../revocation/digest.ts'
import { toDatabaseError } from '../store/database-error.ts'
import type { Verification } from './verify.ts'

/** Delay of the next attempt when provisional rows prevented a comparison. */
const soonMs = 1000
/**
 * Comparisons are overdue when this many attempts in a row ended without a result and, while the feed followed, this many
 * intervals (but not less than `leastOverdueMs`) have passed. Both: one comparison may take longer than an interval, and
 * many attempts may fail within one.
 */
const overdueAttempts = 2
const overdueIntervals = 3
const leastOverdueMs = 10_000

export interface ComparisonOptions {
  /** Mean time between two comparisons; 0 for never. */
  readonly verifyMs: number
  readonly open: () => Promise<Verification>
  readonly log: Log
  readonly metrics: { count(name: 'dropgate_feed_comparisons_total', label: string): void }
}

export class Comparisons {
  readonly #options: ComparisonOptions
  /** An open session for the next comparison; no statement was sent on it yet. */
  #ready: Verification | undefined
  /** The session that is computing the sums of the table. */
  #summing: Verification | undefined
  /** When the next comparison begins, by `performance.now()`; Infinity while one is under way, or for never. */
  #dueAt: number
  #done = 0
  #differences = 0
  #differs = false
  #closed = false
  /** When the ledger was last known to equal the table, by `performance.now()`: compared, or about to be loaded. */
  #checkedAt: number | undefined
  /** For how long since then the feed has followed: without a database there is nothing to compare with. */
  #uncheckedMs = 0
  #tickedAt = performance.now()
  /** Attempts since then. */
  #missed = 0
  #overdue = false

  constructor(options: ComparisonOptions) {
    this.#options = options
    this.#dueAt = this.#next()
  }

  get done(): number {
    return this.#done
  }

  get differences(): number {
    return this.#differences
  }

  /** The last comparison found a difference, and no load has begun since. */
  get differs(): boolean {
    return this.#differs
  }

  /** Comparisons were due several times, and none was completed. */
  get overdue(): boolean {
    return this.#overdue
  }

  /** Time since the ledger was last known to equal the table; null where that was never, or is never looked at. */
  get ageMs(): number | null {
    if (this.#checkedAt === undefined || this.#options.verifyMs === 0) return null
    return performance.now() - this.#checkedAt
  }

  /** A full load begins: it replaces the ledger that differed. */
  forget(): void {
    this.#differs = false
    this.#renew()
  }

  /** Opens the session for the next comparison when that is due; ticks do not wait for it. To be called after each tick. */
  prepare(): void {
    const now = performance.now()
    this.#noteTick(now)
    if (now < this.#dueAt) return
    this.#dueAt = Infinity
    this.#options
      .open()
      .then((verification) => {
        if (this.#closed) verification.close()
        else this.#ready = verification
      })
      .catch((error: unknown) => this.#note(error))
  }

  /** The session of a comparison that can begin now; the caller hands it back with `begin`, `postpone` or `fail`. */
  take(): Verification | undefined {
    const ready = this.#ready
    this.#ready = undefined
    return ready
  }

  /** The ledger holds what the snapshot of this session shows; the session goes on to compute the sums of the table. */
  begin(verification: Verification, digest: Digest): void {
    this.#summing = verification
    verification.hold(digest)
    verification
      .differing()
      .then((differing) => this.#note(differing))
      .catch((error: unknown) => this.#note(error))
      .finally(() => {
        verification.close()
        this.#summing = undefined
      })
  }

  /** The ledger holds provisional rows, which no snapshot shows. */
  postpone(verification: Verification): void {
    verification.close()
    this.#missed++
    this.#dueAt = performance.now() + soonMs
  }

  /** The session did not answer. */
  fail(verification: Verification, error: unknown): void {
    verification.close()
    this.#note(error)
  }

  close(): void {
    this.#closed = true
    this.#ready?.close()
    this.#summing?.close()
  }

  #next(): number {
    const { verifyMs } = this.#options
    // With jitter, so that gates do not compare at the same time.
    return verifyMs === 0 ? Infinity : performance.now() + verifyMs * (0.8 + Math.random() * 0.4)
  }

  #noteTick(now: number): void {
    const { verifyMs, log } = this.#options
    // A longer time between two ticks is one without a database.
    this.#uncheckedMs += Math.min(now - this.#tickedAt, Math.max(leastOverdueMs, verifyMs))
    this.#tickedAt = now
    const late = this.#uncheckedMs > Math.max(leastOverdueMs, overdueIntervals * verifyMs)
    if (this.#overdue || this.#missed < overdueAttempts || !late) return
    this.#overdue = true
    log.error(
      { attempts: this.#missed },
      'the revocations in memory are no longer compared with the database table: several comparisons were due and none was completed',
    )
  }

  #renew(): void {
    if (this.#overdue)
      this.#options.log.info({}, 'the revocations in memory are compared with the table again')
    this.#checkedAt = performance.now()
    this.#tickedAt = this.#checkedAt
    this.#uncheckedMs = 0
    this.#missed = 0
    this.#overdue = false
  }

  /** @param found Number of buckets that differ; undefined when they cannot be compared; or the error. */
  #note(found: unknown): void {
    const { log, metrics } = this.#options
    this.#dueAt = this.#next()
    if (this.#closed) return
    if (typeof found !== 'number') {
      this.#missed++
      metrics.count('dropgate_feed_comparisons_total', 'failed')
      const { code, message, hint } = toDatabaseError(found ?? newerRows())
      log.warn(
        { code, hint },
        `the revocations in memory could not be compared with the database table: ${message}`,
      )
      return
    }
    this.#renew()
    this.#done++
    metrics.count('dropgate_feed_comparisons_total', found === 0 ? 'equal' : 'different')
    if (found === 0) return
    this.#differences++
    this.#differs = true
    log.error(
      { differing: found, of: digestBuckets },
      'the revocations in memory differ from the database table: all revocations are loaded again',
    )
  }
}

function newerRows(): GateError {
  return new GateError(
    'ERR_DATABASE_SCHEMA',
    'the table has rows with predicates of a newer release, which this one widens',
    { hint: 'upgrade this gate to the release that wrote them' },
  )
}
