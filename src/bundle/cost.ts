/** What the vetting measures and `/v1/status` shows. */

/** What a policy cost in its trial run, per entrypoint. */
export interface TrialCost {
  readonly decision: string
  /** Median and longest evaluation of a trial input. */
  readonly evaluation_us: number
  readonly longest_us: number
}

export interface BundleCost {
  /** Reading its data took this long in the trial run. */
  readonly load_ms: number
  /** Memory of one instance after the trial run. */
  readonly memory_bytes: number
  readonly decisions: readonly TrialCost[]
}
