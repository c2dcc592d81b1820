/**
 * Room: response. In: exchanges from their registration to their last byte. Out: the set of what is open.
 * Never does: decide. An exchange is added *before* its look-up in the ledger (design law 3), so a row that
 * comes after the look-up finds it here. Cutting by row starts with a later release; drain uses it now.
 */
import type { Exchange } from '../domain/exchange.ts'

export class LiveRegistry {
  readonly #open = new Set<Exchange>()
  #onIdle: (() => void) | undefined

  get size(): number {
    return this.#open.size
  }

  add(exchange: Exchange): void {
    this.#open.add(exchange)
  }

  /** Twice is fine. */
  remove(exchange: Exchange): void {
    if (this.#open.delete(exchange) && this.#open.size === 0) this.#onIdle?.()
  }

  /** Ends whatever is still open: the end of a drain. */
  endAll(why: Error): void {
    for (const exchange of [...this.#open]) exchange.end(why)
  }

  /** Resolves once nothing is open, at the latest after `timeoutMs`. @returns how many were left. */
  idle(timeoutMs: number): Promise<number> {
    if (this.#open.size === 0) return Promise.resolve(0)
    return new Promise((resolve) => {
      const finish = (): void => {
        clearTimeout(timer)
        this.#onIdle = undefined
        resolve(this.#open.size)
      }
      const timer = setTimeout(finish, timeoutMs)
      this.#onIdle = finish
    })
  }
}
