/**
 * How long an evaluation may take, by caller. A caller whose evaluation took too long gets an eighth of the time for a
 * while, and a thirty-second after the next one: to send the same again and again costs the others nearly nothing. Each
 * worker knows of its own evaluations only. Memory is fixed: when a place is taken, the older caller is forgotten.
 */
import type { Caller } from '../domain/caller.ts'

/** For how long after the first evaluation that took too long. It does not begin anew with the next ones. */
export const shortenedMs = 60_000
const shares = [1, 1 / 8, 1 / 32] as const
/** Places of the table, a power of two; a caller may be in one of two. */
const places = 4096

export class Allowances {
  /** For each place: the two words of the caller, and how many evaluations took too long. */
  readonly #words = new Int32Array(places * 3)
  readonly #untilMs = new Float64Array(places)
  /** True while no caller is in the table, as nearly always. */
  #isEmpty = true
  #latestMs = 0

  /** @returns the part of the usual time that this caller's evaluation may take */
  of(caller: Caller): number {
    // The clock is read only where there is a caller in the table.
    if (this.#isEmpty) return 1
    const place = this.#find(caller, performance.now())
    if (place === undefined) return 1
    return shares[Math.min(this.#words[place * 3 + 2]!, shares.length - 1)]!
  }

  /** An evaluation for this caller took too long. */
  note(caller: Caller): void {
    const nowMs = performance.now()
    const found = this.#find(caller, nowMs)
    if (found !== undefined) {
      this.#words[found * 3 + 2]!++
      return
    }
    const [first, second] = placesOf(caller)
    const place = this.#untilMs[first]! <= this.#untilMs[second]! ? first : second
    this.#words.set([caller.first, caller.second, 1], place * 3)
    this.#untilMs[place] = this.#latestMs = nowMs + shortenedMs
    this.#isEmpty = false
  }

  #find(caller: Caller, nowMs: number): number | undefined {
    if (this.#isEmpty) return undefined
    if (nowMs >= this.#latestMs) {
      this.#isEmpty = true
      return undefined
    }
    for (const place of placesOf(caller)) {
      const isOurs =
        this.#words[place * 3] === caller.first && this.#words[place * 3 + 1] === caller.second
      if (isOurs && nowMs < this.#untilMs[place]!) return place
    }
    return undefined
  }
}

function placesOf({ first, second }: Caller): [number, number] {
  return [first & (places - 1), second & (places - 1)]
}
