/**
 * The type of all builtins: what a builtin is, and what it may use besides its arguments. Builtins import this file,
 * never the registry that lists them or the evaluation that calls them.
 */
import type { Value } from './values/value.ts'

/** What a builtin may use besides its arguments. Anything else could not be replayed from the decision log. */
export interface BuiltinContext {
  /** Nanoseconds since 1970, the same for a whole evaluation. */
  readonly nowNs: bigint
  random(bytes: number): Buffer
}

export interface Builtin {
  /**
   * @returns undefined when the result is Rego's undefined. @throws BuiltinError for an undefined result with a reason.
   */
  readonly call: (args: readonly Value[], context: BuiltinContext) => Value | undefined
  /** Loads a library that is costly and that few policies use. Called before the first call of the builtin. */
  readonly load?: () => unknown
  /**
   * Set when the result depends on time or random numbers: then the first result is used for the whole evaluation. The
   * decision log contains it (`recorded`), or not because it is secret (`unrecorded`).
   */
  readonly pinned?: 'recorded' | 'unrecorded'
}

/** Builtins by their names in OPA. */
export type BuiltinTable = Readonly<Record<string, Builtin>>
