/**
 * The active policy of one worker. A new policy is prepared beside the old one, which decides meanwhile, and put into
 * use by one assignment; an exchange keeps the policy that it got from `current()`. An instance that has trapped is
 * replaced from the same module: before the next evaluation where its data is small, beside the requests where it is
 * large, and until then every answer denies.
 */
import type { Caller } from '../domain/caller.ts'
import { monotonicUs } from '../domain/clock.ts'
import type { Answer, PolicyStamp } from '../domain/decision.ts'
import { asGateError } from '../errors.ts'
import { Allowances } from './allowances.ts'
import { parseAnswer, unusable } from './answer.ts'
import { isImage } from './data-image.ts'
import { PolicyInstance } from './host.ts'
import { InputPlan } from './input.ts'
import { readsEverything } from './input-usage.ts'
import type { PolicyPackage } from './package.ts'
import type { DataPatch } from './patch.ts'
import { prepare } from './preparation.ts'
import type { Allowance } from './time-limit.ts'

/** An image up to this size is copied at once; that takes some ms. */
const smallImageBytes = 4 << 20

/**
 * The first policy of a worker is copied at once up to this size: there is no other to decide meanwhile, and a request
 * that waits for some 100 ms is better off than one that is answered 503.
 */
const firstImageBytes = 64 << 20

export class ActivePolicy {
  readonly stamp: PolicyStamp
  readonly generation: number
  readonly #package: PolicyPackage
  readonly #maxMemoryBytes: number
  readonly #usual: Allowance
  readonly #allowances = new Allowances()
  #instance: PolicyInstance
  /** By entrypoint; configurations name few of them. */
  readonly #plans = new Map<string, InputPlan>()
  /** The image of the data, and the changes since. */
  #data: PolicyPackage['data']
  #patches: DataPatch[] = []
  #patched: number
  #preparing = false
  /** Called when an instance in the place of a broken one has all changes of the data. */
  onRestored: (() => void) | undefined
  #suspendedCallers: ReadonlyMap<string, number> | undefined

