/**
 * Decides when the whole ledger is compared with the whole table, and keeps the result; verify.ts makes one comparison.
 * Never does: tick. The feed sends a tick on the session of the comparison, so that the ledger holds exactly what the
 * snapshot of that session shows.
 */
import type { Log } from '../domain/log.ts'
import { type Digest, digestBuckets } from '../revocation/digest.ts'
import type { Verification } from './verify.ts'

/** Delay of the next attempt when provisional rows prevented a comparison. */
const soonMs = 1000

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

  /** A full load begins: it replaces the ledger that differed. */
  forget(): void {
    this.#differs = false
  }

  /** Opens the session for the next comparison when that is due; ticks do not wait for it. */
  prepare(): void {
    if (performance.now() < this.#dueAt) return
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

  /** @param found Number of buckets that differ; undefined when they cannot be compared; or the error. */
  #note(found: unknown): void {
    const { log, metrics } = this.#options
    this.#dueAt = this.#next()
    if (this.#closed || found === undefined) return
    if (typeof found !== 'number') {
      log.warn(
        { err: found },
        'the revocations in memory could not be compared with the database table',
      )
      return
    }
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
