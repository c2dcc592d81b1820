/**
 * Whether a worker keeps up, and its sign of life for the supervisor: the words of `pulse` in messages.ts. While the
 * thread is behind it turns requests away; an evaluation that never ends shows as a pulse that stands still.
 */
import type { Caller } from '../domain/caller.ts'
import { monotonicUs } from '../domain/clock.ts'
import { ownCpuMs, ownThreadId } from '../domain/thread-cpu.ts'
import type { Evaluation } from '../exchange/stages.ts'
import { beatMs, pulse } from '../messages.ts'
import type { Metrics } from '../metrics.ts'
import type { ActivePolicy } from '../policy/engine.ts'

/** Longest time for which one delay turns requests away. */
const maxShedMs = 1000

export interface OverloadOptions {
  /** Shared with the supervisor. */
  readonly pulse: Int32Array
  readonly metrics: Metrics
  /** Exchanges that are open: what is lost if the thread is. */
  readonly live: { readonly size: number }
}

export class Overload {
  readonly #options: OverloadOptions
  #shedUntilMs = 0
  /** Spent on evaluations since the last beat. */
  #evaluatedUs = 0
  #beatAtMs = performance.now()
  #beatCpuMs = ownCpuMs()

  constructor(options: OverloadOptions) {
    this.#options = options
  }

  /** Beats from now on, every `beatMs` in which the event loop turns. @param maxLagMs `limits.max_lag` of now. */
  start(maxLagMs: () => number): void {
    this.#options.pulse[pulse.thread] = ownThreadId()
    setInterval(() => this.#beat(maxLagMs()), beatMs)
  }

  /** The thread was behind lately: new requests are turned away. */
  get shedding(): boolean {
    return this.#shedUntilMs > 0 && performance.now() < this.#shedUntilMs
  }

  /** Evaluations alone have taken `maxLagMs` since the last beat, in the time on the clock and in the thread's own. */
  exhausted(maxLagMs: number): boolean {
    return this.#evaluatedUs > maxLagMs * 1000 && ownCpuMs() - this.#beatCpuMs > maxLagMs
  }

  /** The thread was busy with a new policy, whose data may be large: that is no overload. */
  forgive(): void {
    this.#beatAtMs = performance.now()
    this.#beatCpuMs = ownCpuMs()
  }

  /** One evaluation, with its begin and its end in the pulse: a death in between counts against policy and caller. */
  evaluate(
    policy: ActivePolicy,
    caller: Caller,
    entrypoint: string,
    inputText: string,
  ): Evaluation {
    const { pulse: words, metrics, live } = this.#options
    words[pulse.caller] = caller.first
    words[pulse.caller + 1] = caller.second
    words[pulse.evaluating] = policy.generation
    words[pulse.live] = live.size
    const beganUs = monotonicUs()
    let durationUs = 0
    let answer: Evaluation['answer']
    try {
      answer = policy.decide(entrypoint, inputText)
    } finally {
      words[pulse.evaluating] = 0
      // An evaluation that ends is no runaway, however many follow without a turn of the loop.
      Atomics.add(words, pulse.beat, 1)
      durationUs = monotonicUs() - beganUs
      this.#evaluatedUs += durationUs
    }
    metrics.observe('dropgate_policy_evaluation_seconds', durationUs / 1e6)
    return { answer, durationUs, ndBuiltinCache: policy.ndBuiltinCache }
  }

  #beat(maxLagMs: number): void {
    const { pulse: words, live } = this.#options
    words[pulse.live] = live.size
    Atomics.add(words, pulse.beat, 1)
    this.#evaluatedUs = 0
    const now = performance.now()
    const cpuMs = ownCpuMs()
    // A thread is behind if it had the CPU and has not caught up. Where the machine gave its time to others, less work
    // would be no help.
    const lagMs = Math.min(now - this.#beatAtMs, cpuMs - this.#beatCpuMs) - beatMs
    // As long again as it was behind: the queue it has built up meanwhile needs that time.
    if (lagMs > maxLagMs) this.#shedUntilMs = now + Math.min(lagMs, maxShedMs)
    this.#beatAtMs = now
    this.#beatCpuMs = cpuMs
  }
}
