/**
 * The active policy of one worker. A new one is built beside the old, then one assignment swaps: an exchange that
 * has read `current()` finishes with what it read. An instance that trapped is replaced from the same Module before it is
 * asked again.
 */
import type { Caller } from '../domain/caller.ts'
import { monotonicUs } from '../domain/clock.ts'
import type { Answer, PolicyStamp } from '../domain/decision.ts'
import { asGateError } from '../errors.ts'
import { parseAnswer, unusable } from './answer.ts'
import { PolicyInstance } from './host.ts'
import { InputPlan } from './input.ts'
import type { PolicyPackage } from './package.ts'

export class ActivePolicy {
  readonly stamp: PolicyStamp
  readonly generation: number
  /** What of an exchange the policy gets to see. */
  readonly plan: InputPlan
  readonly #package: PolicyPackage
  readonly #maxMemoryBytes: number
  #instance: PolicyInstance
  #suspended = false
  #suspendedCallers: ReadonlyMap<string, number> | undefined

  /** @throws GateError ERR_BUNDLE_POLICY */
  constructor(policy: PolicyPackage, maxMemoryBytes: number) {
    this.stamp = { bundle: policy.bundle, revision: policy.revision }
    this.generation = policy.generation
    this.plan = new InputPlan(policy.usage.input)
    this.#package = policy
    this.#maxMemoryBytes = maxMemoryBytes
    this.#instance = this.#instantiate()
  }

  /** True once it has run away too often; see supervisor.ts. */
  get suspended(): boolean {
    return this.#suspended
  }

  suspend(): void {
    this.#suspended = true
  }

  /** True while it is not evaluated for this caller, in whose evaluation a worker was lost; see supervisor.ts. */
  refuses(caller: Caller): boolean {
    // Nearly always there is none.
    const untilUs = this.#suspendedCallers?.get(caller.name)
    return untilUs !== undefined && monotonicUs() < untilUs
  }

  suspendCallers(callers: ReadonlyMap<string, number>): void {
    this.#suspendedCallers = callers
  }

  /** @returns the answer; whatever goes wrong is an answer that denies. */
  decide(entrypoint: string, inputText: string): Answer {
    const id = this.#instance.entrypoints.get(entrypoint)
    if (id === undefined) return unusable(`the bundle has no entrypoint ${entrypoint}`)
    try {
      // Where it throws, the broken one stays, and is replaced or refused the next time.
      if (this.#instance.broken) this.#instance = this.#instantiate()
      return parseAnswer(this.#instance.evaluate(id, inputText))
    } catch (error) {
      return unusable(asGateError(error).message)
    }
  }

  get entrypoints(): readonly string[] {
    return [...this.#instance.entrypoints.keys()]
  }

  /** What the world answered in the last decision (`nd_builtin_cache`), undefined when it was not asked. */
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

  /** Read once per exchange. */
  current(): ActivePolicy | undefined {
    return this.#active
  }

  /** @throws GateError ERR_BUNDLE_POLICY; the active policy stays. */
  activate(policy: PolicyPackage): void {
    this.#active = new ActivePolicy(policy, this.#maxMemoryBytes)
  }

  /** Suspends the active policy if it is the one that ran away. */
  suspend(generation: number): void {
    if (this.#active?.generation === generation) this.#active.suspend()
  }

  /** Those for whom the active policy is not evaluated, if it is the one that ran away; in place of those before. */
  suspendCallers(generation: number, callers: ReadonlyMap<string, number>): void {
    if (this.#active?.generation === generation) this.#active.suspendCallers(callers)
  }
}
