/**
 * State that the builtins of one evaluation share. Results that do not depend on the input alone (time, random
 * numbers) are pinned: the same call gives the same result in a whole evaluation, and the decision log records it
 * (`nd_builtin_cache`), so that a decision can be replayed.
 */
import { randomBytes } from 'node:crypto'
import { GateError } from '../errors.ts'
import type { Builtin, BuiltinContext } from './builtin.ts'
import { builtins } from './registry.ts'
import { bytesOf } from './values/bytes.ts'
import { BuiltinError } from './values/operand.ts'
import { parseTerm, printTerm } from './values/value.ts'

/**
 * Text for `opa_value_parse`; a Buffer for a string that is not UTF-8, which `opa_value_parse` refuses; undefined for
 * Rego's undefined.
 */
export type Result = string | Buffer | undefined

/** Name of a builtin -> `[arguments]` -> its result, as texts of terms. */
type ResultsByCall = ReadonlyMap<string, ReadonlyMap<string, Result>>

const noResults: ResultsByCall = new Map()

export class Evaluation implements BuiltinContext {
  #nowNs: bigint | undefined
  /** Pinned results by name of the builtin, then by the joined texts of its arguments. */
  readonly #pinned = new Map<string, Map<string, Result>>()

  /** Nanoseconds since 1970; they do not fit into a JavaScript number. */
  get nowNs(): bigint {
    this.#nowNs ??= BigInt(Date.now()) * 1_000_000n
    return this.#nowNs
  }

  random(bytes: number): Buffer {
    return randomBytes(bytes)
  }

  /** Pinned results. Empty if no such builtin was called. */
  get ndBuiltinCache(): ResultsByCall {
    // Nearly every evaluation calls no such builtin.
    if (this.#pinned.size === 0) return noResults
    return new Map([...this.#pinned].filter(([name]) => builtins.get(name)?.pinned === 'recorded'))
  }

  /** Clears the state before the next evaluation. */
  reset(): void {
    this.#nowNs = undefined
    if (this.#pinned.size > 0) this.#pinned.clear()
  }

  /**
   * @param args Texts written by `opa_value_dump`.
   * @throws GateError ERR_POLICY_FAILED when the evaluation must end.
   */
  call(name: string, args: readonly string[]): Result {
    const builtin = builtins.get(name)
    if (builtin === undefined) {
      throw new GateError('ERR_POLICY_FAILED', `dropgate does not provide the builtin ${name}`)
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
