/**
 * What the builtins of one evaluation share. Answers that the world gives (the moment, chance) are pinned: the same
 * call answers the same for a whole evaluation, and what was answered can be read for the decision log
 * (`nd_builtin_cache`), so that a decision can be replayed.
 */
import { randomBytes } from 'node:crypto'
import { GateError } from '../errors.ts'
import { builtins } from './registry.ts'
import { bytesOf } from './values/bytes.ts'
import { BuiltinError } from './values/operand.ts'
import { parseTerm, printTerm, type Value } from './values/value.ts'

/** Text for `opa_value_parse`; the bytes of a string that is no UTF-8, which it does not take; Rego's undefined. */
export type Result = string | Buffer | undefined

const noAnswers: ReadonlyMap<string, ReadonlyMap<string, Result>> = new Map()

export class Evaluation {
  #nowNs: bigint | undefined
  /** Name, then argument texts joined, of what the world answered. */
  readonly #pinned = new Map<string, Map<string, Result>>()

  /** Nanoseconds since 1970: beyond what a JavaScript number holds. */
  get nowNs(): bigint {
    this.#nowNs ??= BigInt(Date.now()) * 1_000_000n
    return this.#nowNs
  }

  random(bytes: number): Buffer {
    return randomBytes(bytes)
  }

  /** Name -> `[arguments]` -> value, as texts of terms; empty when the world was not asked. */
  get ndBuiltinCache(): ReadonlyMap<string, ReadonlyMap<string, Result>> {
    // Nearly every evaluation asks nothing.
    if (this.#pinned.size === 0) return noAnswers
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
    if (builtin.pinned === undefined) return this.#answer(builtin.call, args)
    const key = `[${args.join(',')}]`
    const answers = this.#pinned.get(name)
    if (answers?.has(key)) return answers.get(key)
    const answer = this.#answer(builtin.call, args)
    if (answers === undefined) this.#pinned.set(name, new Map([[key, answer]]))
    else answers.set(key, answer)
    return answer
  }

  #answer(
    call: (args: readonly Value[], evaluation: Evaluation) => Value | undefined,
    args: readonly string[],
  ): Result {
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
