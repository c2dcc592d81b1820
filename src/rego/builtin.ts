/**
 * The one type behind which all builtins lie: what a builtin is, and what it may use besides its arguments. Builtins
 * import this file, never the registry that lists them nor the evaluation that calls them.
 */
import type { Value } from './values/value.ts'

/** What a builtin may ask besides its arguments; whatever else it used could not be replayed. */
export interface BuiltinContext {
  /** Nanoseconds since 1970, the same for a whole evaluation. */
  readonly nowNs: bigint
  random(bytes: number): Buffer
}

export interface Builtin {
  /** @returns undefined for Rego's undefined. @throws BuiltinError for the same, with a reason. */
  readonly call: (args: readonly Value[], context: BuiltinContext) => Value | undefined
  /** Done before the first call: what is costly to load and few policies use. */
  readonly load?: () => unknown
  /**
   * Set where the answer depends on the moment or on chance: the first one of an evaluation stands, and is either
   * recorded in the decision log or too secret to be.
   */
  readonly pinned?: 'recorded' | 'unrecorded'
}

/** By the name that OPA gives it. */
export type BuiltinTable = Readonly<Record<string, Builtin>>
