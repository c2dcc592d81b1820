/**
 * Tries a bundle as a gate does before it activates one: the module is prepared and compiled, its use of the input found, and
 * the vetting thread evaluates it. The gate and `dropgate build` both call this, so that what a gate refuses is refused by
 * the build before it.
 */
import type { GateConfig } from '../config/options.ts'
import type { VettedModule } from '../messages.ts'
import { type BodyUses, bodyWarnings } from '../policy/body-use.ts'
import { type MemoryImage, mib } from '../policy/data-image.ts'
import type { ArchiveLimits, BundleContent } from './archive.ts'
import type { BundleCost } from './cost.ts'
import { vet } from './vet.ts'

export interface TrialLimits {
  readonly maxMemoryBytes: number
  /** How long an evaluation may take. */
  readonly evaluationMs: number
  readonly vetTimeoutMs: number
}

/** The limits of a bundle, as the configuration has them. */
export function limitsOf(policy: GateConfig['policy']): ArchiveLimits & TrialLimits {
  return {
    maxBundleBytes: policy.max_bundle,
    maxUnpackedBytes: policy.max_unpacked,
    maxMemoryBytes: policy.max_memory,
    evaluationMs: policy.evaluation_timeout,
    vetTimeoutMs: policy.vet_timeout,
  }
}

export interface TriedPolicy extends VettedModule {
  readonly data: MemoryImage
  readonly cost: BundleCost
  readonly bodies: BodyUses
  /** One sentence each, for operators. */
  readonly warnings: readonly string[]
}

/** Data above this size gets a warning: each worker holds it, and for a moment twice when another bundle is activated. */
const maxDataBytes = 128 << 20

/**
 * @param decisions Entrypoints that the bundle must have. @throws GateError ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL
 */
export async function tryPolicy(
  content: BundleContent,
  { maxMemoryBytes, evaluationMs, vetTimeoutMs }: TrialLimits,
  decisions: readonly string[],
): Promise<TriedPolicy> {
  const { policy, cost, bodies, data } = await vet(
    { policy: content.wasm, data: content.data, maxMemoryBytes, evaluationMs, decisions },
    vetTimeoutMs,
  )
  const warnings = [...warningsOf(content, data), ...bodyWarnings(bodies)]
  return { ...policy, data, cost, bodies, warnings }
}

function warningsOf(content: BundleContent, data: MemoryImage): string[] {
  const warnings = content.hazards.map((hazard) => `bundle warning: ${hazard}`)
  const { length } = data.bytes
  if (length > maxDataBytes) {
    warnings.push(
      `its data takes ${mib(length)} of memory in every worker, and twice that while another bundle is activated: leave out what no rule reads`,
    )
  }
  return warnings
}
