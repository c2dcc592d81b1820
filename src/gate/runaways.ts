/**
 * Whose evaluations cost workers. A worker that dies in an evaluation counts against the caller it was made for, who is
 * then refused for a while, so that one caller cannot take worker after worker. Deaths by several callers within a minute
 * count against the policy: then it is not one caller who makes it run away.
 */

/** Callers, not deaths: what one caller can do must not be done to all others. */
const suspendAfter = 3
const suspendWindowMs = 60_000
/** How long a caller is refused after the first death, twice as long after each further one, up to the longest. */
const refusedMs = 60_000
const longestRefusedMs = 3_600_000

interface Runaway {
  readonly deaths: number
  readonly diedAtUs: number
  readonly untilUs: number
}

export interface Verdict {
  /** How many callers' evaluations have cost workers in the last minute. */
  readonly callers: number
  readonly suspendPolicy: boolean
  /** Of this caller. */
  readonly deaths: number
  readonly refusedMs: number
}

export class Runaways {
  /** By caller, under the active policy. */
  readonly #callers = new Map<string, Runaway>()

  /** A worker died in an evaluation for this caller. @param nowUs Monotonic */
  note(caller: string, nowUs: number): Verdict {
    for (const [name, { untilUs }] of this.#callers)
      if (nowUs - untilUs > longestRefusedMs * 1000) this.#callers.delete(name)
    const deaths = (this.#callers.get(caller)?.deaths ?? 0) + 1
    const forMs = Math.min(refusedMs * 2 ** (deaths - 1), longestRefusedMs)
    this.#callers.set(caller, { deaths, diedAtUs: nowUs, untilUs: nowUs + forMs * 1000 })
    let callers = 0
    for (const { diedAtUs } of this.#callers.values())
      if (nowUs - diedAtUs < suspendWindowMs * 1000) callers++
    return { callers, suspendPolicy: callers >= suspendAfter, deaths, refusedMs: forMs }
  }

  /** Caller -> until when it is refused, in monotonic µs. */
  refused(): ReadonlyMap<string, number> {
    return new Map(Array.from(this.#callers, ([name, { untilUs }]) => [name, untilUs]))
  }

  /** Another policy is active: nothing is held against anyone. */
  forget(): void {
    this.#callers.clear()
  }
}
