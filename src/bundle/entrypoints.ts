/** Which rules the sources have, for a build whose configuration asks for one that they do not have. */
import { nearest } from '../domain/nearest.ts'
import { GateError } from '../errors.ts'
import { counting } from './answer-advice.ts'
import { type SourceOptions, versionFlags } from './findings.ts'
import { askOpa } from './opa.ts'
import { regoFiles } from './source-files.ts'

interface ParsedModule {
  readonly package: { readonly path: readonly { readonly value: string }[] }
  readonly rules?: readonly {
    readonly head: {
      readonly ref?: readonly { readonly type: string; readonly value: unknown }[]
      readonly key?: unknown
      readonly value?: unknown
      readonly args?: unknown
    }
  }[]
}

interface Rule {
  /** As an entrypoint: `envoy/authz/allow`. */
  readonly path: string
  readonly isSet: boolean
}

/** Most files whose rules are read. */
const maxFiles = 200

/** How rules that decide are called, the most usual first. */
const verdicts = ['decision', 'allow', 'allowed', 'authorized', 'response', 'result', 'main']

/** @param decision The entrypoint that opa did not find. @returns the error, which says what there is */
export async function missingEntrypoint(
  decision: string,
  options: SourceOptions,
): Promise<GateError> {
  const rules = await readRules(options)
  return new GateError('ERR_BUNDLE_POLICY', `the policies have no rule ${decision}`, {
    hint: `the configuration asks for it (policy.decision, routes[].decision), or --entrypoint does. ${advise(decision, rules, options)}`,
  })
}

function advise(
  decision: string,
  rules: readonly Rule[],
  { v0 }: { readonly v0: boolean },
): string {
  const plain = rules.filter(({ isSet }) => !isSet).map(({ path }) => path)
  const nameOf = (path: string): string => path.split('/').at(-1)!
  const verdict = verdicts
    .flatMap((name) => plain.filter((path) => nameOf(path) === name))
    .concat(nearest(decision, plain) ?? [], plain)[0]
  const set = rules.find(({ isSet }) => isSet)
  if (verdict !== undefined && (set === undefined || verdicts.includes(nameOf(verdict)))) {
    const others = plain.filter((path) => path !== verdict).slice(0, 10)
    const more = others.length === 0 ? '' : ` (other rules: ${others.join(', ')})`
    return `The policies have ${verdict}${more}: write \`policy: {decision: ${verdict}}\` into the configuration, or build with --entrypoint ${verdict}`
  }
  if (set === undefined) return `The policies have no rule that could decide`
  const wrapper = counting(`data.${set.path.replaceAll('/', '.')}`, v0)
  return `The policies have ${set.path}, a set: add a file with \`package gate.authz\` and \`${wrapper}\`, so that gate/authz/decision decides by it`
}

async function readRules(options: SourceOptions): Promise<Rule[]> {
  const found = new Map<string, Rule>()
  for (const file of regoFiles(options.policies).slice(0, maxFiles)) {
    const args = ['parse', '--format=json', ...versionFlags(options), file]
    const { ok, out } = await askOpa(options.opa, args)
    if (!ok) continue
    const module = JSON.parse(out) as ParsedModule
    const folder = module.package.path.slice(1).map(({ value }) => value)
    for (const { head } of module.rules ?? []) {
      const ref = head.ref ?? []
      const [first] = ref
      const isPlain = ref.every(({ type }, i) => i === 0 || type === 'string')
      if (first === undefined || !isPlain || head.args !== undefined) continue
      const path = [...folder, ...ref.map(({ value }) => String(value))].join('/')
      found.set(path, { path, isSet: head.key !== undefined && head.value === undefined })
    }
  }
  return [...found.values()]
}