  /**
   * @param evaluationMs How long an evaluation may take.
   * @param prepared Has the data of the package; without it an instance is made at once.
   * @throws GateError ERR_BUNDLE_POLICY
   */
  constructor(
    policy: PolicyPackage,
    maxMemoryBytes: number,
    evaluationMs = Number.POSITIVE_INFINITY,
    prepared?: PolicyInstance,
  ) {
    this.stamp = { bundle: policy.bundle, revision: policy.revision }
    this.generation = policy.generation
    this.#package = policy
    this.#maxMemoryBytes = maxMemoryBytes
    this.#usual = { limitMs: evaluationMs }
    this.#data = policy.data
    this.#patched = policy.patched ?? 0
    this.#instance = prepared ?? this.#instantiate()
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
      if (this.#instance.broken && !this.#replaceBroken())
        return unusable('the policy is loaded again after a failure')
      return parseAnswer(this.#instance.evaluate(id, inputText, 'json', this.#allowance(caller)))
    } catch (error) {
      const { code, message } = asGateError(error)
      if (code !== 'ERR_POLICY_TIMEOUT') return unusable(message)
      if (caller !== undefined) this.#allowances.note(caller)
      return unusable(message, undefined, code)
    }
  }

  /** Number of the last change of the data that the next decision sees. */
  get patched(): number {
    return this.#patched
  }

  /**
   * Takes over an instance with the same data, written anew. @param patches The changes that are in the instance and not in
   * the image
   */
  renew(policy: PolicyPackage, instance: PolicyInstance, patches: DataPatch[]): void {
    this.#data = policy.data
    this.#patches = patches
    this.#patched = patches.at(-1)?.number ?? policy.patched ?? 0
    this.#instance = instance
  }

  /** The changes of the data after this one. */
  patchesAfter(number: number): readonly DataPatch[] {
    return this.#patches.filter((patch) => patch.number > number)
  }

  /** Changes the data between two decisions. The control thread has tried the change on the same data. */
  patch(patch: DataPatch): void {
    if (patch.number <= this.#patched) return
    this.#patches.push(patch)
    // An instance that is being made again gets the change there.
    if (this.#instance.broken) return
    try {
      this.#instance.patch(patch.operations)
      this.#patched = patch.number
    } catch {
      // This worker must not decide on data that the others no longer have.
      this.#instance.discard()
    }
  }

  /** @returns true when an instance is there to decide now */
  #replaceBroken(): boolean {
    if (!isImage(this.#data) || this.#data.bytes.length <= smallImageBytes) {
      const instance = this.#instantiate()
      for (const { operations } of this.#patches) instance.patch(operations)
      this.#use(instance)
      return true
    }
    if (!this.#preparing) void this.#prepareAgain()
    return false
  }

  async #prepareAgain(): Promise<void> {
    this.#preparing = true
    const broken = this.#instance
    try {
      await prepare({
        make: () => this.#instantiate(true),
        patches: this.#patches,
        isWanted: () => this.#instance === broken,
        use: (instance) => this.#use(instance),
      })
    } catch {
      // The next decision tries again, and denies.
    } finally {
      this.#preparing = false
    }
  }

  #use(instance: PolicyInstance): void {
    this.#instance = instance
    this.#patched = this.#patches.at(-1)?.number ?? this.#patched
    this.onRestored?.()
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

  #instantiate(inPieces = false): PolicyInstance {
    return instantiate({ ...this.#package, data: this.#data }, this.#maxMemoryBytes, inPieces)
  }
}

function instantiate(
  { module, initialPages, data, usage }: PolicyPackage,
  maxMemoryBytes: number,
  inPieces: boolean,
): PolicyInstance {
  const keepHeap = usage.patterns
  return new PolicyInstance({ module, initialPages, data, maxMemoryBytes, keepHeap, inPieces })
}

function bytesOf({ data }: PolicyPackage): number {
  return isImage(data) ? data.bytes.length : data.length
}

/** A policy that is being prepared. */
interface Pending {
  readonly policy: PolicyPackage
  /** Changes of its data that have come since. */
  readonly patches: DataPatch[]
}

export interface EngineOptions {
  readonly maxMemoryBytes: number
  /** How long an evaluation may take. */
  readonly evaluationMs: number
  /** Called when an instance in the place of a broken one has all changes of the data. */
  readonly onRestored?: (policy: ActivePolicy) => void
}

export class PolicyEngine {
  readonly #options: EngineOptions
  #active: ActivePolicy | undefined
  #pending: Pending | undefined
  #suspendedCallers:
    | { readonly generation: number; readonly callers: ReadonlyMap<string, number> }
    | undefined

  constructor(options: EngineOptions) {
    this.#options = options
  }

  /** The active policy; an exchange reads it once. */
  current(): ActivePolicy | undefined {
    return this.#active
  }

  /**
   * Prepares a policy and puts it into use. The same generation again is the same policy, whose data was written anew.
   * @returns false when a newer activation has come meanwhile
   * @throws GateError ERR_BUNDLE_POLICY, ERR_BUNDLE_LIMITS; the active policy stays.
   */
  async activate(policy: PolicyPackage): Promise<boolean> {
    const pending: Pending = { policy, patches: [] }
    this.#pending = pending
    const active = this.#active
    if (active === undefined && bytesOf(policy) <= firstImageBytes) {
      this.#use(pending, instantiate(policy, this.#options.maxMemoryBytes, false))
      return true
    }
    if (active?.generation === policy.generation)
      pending.patches.push(...active.patchesAfter(policy.patched ?? 0))
    try {
      return await prepare({
        make: () => instantiate(policy, this.#options.maxMemoryBytes, true),
        patches: pending.patches,
        isWanted: () => this.#pending === pending,
        use: (instance) => this.#use(pending, instance),
      })
    } catch (error) {
      if (this.#pending !== pending) return false
      this.#pending = undefined
      throw error
    }
  }

  /**
   * Changes the data of this generation, which is active or being prepared. @returns true when the next decision sees
   * the change; false when it takes effect together with the activation
   */
  patch(generation: number, patch: DataPatch): boolean {
    if (this.#pending?.policy.generation === generation) this.#pending.patches.push(patch)
    if (this.#active?.generation !== generation) return false
    this.#active.patch(patch)
    return this.#active.patched >= patch.number
  }

  #use({ policy, patches }: Pending, instance: PolicyInstance): void {
    this.#pending = undefined
    const active = this.#active
    if (active?.generation !== policy.generation) {
      const { maxMemoryBytes, evaluationMs } = this.#options
      const next = new ActivePolicy(policy, maxMemoryBytes, evaluationMs, instance)
      next.renew(policy, instance, patches)
      next.onRestored = () => this.#options.onRestored?.(next)
      this.#applySuspensions(next)
      this.#active = next
    } else active.renew(policy, instance, patches)
  }

  /** Replaces the set of callers that this policy refuses without an evaluation. */
  suspendCallers(generation: number, callers: ReadonlyMap<string, number>): void {
    this.#suspendedCallers = { generation, callers }
    if (this.#active !== undefined) this.#applySuspensions(this.#active)
  }

  /** A suspension may have come while its policy was being prepared. */
  #applySuspensions(active: ActivePolicy): void {
    if (this.#suspendedCallers?.generation === active.generation)
      active.suspendCallers(this.#suspendedCallers.callers)
  }
}
