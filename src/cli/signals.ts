/**
 * The signals of `serve`, taken from its first moment on, before anything else is loaded. Until a process has a handler, a
 * signal ends it, or is lost for ever where it is process 1 of a container; and a container that lost its SIGTERM is
 * killed without a drain.
 */
import { type StopRequest, untilStopped } from './stop.ts'

export class Signals {
  /** Resolves at the first request to stop. */
  readonly stopped: Promise<StopRequest>
  #isStopping = false
  /** SIGHUP came before anything listened to it. */
  #isKept = false
  #listener: (() => void) | undefined

  constructor() {
    this.stopped = new Promise((resolve) => {
      void untilStopped((request) => {
        this.#isStopping = true
        resolve(request)
      })
    })
    // It stays until the process ends: without a handler, a SIGHUP would end a gate that drains.
    process.on('SIGHUP', () => {
      if (this.#listener === undefined) this.#isKept = true
      else this.#listener()
    })
  }

  get isStopping(): boolean {
    return this.#isStopping
  }

  /** Calls this at each SIGHUP, and at once if one came before. @returns a function that stops this */
  onHangup(listener: () => void): () => void {
    this.#listener = listener
    if (this.#isKept) listener()
    this.#isKept = false
    return () => {
      this.#listener = undefined
    }
  }
}
