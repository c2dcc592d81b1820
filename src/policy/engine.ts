/**
 * The active policy of one worker. A new policy is built beside the old one and put into use by one assignment; an
 * exchange keeps the policy that it got from `current()`. An instance that has trapped is replaced from the same module
 * before the next evaluation.
 */
import type { Caller } from '../domain/caller.ts'
import { monotonicUs } from '../domain/clock.ts'
import type { Answer, PolicyStamp } from '../domain/decision.ts'
import { asGateError } from '../errors.ts'
import { parseAnswer, unusable } from './answer.ts'
import { PolicyInstance } from './host.ts'
import { InputPlan } from './input.ts'
import { readsEverything } from './input-usage.ts'
import type { PolicyPackage } from './package.ts'

export class ActivePolicy {
  readonly stamp: PolicyStamp
  readonly generation: number
  readonly #package: PolicyPackage
  readonly #maxMemoryBytes: number
  #instance: PolicyInstance
  /** By entrypoint; configurations name few of them. */
  readonly #plans = new Map<string, InputPlan>()
  #suspended = false
  #suspendedCallers: ReadonlyMap<string, number> | undefined

  /** @throws GateError ERR_BUNDLE_POLICY */
  constructor(policy: PolicyPackage, maxMemoryBytes: number) {
    this.stamp = { bundle: policy.bundle, revision: policy.revision }
    this.generation = policy.generation
    this.#package = policy
    this.#maxMemoryBytes = maxMemoryBytes
    this.#instance = this.#instantiate()
  }

  /** The parts of an exchange that this entrypoint reads. */
  planOf(decision: string): InputPlan {
    let plan = this.#plans.get(decision)
    if (plan === undefined) {
      const entry = this.#instance.entrypoints.get(decision) ?? -1
      const usage = this.#package.usage.entrypoints.get(entry) ?? readsEverything
      plan = new InputPlan(usage.input)
      this.#plans.set(decision, plan)
    }
    return plan
  }

  /** True once too many evaluations of this policy did not end; see gate/supervisor.ts. */
  get suspended(): boolean {
    return this.#suspended
  }

  suspend(): void {
    this.#suspended = true
  }

  /** True while the policy is not evaluated for this caller, since a worker was lost doing so; see gate/supervisor.ts. */
  refuses(caller: Caller): boolean {
    // Fast path: nearly always no caller is suspended.
    const untilUs = this.#suspendedCallers?.get(caller.name)
    return untilUs !== undefined && monotonicUs() < untilUs
  }

  suspendCallers(callers: ReadonlyMap<string, number>): void {
    this.#suspendedCallers = callers
  }

  /** Evaluates the policy. @returns the answer; any failure is an answer that denies. */
  decide(entrypoint: string, inputText: string): Answer {
    const id = this.#instance.entrypoints.get(entrypoint)
    if (id === undefined) return unusable(`the bundle has no entrypoint ${entrypoint}`)
    try {
      // If this throws, the broken instance stays, and the next decision tries again.
      if (this.#instance.broken) this.#instance = this.#instantiate()
      return parseAnswer(this.#instance.evaluate(id, inputText))
    } catch (error) {
      return unusable(asGateError(error).message)
    }
  }

  get entrypoints(): readonly string[] {
    return [...this.#instance.entrypoints.keys()]
  }

  /**
   * `nd_builtin_cache` of the last decision: results of builtins that read the clock or random numbers; undefined when
   * it called none.
   */
  get ndBuiltinCache(): string | undefined {
    return this.#instance.ndBuiltinCache
  }

  #instantiate(): PolicyInstance {
    const { module, initialPages, data, usage } = this.#package
    const maxMemoryBytes = this.#maxMemoryBytes
    const keepHeap = usage.patterns
    return new PolicyInstance({ module, initialPages, data, maxMemoryBytes, keepHeap })
  }
}

export class PolicyEngine {
  readonly #maxMemoryBytes: number
  #active: ActivePolicy | undefined

  constructor(options: { readonly maxMemoryBytes: number }) {
    this.#maxMemoryBytes = options.maxMemoryBytes
  }

  /** The active policy; an exchange reads it once. */
  current(): ActivePolicy | undefined {
    return this.#active
  }

  /** @throws GateError ERR_BUNDLE_POLICY; the active policy stays. */
  activate(policy: PolicyPackage): void {
    this.#active = new ActivePolicy(policy, this.#maxMemoryBytes)
  }

  /** Suspends the active policy if it is still the one whose evaluations did not end. */
  suspend(generation: number): void {
    if (this.#active?.generation === generation) this.#active.suspend()
  }

  /**
   * Replaces the set of callers that this policy refuses without an evaluation. Does nothing when another policy is active by
   * now.
   */
  suspendCallers(generation: number, callers: ReadonlyMap<string, number>): void {
    if (this.#active?.generation === generation) this.#active.suspendCallers(callers)
  }
}
