/** A pause in a loop that an event may end early, and that ends for good when the loop's owner closes. */
export class WakeableSleep {
  #woken = false
  #closed = false
  #end: () => void = () => {}

  /** Whether `wake` was called since `reset`. */
  get woken(): boolean {
    return this.#woken
  }

  /** Called before the loop looks at its work: an event from here on is news. */
  reset(): void {
    this.#woken = false
  }

  wake(): void {
    this.#woken = true
    this.#end()
  }

  /** Sleeps, also where `woken` is set already: a pause before another attempt is one in any case. */
  sleep(ms: number): Promise<void> {
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

  /** Ends the sleep under way and every later one. */
  close(): void {
    this.#closed = true
    this.wake()
  }
}
