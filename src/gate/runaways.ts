/**
 * Counts evaluations that did not end and cost a worker: a builtin that the host answers cannot be interrupted, and
 * policy.evaluation_timeout may be longer than a worker may be silent. The gate then refuses the caller of that
 * evaluation for a while, so that one caller cannot take down worker after worker.
 */

/** How long a caller is refused after the first death; twice as long after each further one, up to `longestRefusedMs`. */
const refusedMs = 60_000
const longestRefusedMs = 3_600_000

interface Runaway {
  readonly deaths: number
  readonly untilUs: number
}

export interface Verdict {
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
    this.#callers.set(caller, { deaths, untilUs: nowUs + forMs * 1000 })
    return { deaths, refusedMs: forMs }
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
