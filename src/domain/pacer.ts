/** Pacer: the pauses of one loop that works at a pace, and at once when there is a reason. One pause at a time. */
export class Pacer {
  #woken = false
  #closed = false
  #end: () => void = () => {}

  /** A round begins: from here on a `wake` means another one. */
  begin(): void {
    this.#woken = false
  }

  /** Ends the pause; where there is none, `untilWoken` of this round does not begin one. */
  wake(): void {
    this.#woken = true
    this.#end()
  }

  /** Ends the pause; no other begins any more. */
  close(): void {
    this.#closed = true
    this.#end()
  }

  /** Pauses, at most for so long, unless `wake` was called in this round. */
  untilWoken(ms: number): Promise<void> {
    return this.#woken ? Promise.resolve() : this.pause(ms)
  }

  /** Pauses, at most for so long, whatever was before. */
  pause(ms: number): Promise<void> {
    if (ms <= 0 || this.#closed) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = setTimeout(done, ms)
      function done(): void {
        clearTimeout(timer)
        resolve()
      }
      this.#end = done
    })
  }
}
