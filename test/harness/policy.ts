/** Compiled policies without the gate around them. */
import { readArchive } from '../../src/bundle/archive.ts'
import { ActivePolicy } from '../../src/policy/engine.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { findPolicyUsage } from '../../src/policy/input-usage.ts'
import { prepareModule } from '../../src/policy/module.ts'
import type { PolicyPackage } from '../../src/policy/package.ts'
import { compile } from './bundle.ts'

const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }

/** As it is vetted: a worker gets memory for `data`. */
export async function packageOf(bundle: Buffer): Promise<PolicyPackage> {
  const content = await readArchive(bundle, limits)
  const { bytes, initialPages } = prepareModule(content.wasm)
  const module = await WebAssembly.compile(bytes)
  const usage = findPolicyUsage(content.wasm)
  return { generation: 1, bundle: 'b', ...content, module, initialPages, usage }
}

/** The policy of one module as a worker has it, `package gate.authz` unless it says otherwise. */
export async function activePolicy(
  rego: string,
  options: {
    readonly data?: object
    readonly entrypoint?: string
    readonly maxMemoryBytes?: number
  } = {},
): Promise<ActivePolicy> {
  const { data = {}, entrypoint = 'gate/authz/decision', maxMemoryBytes = 64 << 20 } = options
  const policy = await packageOf(compile(rego, [entrypoint], data))
  const first = new PolicyInstance({ ...policy, maxMemoryBytes })
  return new ActivePolicy({ ...policy, data: first.image() }, maxMemoryBytes)
}
