/**
 * Decides whether a worker keeps up with its work, and writes the worker's sign of life for the supervisor (the words
 * of `pulse` in messages.ts). While the thread is behind, new requests are refused. An evaluation that never ends shows
 * as a pulse that stands still.
 */
import type { Caller } from '../domain/caller.ts'
import { monotonicUs } from '../domain/clock.ts'
import { ownCpuMs, ownThreadId } from '../domain/thread-cpu.ts'
import type { Evaluation } from '../exchange/stages.ts'
import { beatMs, pulse } from '../messages.ts'
import type { Metrics } from '../metrics.ts'
import type { ActivePolicy } from '../policy/engine.ts'

/** Longest time for which one delay makes the worker refuse requests. */
const maxShedMs = 1000

export interface OverloadOptions {
  /** Shared with the supervisor. */
  readonly pulse: Int32Array
  readonly metrics: Metrics
  /** The open exchanges; they are lost if the thread dies. */
  readonly live: { readonly size: number }
}

export class Overload {
  readonly #options: OverloadOptions
  #shedUntilMs = 0
  /** Time that evaluations have taken since the last beat. */
  #evaluatedUs = 0
  #beatAtMs = performance.now()
  #beatCpuMs = ownCpuMs()

  constructor(options: OverloadOptions) {
    this.#options = options
  }

  /**
   * Beats from now on: every `beatMs`, as long as the event loop turns. @param maxLagMs Reads the current
   * `limits.max_lag`.
   */
  start(maxLagMs: () => number): void {
    this.#options.pulse[pulse.thread] = ownThreadId()
    setInterval(() => this.#beat(maxLagMs()), beatMs)
  }

  /** True when the thread was behind lately: new requests are refused. */
  get shedding(): boolean {
    return this.#shedUntilMs > 0 && performance.now() < this.#shedUntilMs
  }

  /**
   * True when evaluations alone have taken `maxLagMs` since the last beat, both in wall clock time and in CPU time of
   * this thread.
   */
  exhausted(maxLagMs: number): boolean {
    return this.#evaluatedUs > maxLagMs * 1000 && ownCpuMs() - this.#beatCpuMs > maxLagMs
  }

  /**
   * Runs one evaluation and marks its begin and end in the pulse: a death in between counts against the caller.
   */
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
      answer = policy.decide(entrypoint, inputText, caller)
    } finally {
      words[pulse.evaluating] = 0
      // An evaluation has ended, so the thread is not stuck, even if many evaluations follow without a turn of the
      // event loop.
      Atomics.add(words, pulse.beat, 1)
      durationUs = monotonicUs() - beganUs
      this.#evaluatedUs += durationUs
    }
    if (answer.failure === 'ERR_POLICY_TIMEOUT') metrics.count('dropgate_policy_timeouts_total')
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
    // The thread is behind only if it had the CPU and still did not keep up. If the machine gave the CPU to other
    // processes, refusing requests would not help.
    const lagMs = Math.min(now - this.#beatAtMs, cpuMs - this.#beatCpuMs) - beatMs
    // Refuse new requests for as long as the thread was behind: it needs that time for the queue that has built up.
    if (lagMs > maxLagMs) this.#shedUntilMs = now + Math.min(lagMs, maxShedMs)
    this.#beatAtMs = now
    this.#beatCpuMs = cpuMs
  }
}
