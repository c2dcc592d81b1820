/**
 * Turns the time that an evaluation may take into steps of its module (steps.ts), and watches the time of the builtins
 * that the host answers.
 *
 * The clock is not read in an evaluation that is short, which nearly all are. It may make `firstSteps`; when these are
 * used up it begins again, by the clock: first with a few times as many steps, which show how long a step of this
 * evaluation takes, then with as many as the time allows. To begin again is safe, since an evaluation changes nothing,
 * and cheaper than to look at the clock all the time. A caller whose earlier evaluation took too long gets no second try
 * (allowances.ts).
 *
 * What counts is the CPU time of the thread: on a busy machine the wall clock would refuse what is quick.
 */
import { ownCpuMs } from '../domain/thread-cpu.ts'
import { GateError } from '../errors.ts'
import { mostSteps, stepsInUnit } from './steps.ts'

export interface Allowance {
  readonly limitMs: number
  /** True: the evaluation is over when its first steps, or `limitMs` by the wall clock, are used up. */
  readonly strict?: boolean
}

export const unlimited: Allowance = { limitMs: Number.POSITIVE_INFINITY }

/** About a millisecond. */
const firstSteps = (1 << 18) / stepsInUnit
/** How many times as many steps the next try gets, at least and at most. */
const leastGrowth = 2
const mostGrowth = 16
const secondGrowth = 4
/** A try that took this part of the time was long enough: the next one would take too long. */
const enough = 0.75
/** The system counts the CPU time of a thread in steps of this size. */
const cpuStepMs = 4

export class TimeLimit {
  #limitMs = 0
  #strict = false
  #tries = 0
  #steps = 0
  /** By the wall clock, and by the CPU clock of the thread; the second is read only when the first is suspicious. */
  #beganMs: number | undefined
  #beganCpuMs: number | undefined
  /** As the last evaluation that took long has shown. */
  #stepsPerMs = firstSteps

  /** @returns the steps of the first try */
  begin({ limitMs, strict = false }: Allowance): number {
    this.#limitMs = limitMs
    this.#strict = strict
    this.#tries = 1
    this.#beganMs = undefined
    this.#beganCpuMs = undefined
    this.#steps = strict ? Math.min(firstSteps, Math.ceil(limitMs * this.#stepsPerMs)) : firstSteps
    return this.#steps
  }

  /** The steps are used up. @returns the steps of the next try. @throws GateError ERR_POLICY_TIMEOUT */
  again(): number {
    const limitMs = this.#limitMs
    if (this.#strict || this.#steps === mostSteps) throw tooLong(limitMs)
    let growth = secondGrowth
    if (this.#tries > 1) {
      const usedMs = this.#usedMs()
      if (usedMs >= limitMs * enough) throw tooLong(limitMs)
      this.#stepsPerMs = this.#steps / usedMs
      growth = Math.min(Math.max(limitMs / usedMs, leastGrowth), mostGrowth)
    }
    this.#tries++
    this.#steps = Math.min(Math.ceil(this.#steps * growth), mostSteps)
    this.#beganMs = performance.now()
    this.#beganCpuMs = ownCpuMs()
    return this.#steps
  }

  /** The host is about to answer a builtin. */
  beforeHostCall(): void {
    this.#beganMs ??= performance.now()
  }

  /** @throws GateError ERR_POLICY_TIMEOUT */
  afterHostCall(): void {
    const beganMs = this.#beganMs
    if (beganMs === undefined || performance.now() - beganMs < this.#limitMs) return
    if (this.#strict) throw tooLong(this.#limitMs)
    if (this.#beganCpuMs === undefined) {
      // It was not known that this evaluation would take long: from here on its CPU time counts.
      this.#beganMs = performance.now()
      this.#beganCpuMs = ownCpuMs()
    } else if (this.#usedMs() >= this.#limitMs * enough) throw tooLong(this.#limitMs)
  }

  /** CPU time since the try began. */
  #usedMs(): number {
    const wallMs = Math.max(performance.now() - this.#beganMs!, 0.01)
    // By the wall clock it is not long: then it is not by the other, which is coarse and slow to read.
    if (wallMs < this.#limitMs * enough) return wallMs
    return Math.min(wallMs, ownCpuMs() - this.#beganCpuMs! + cpuStepMs)
  }
}

function tooLong(limitMs: number): GateError {
  const shown = Math.round(limitMs * 100) / 100
  return new GateError('ERR_POLICY_TIMEOUT', `the evaluation took longer than ${shown} ms`, {
    hint: 'look for a rule that loops over what a caller sends; policy.evaluation_timeout sets the limit',
  })
}
