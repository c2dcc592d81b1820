/**
 * Decides whether a worker that gives no sign of life must be replaced:
 *
 *   - A worker that computes is judged by the CPU time that it has used since its last sign.
 *   - A worker that got no CPU time, on a busy or frozen machine, is not at fault and is waited for.
 *   - A worker that sleeps in the middle of a turn gets a longer limit.
 *
 * Where the machine does not report the CPU time of a thread, the wall clock is used.
 */
import type { ThreadUse } from '../domain/thread-cpu.ts'

/**
 * Limit of silence. A replacement then listens within 2 s of the last sign: 1.3 s of silence, and about 0.2 s to start.
 */
export const silentMs = 1300
/**
 * Limit for a worker that sleeps. In the middle of a turn it can only wait for the machine: a page to be read back, a
 * slow disk. Such waits end, and a replacement would wait for the same machine; a longer wait is taken to last forever.
 */
export const asleepMs = 10_000
/** Time between two checks of a worker. */
export const watchMs = 100

export class Silence {
  #sinceMs = 0
  #lookedMs = 0
  #cpuMs: number | undefined
  #asleepMs = 0

  /** A sign of life. @param use CPU use of the thread by now; undefined when it is not known */
  broken(nowMs: number, use: ThreadUse | undefined): void {
    this.#sinceMs = nowMs
    this.#lookedMs = nowMs
    this.#cpuMs = use?.cpuMs
    this.#asleepMs = 0
  }

  /** To be called every `watchMs` without a sign of life. @returns whether the worker must be replaced */
  tooLong(nowMs: number, use: ThreadUse | undefined): boolean {
    const passedMs = nowMs - this.#lookedMs
    this.#lookedMs = nowMs
    if (use === undefined || this.#cpuMs === undefined) {
      // When this thread was held up itself, the worker may have been too: the silence proves nothing, so the count
      // starts again.
      if (passedMs > watchMs + silentMs / 4) this.#sinceMs = nowMs
      this.#cpuMs = undefined
      return nowMs - this.#sinceMs > silentMs
    }
    // Count only time in which this thread was watching.
    if (!use.runnable) this.#asleepMs += Math.min(passedMs, 2 * watchMs)
    return use.cpuMs - this.#cpuMs > silentMs || this.#asleepMs > asleepMs
  }
}
