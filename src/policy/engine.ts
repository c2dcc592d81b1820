/**
 * The active policy of one worker. A new policy is built beside the old one and put into use by one assignment; an
 * exchange keeps the policy that it got from `current()`. An instance that has trapped is replaced from the same module
 * before the next evaluation.
 */
import type { Caller } from '../domain/caller.ts'
import { monotonicUs } from '../domain/clock.ts'
import type { Answer, PolicyStamp } from '../domain/decision.ts'
import { asGateError } from '../errors.ts'
import { Allowances } from './allowances.ts'
import { parseAnswer, unusable } from './answer.ts'
import { PolicyInstance } from './host.ts'
import { InputPlan } from './input.ts'
import type { PolicyPackage } from './package.ts'
import type { Allowance } from './time-limit.ts'

export class ActivePolicy {
  readonly stamp: PolicyStamp
  readonly generation: number
  /** The parts of an exchange that this policy reads. */
  readonly plan: InputPlan
  readonly #package: PolicyPackage
  readonly #maxMemoryBytes: number
  readonly #usual: Allowance
  readonly #allowances = new Allowances()
  #instance: PolicyInstance
  #suspendedCallers: ReadonlyMap<string, number> | undefined

  /** @param evaluationMs How long an evaluation may take. @throws GateError ERR_BUNDLE_POLICY */
  constructor(
    policy: PolicyPackage,
    maxMemoryBytes: number,
    evaluationMs = Number.POSITIVE_INFINITY,
  ) {
    this.stamp = { bundle: policy.bundle, revision: policy.revision }
    this.generation = policy.generation
    this.plan = new InputPlan(policy.usage.input)
    this.#package = policy
    this.#maxMemoryBytes = maxMemoryBytes
    this.#usual = { limitMs: evaluationMs }
    this.#instance = this.#instantiate()
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

  /**
   * Evaluates the policy. @param caller Has less time after an evaluation that took too long.
   * @returns the answer; any failure is an answer that denies.
   */
  decide(entrypoint: string, inputText: string, caller?: Caller): Answer {
    const id = this.#instance.entrypoints.get(entrypoint)
    if (id === undefined) return unusable(`the bundle has no entrypoint ${entrypoint}`)
    try {
      // If this throws, the broken instance stays, and the next decision tries again.
      if (this.#instance.broken) this.#instance = this.#instantiate()
      return parseAnswer(this.#instance.evaluate(id, inputText, 'json', this.#allowance(caller)))
    } catch (error) {
      const { code, message } = asGateError(error)
      if (code !== 'ERR_POLICY_TIMEOUT') return unusable(message)
      if (caller !== undefined) this.#allowances.note(caller)
      return unusable(message, undefined, code)
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

  #allowance(caller: Caller | undefined): Allowance {
    const share = caller === undefined ? 1 : this.#allowances.of(caller)
    return share === 1 ? this.#usual : { limitMs: this.#usual.limitMs * share, strict: true }
  }

  #instantiate(): PolicyInstance {
    const { module, initialPages, data, usage } = this.#package
    const maxMemoryBytes = this.#maxMemoryBytes
    const keepHeap = usage.patterns
    return new PolicyInstance({ module, initialPages, data, maxMemoryBytes, keepHeap })
  }
}

export interface EngineOptions {
  readonly maxMemoryBytes: number
  /** How long an evaluation may take. */
  readonly evaluationMs: number
}

export class PolicyEngine {
  readonly #options: EngineOptions
  #active: ActivePolicy | undefined

  constructor(options: EngineOptions) {
    this.#options = options
  }

  /** The active policy; an exchange reads it once. */
  current(): ActivePolicy | undefined {
    return this.#active
  }

  /** @throws GateError ERR_BUNDLE_POLICY; the active policy stays. */
  activate(policy: PolicyPackage): void {
    const { maxMemoryBytes, evaluationMs } = this.#options
    this.#active = new ActivePolicy(policy, maxMemoryBytes, evaluationMs)
  }

  /**
   * Replaces the set of callers that this policy refuses without an evaluation. Does nothing when another policy is active by
   * now.
   */
  suspendCallers(generation: number, callers: ReadonlyMap<string, number>): void {
    if (this.#active?.generation === generation) this.#active.suspendCallers(callers)
  }
}
