/**
 * Counts evaluations that did not end and cost a worker. The death of a worker counts against the caller of that
 * evaluation; the gate then refuses this caller for a while, so that one caller cannot take down worker after worker.
 * Deaths by several callers within a minute count against the policy.
 */

/**
 * Number of different callers whose evaluations must cost workers within a minute before the policy is suspended.
 * Callers are counted and not deaths, so that one caller cannot make the gate refuse all others.
 */
const suspendAfter = 3
const suspendWindowMs = 60_000
/** How long a caller is refused after the first death; twice as long after each further one, up to `longestRefusedMs`. */
const refusedMs = 60_000
const longestRefusedMs = 3_600_000

interface Runaway {
  readonly deaths: number
  readonly diedAtUs: number
  readonly untilUs: number
}

export interface Verdict {
  /** Number of callers whose evaluations have cost workers in the last minute. */
  readonly callers: number
  readonly suspendPolicy: boolean
  /** Number of workers that evaluations for this caller have cost. */
  readonly deaths: number
  readonly refusedMs: number
}

export class Runaways {
  /** Callers with at least one death under the active policy, by name. */
  readonly #callers = new Map<string, Runaway>()

  /** Counts the death of a worker in an evaluation for this caller. @param nowUs Monotonic */
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

  /** Caller name -> until when the caller is refused, in monotonic µs. */
  refusedCallers(): ReadonlyMap<string, number> {
    return new Map(Array.from(this.#callers, ([name, { untilUs }]) => [name, untilUs]))
  }

  /** Another policy is active: all counts begin anew. */
  forget(): void {
    this.#callers.clear()
  }
}
