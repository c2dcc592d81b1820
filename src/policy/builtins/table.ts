/**
 * The builtins that the host provides, by name. Arguments arrive as JSON texts; the result leaves as JSON text,
 * undefined meaning Rego's undefined. A bundle that needs any other is refused when it is vetted, by name.
 */
export interface EvaluationContext {
  /** Nanoseconds since 1970 as digits: beyond what a JS number holds. The same for a whole evaluation. */
  readonly nowNs: () => string
}

export type Builtin = (args: readonly string[], context: EvaluationContext) => string | undefined

export const builtins: ReadonlyMap<string, Builtin> = new Map<string, Builtin>([
  ['time.now_ns', (_args, context) => context.nowNs()],
])
