/**
 * One evaluation, as its builtins see it. Results that depend on the moment or on chance are pinned: the same call has
 * the same result for a whole evaluation, and the decision log can record it (`nd_builtin_cache`), so that the decision
 * can be replayed.
 */
import { randomBytes } from 'node:crypto'
import { GateError } from '../errors.ts'
import type { Builtin, BuiltinContext } from './builtin.ts'
import { builtins } from './registry.ts'
import { bytesOf } from './values/bytes.ts'
import { BuiltinError } from './values/operand.ts'
import { parseTerm, printTerm } from './values/value.ts'

/** Text for `opa_value_parse`; the bytes of a string that is no UTF-8, which it does not take; Rego's undefined. */
export type Result = string | Buffer | undefined

/** Name of a builtin -> `[arguments]` -> its result, as texts of terms. */
type ResultsByCall = ReadonlyMap<string, ReadonlyMap<string, Result>>

const noResults: ResultsByCall = new Map()

export class Evaluation implements BuiltinContext {
  #nowNs: bigint | undefined
  readonly #pinned = new Map<string, Map<string, Result>>()

  /** Nanoseconds since 1970: beyond what a JavaScript number holds. */
  get nowNs(): bigint {
    this.#nowNs ??= BigInt(Date.now()) * 1_000_000n
    return this.#nowNs
  }

  random(bytes: number): Buffer {
    return randomBytes(bytes)
  }

  /** Empty when no builtin was called whose result depends on the moment or on chance. */
  get ndBuiltinCache(): ResultsByCall {
    // Nearly every evaluation calls none.
    if (this.#pinned.size === 0) return noResults
    return new Map([...this.#pinned].filter(([name]) => builtins.get(name)?.pinned === 'recorded'))
  }

  /** Before the next evaluation. */
  reset(): void {
    this.#nowNs = undefined
    if (this.#pinned.size > 0) this.#pinned.clear()
  }

  /**
   * @param args texts of `opa_value_dump`.
   * @throws GateError ERR_POLICY_FAILED when the evaluation must end.
   */
  call(name: string, args: readonly string[]): Result {
    const builtin = builtins.get(name)
    if (builtin === undefined) {
      throw new GateError('ERR_POLICY_FAILED', `the builtin ${name} is not provided`)
    }
    if (builtin.pinned === undefined) return this.#resultOf(builtin.call, args)
    const key = `[${args.join(',')}]`
    const results = this.#pinned.get(name)
    if (results?.has(key)) return results.get(key)
    const result = this.#resultOf(builtin.call, args)
    if (results === undefined) this.#pinned.set(name, new Map([[key, result]]))
    else results.set(key, result)
    return result
  }

  #resultOf(call: Builtin['call'], args: readonly string[]): Result {
    try {
      const value = call(args.map(parseTerm), this)
      if (typeof value === 'string' && !value.isWellFormed()) return bytesOf(value)
      return value === undefined ? undefined : printTerm(value)
    } catch (error) {
      if (error instanceof BuiltinError) return undefined
      throw error
    }
  }
}
