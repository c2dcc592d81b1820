/**
 * Tries a bundle as a gate does before it activates one: the module is prepared and compiled, its use of the input found, and
 * the vetting thread evaluates it. The gate and `dropgate build` both call this, so that what a gate refuses is refused by
 * the build before it.
 */
import { GateError } from '../errors.ts'
import type { MemoryImage } from '../policy/host.ts'
import { findInputUsage, type InputUsage } from '../policy/input-usage.ts'
import { prepareModule } from '../policy/module.ts'
import type { BundleContent } from './archive.ts'
import type { BundleCost } from './cost.ts'
import { vet } from './vet.ts'

export interface TrialLimits {
  readonly maxMemoryBytes: number
  readonly vetTimeoutMs: number
}

export interface TriedPolicy {
  readonly module: WebAssembly.Module
  readonly initialPages: number
  readonly data: MemoryImage
  readonly usage: InputUsage
  readonly cost: BundleCost
  /** One sentence each, for operators. */
  readonly warnings: readonly string[]
}

/** Data above this size gets a warning: a worker answers no request while it copies them, about 50 ms for 32 MiB. */
const maxDataBytes = 32 << 20

/**
 * @param decisions Entrypoints that the bundle must have. @throws GateError ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL
 */
export async function tryPolicy(
  content: BundleContent,
  { maxMemoryBytes, vetTimeoutMs }: TrialLimits,
  decisions: readonly string[],
): Promise<TriedPolicy> {
  const { bytes, initialPages } = prepareModule(content.wasm)
  const module = await compileModule(bytes)
  const usage = findInputUsage(content.wasm)
  const { cost, data } = await vet(
    { module, initialPages, data: content.data, usage, maxMemoryBytes, decisions },
    vetTimeoutMs,
  )
  return { module, initialPages, data, usage, cost, warnings: warningsOf(content, data) }
}

function warningsOf(content: BundleContent, data: MemoryImage): string[] {
  const warnings = content.hazards.map((hazard) => `bundle warning: ${hazard}`)
  const { length } = data.bytes
  if (length > maxDataBytes) {
    warnings.push(
      `its data takes ${length >> 20} MiB in every worker. A worker copies it in 1 to 2 ms per MiB, during which that worker answers no requests: keep large data, and data that changes often, out of the bundle`,
    )
  }
  return warnings
}

/** @throws GateError ERR_BUNDLE_POLICY */
export async function compileModule(bytes: Uint8Array): Promise<WebAssembly.Module> {
  try {
    return await WebAssembly.compile(bytes)
  } catch (error) {
    // It quotes names of functions, which the maker of the module has chosen.
    const message = (error as Error).message.slice(0, 300)
    throw new GateError('ERR_BUNDLE_POLICY', `policy.wasm does not compile: ${message}`, {
      cause: error,
      hint: invalidCode(message),
    })
  }
}

/** opa 1.22 makes such a module where a rule walks through a package: it calls the functions there without arguments. */
function invalidCode(message: string): string {
  const [, rule] = /"g\d+\.data\.([^"]*)"/.exec(message) ?? []
  return rule === undefined
    ? 'opa has compiled the policy to invalid code: build it again with another version of opa'
    : `opa has compiled the rule ${rule} to invalid code. It does so where a rule walks through a package that has functions (data.lib[name], some x in data.lib): name the rules one by one, or move the functions into another package`
}
