/**
 * When the whole ledger is compared with the whole table, and what came of it; verify.ts is one comparison. Never does:
 * tick. The feed takes the session that is ready, ticks on it and hands it back with the ledger that its snapshot shows.
 */
import { type Digest, digestBuckets } from '../revocation/digest.ts'
import type { FeedOptions } from './feed.ts'
import type { Verification } from './verify.ts'

const soonMs = 1000

export class Comparisons {
  readonly #options: Pick<FeedOptions, 'verifyMs' | 'log' | 'metrics'>
  readonly #open: () => Promise<Verification>
  /** Its session is open, and nothing was read on it. */
  #ready: Verification | undefined
  /** Busy with the sums of the table. */
  #summing: Verification | undefined
  /** By `performance.now()`; Infinity while one is under way, or for never. */
  #dueAt: number
  #done = 0
  #differences = 0
  #differs = false
  #closed = false

  constructor(
    options: Pick<FeedOptions, 'verifyMs' | 'log' | 'metrics'>,
    open: () => Promise<Verification>,
  ) {
    this.#options = options
    this.#open = open
    this.#dueAt = this.#next()
  }

  get done(): number {
    return this.#done
  }

  get differences(): number {
    return this.#differences
  }

  /** The last one found a difference, and nothing was loaded since. */
  get differs(): boolean {
    return this.#differs
  }

  /** Everything is loaded anew: what was found is of no account any more. */
  forget(): void {
    this.#differs = false
  }

  /** Opens the session for the next one, when that is due; ticks do not wait for it. */
  prepare(): void {
    if (performance.now() < this.#dueAt) return
    this.#dueAt = Infinity
    this.#open()
      .then((verification) => {
        if (this.#closed) verification.close()
        else this.#ready = verification
      })
      .catch((error: unknown) => this.#note(error))
  }

  take(): Verification | undefined {
    const ready = this.#ready
    this.#ready = undefined
    return ready
  }

  /** The ledger is what this session's snapshot shows; summing up the table is left to it. */
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

  /** The ledger is ahead of every snapshot at the moment. */
  postpone(verification: Verification): void {
    verification.close()
    this.#dueAt = performance.now() + soonMs
  }

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
    // With jitter, so that gates do not sum up the table together.
    return verifyMs === 0 ? Infinity : performance.now() + verifyMs * (0.8 + Math.random() * 0.4)
  }

  /** @param found How many buckets differ, undefined where they cannot be compared, or what went wrong. */
  #note(found: unknown): void {
    const { log, metrics } = this.#options
    this.#dueAt = this.#next()
    if (this.#closed || found === undefined) return
    if (typeof found !== 'number') {
      log.warn({ err: found }, 'the ledger could not be compared with the table')
      return
    }
    this.#done++
    metrics.count('dropgate_feed_comparisons_total', found === 0 ? 'equal' : 'different')
    if (found === 0) return
    this.#differences++
    this.#differs = true
    log.error({ differing: found, of: digestBuckets }, 'the ledger is not what the table holds')
  }
}
