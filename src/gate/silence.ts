/**
 * Whether a worker that gives no sign of life is to be replaced. One that runs on and on is told by the CPU time it has
 * used since the last sign; one that has been given none, on a machine that is busy or was frozen, has done nothing wrong
 * and is waited for; one that sleeps in the middle of a turn is given longer. Where the machine does not say what a thread
 * uses, the wall clock has to do for it.
 */
import type { ThreadUse } from '../domain/thread-cpu.ts'

/** A replacement is listening within 2 s of the last sign: 1.3 s of silence, then about 0.2 s to start. */
export const silentMs = 1300
/**
 * Nothing in a turn waits for anything but the machine itself: a page to be read back, a disk that is slow. Those end,
 * and replacing the worker would need the same machine; what lasts longer than this is taken to last for ever.
 */
export const asleepMs = 10_000
/** How often a worker is looked at. */
export const watchMs = 100

export class Silence {
  #sinceMs = 0
  #lookedMs = 0
  #cpuMs: number | undefined
  #asleepMs = 0

  /** A sign of life. @param use What its thread had used by now; undefined where that is not known */
  broken(nowMs: number, use: ThreadUse | undefined): void {
    this.#sinceMs = nowMs
    this.#lookedMs = nowMs
    this.#cpuMs = use?.cpuMs
    this.#asleepMs = 0
  }

  /** Still none: to be asked every `watchMs`. */
  tooLong(nowMs: number, use: ThreadUse | undefined): boolean {
    const passedMs = nowMs - this.#lookedMs
    this.#lookedMs = nowMs
    if (use === undefined || this.#cpuMs === undefined) {
      // When the thread that looks was held up itself, the worker may have been too: silence proves nothing then.
      if (passedMs > watchMs + silentMs / 4) this.#sinceMs = nowMs
      this.#cpuMs = undefined
      return nowMs - this.#sinceMs > silentMs
    }
    // Only what was seen counts, not what passed while nobody looked.
    if (!use.runnable) this.#asleepMs += Math.min(passedMs, 2 * watchMs)
    return use.cpuMs - this.#cpuMs > silentMs || this.#asleepMs > asleepMs
  }
}
