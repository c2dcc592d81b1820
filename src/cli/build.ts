/** `build`: prints what a build has found, and where the bundle is. */
import { type BuildOptions, type BuildResult, buildBundle } from '../bundle/build.ts'
import { type Finding, findingLine } from '../bundle/findings.ts'
import { limitsOf } from '../bundle/trial.ts'
import { loadConfig, readConfig } from '../config/load.ts'
import type { GateConfig } from '../config/options.ts'
import { asGateError, GateError } from '../errors.ts'
import type { CommonOptions } from './command.ts'
import { print, printResult, printWarning, root } from './output.ts'

export type BuildFlags = CommonOptions & {
  readonly policies?: string
  readonly out: string
  readonly entrypoint?: readonly string[]
  readonly strict?: boolean
  readonly fix?: boolean
  readonly v0Compatible?: boolean
}

/** Kinds of findings that `--strict` makes errors: all. */
const everyKind: readonly Finding['kind'][] = ['strict', 'input', 'format', 'test', 'untested']

/** @throws GateError; then no bundle was written. */
export async function build(folder: string | undefined, options: BuildFlags): Promise<void> {
  const { out, fix = false, v0Compatible: v0 = false } = options
  const { entrypoints, limits } = settingsOf(options)
  const policies = folderOf(folder, options)
  const fatal = isStrict(options, process.env) ? everyKind : []
  const done = await buildBundle({ policies, out, entrypoints, root, limits, v0, fix, fatal })
  const { error, ...result } = done
  if (error !== undefined) {
    if (!options.json) printFindings(done)
    throw error
  }
  printResult(options, result, () => {
    printFindings(done)
    print(`${done.out}: revision ${done.revision}; tests ${done.tests}`)
  })
}

function folderOf(
  folder: string | undefined,
  { policies }: { readonly policies?: string },
): string {
  if (folder !== undefined && policies !== undefined && folder !== policies)
    throw new GateError('ERR_USAGE', `two folders are named: ${folder} and --policies ${policies}`)
  return policies ?? folder ?? 'policies'
}

export function printFindings({ formatted, findings, warnings }: BuildResult): void {
  for (const file of formatted) print(`formatted ${file}`)
  for (const finding of findings) print(findingLine(finding))
  for (const warning of warnings) printWarning(warning, undefined)
}

/** CI systems set the variable `CI`. */
function isStrict({ strict }: BuildFlags, { CI = '' }: NodeJS.ProcessEnv): boolean {
  return strict ?? !['', '0', 'false'].includes(CI.toLowerCase())
}

/** The options that `limitsOf` reads. */
const limits = [
  'policy.max_bundle',
  'policy.max_unpacked',
  'policy.max_memory',
  'policy.evaluation_timeout',
  'policy.vet_timeout',
] as const

export interface BuildSettings {
  readonly entrypoints: readonly string[]
  readonly limits: BuildOptions['limits']
}

/** `--entrypoint` needs no configuration: its limits are then the defaults. */
export function settingsOf({
  config: file,
  entrypoint,
}: Pick<BuildFlags, 'config' | 'entrypoint'>): BuildSettings {
  const { policy, decisions } =
    entrypoint === undefined
      ? load(file)
      : { policy: readConfig('', '.', process.env, { uses: limits }).policy, decisions: entrypoint }
  return {
    entrypoints: [...new Set(decisions)],
    limits: limitsOf(policy),
  }
}

interface Asked {
  readonly policy: GateConfig['policy']
  readonly decisions: readonly string[]
}

function load(file: string): Asked {
  const uses = [...limits, 'policy.decision', 'routes.decision'] as const
  try {
    const { policy, routes } = loadConfig(file, process.env, uses).config
    const decisions = routes.map((route) => route.decision)
    return { policy, decisions: decisions.length === 0 ? [policy.decision] : decisions }
  } catch (thrown) {
    const error = asGateError(thrown)
    if (error.code !== 'ERR_CONFIG_READ') throw error
    throw new GateError(error.code, error.message, {
      cause: thrown,
      hint: `${error.hint}; without a configuration, name the rule that decides: \`dropgate build --entrypoint envoy/authz/allow\``,
    })
  }
}
