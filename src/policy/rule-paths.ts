/**
 * The paths of the rules of a policy, and whether a change of the data would touch them: `data` at the path of a rule
 * is what the rule makes, so data there would never be seen.
 */
import { functionNames } from './binary.ts'
import type { DataOperation } from './patch.ts'

type Path = readonly string[]

const step = /\.([A-Za-z_][A-Za-z0-9_]*)|\[("(?:[^"\\\\]|\\\\.)*")\]/y

/** @param wasm Output of `opa build -t wasm`. @returns the paths below `data` of all rules and functions */
export function rulePathsOf(wasm: Uint8Array): Path[] {
  const paths = new Map<string, Path>()
  for (const name of functionNames(wasm).values()) {
    const rule = /^g\d+\.data(?=[.[])/.exec(name)
    if (rule === null) continue
    const path = stepsOf(name, rule[0].length)
    paths.set(JSON.stringify(path), path)
  }
  return [...paths.values()]
}

/** The steps of a reference up to the first that is no constant. */
function stepsOf(reference: string, from: number): string[] {
  const path: string[] = []
  step.lastIndex = from
  for (let found = step.exec(reference); found !== null; found = step.exec(reference))
    path.push(found[1] ?? (JSON.parse(found[2]!) as string))
  return path
}

export interface Places {
  /** `roots` of the bundle's manifest: the parts of `data` that are the bundle's. */
  readonly roots: readonly string[]
  readonly rules: readonly Path[]
}

/** @returns why an operation must not be carried out, undefined when it may */
export function misplaced(
  { path, value }: DataOperation,
  { roots, rules }: Places,
): string | undefined {
  const inside = roots.some((root) => isWithin(path, root === '' ? [] : root.split('/')))
  if (!inside) return 'it is outside the roots of the bundle'
  // Read once, however many rules there are below the path.
  let read: unknown
  const given = (): unknown => {
    read ??= JSON.parse(value ?? 'null')
    return read
  }
  const rule = rules.find((each) => isWithin(path, each) || hasMember(given, path, each))
  return rule === undefined ? undefined : `a rule has this path: data.${rule.join('.')}`
}

function isWithin(path: Path, above: Path): boolean {
  return above.length <= path.length && above.every((name, i) => path[i] === name)
}

/** True when the value at `path` would have a member at the path of the rule. */
function hasMember(value: () => unknown, path: Path, rule: Path): boolean {
  if (!isWithin(rule, path)) return false
  let at = value()
  for (const name of rule.slice(path.length)) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, name)) return false
    at = (at as Record<string, unknown>)[name]
  }
  return true
}
