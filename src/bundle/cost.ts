/** The costs of a bundle that the vetting measures and `/v1/status` shows. */

/** Costs of a policy in its trial run, for one entrypoint. */
export interface TrialCost {
  readonly decision: string
  /** Median and longest evaluation of a trial input. */
  readonly evaluation_us: number
  readonly longest_us: number
}

export interface BundleCost {
  /** Time to load the data in the trial run. */
  readonly load_ms: number
  /** Memory of one instance after the trial run. */
  readonly memory_bytes: number
  readonly decisions: readonly TrialCost[]
}
