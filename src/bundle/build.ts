/**
 * Builds a bundle and tries it as a gate does, so that what a gate refuses is refused here, with file and line where there are
 * any. Nothing is written but the bundle; sources are formatted only where that is asked for. The same sources give the same
 * bytes; the revision is a digest of the sources.
 */
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { makeFolder } from '../domain/folder.ts'
import { asGateError, GateError, type Problem } from '../errors.ts'
import type { BodyUses } from '../policy/body-use.ts'
import { type ArchiveLimits, readArchive } from './archive.ts'
import type { BundleCost } from './cost.ts'
import { missingEntrypoint } from './entrypoints.ts'
import {
  checkSources,
  type Finding,
  findInTests,
  findingProblem,
  findUnformatted,
  formatSources,
  isFailed,
  type OpaTest,
  runTests,
  type SourceOptions,
  versionFlags,
} from './findings.ts'
import { askOpa, findOpa } from './opa.ts'
import { schemaOf } from './policy-tests.ts'
import { filesIn, isPartOfBundle, regoFiles } from './source-files.ts'
import { type TrialLimits, type TriedPolicy, tryPolicy } from './trial.ts'

export interface BuildOptions {
  /** Folder of Rego sources and data. */
  readonly policies: string
  /**
   * Path of the bundle to write, `*.tar.gz`. The file is replaced in one step, so that a watching gate never reads
   * half of it.
   */
  readonly out: string
  readonly entrypoints: readonly string[]
  /** Folder of dropgate itself, with its schema and tools; `policies` and `out` are not relative to it. */
  readonly root: string
  readonly limits: ArchiveLimits & TrialLimits
  /** The sources are in the syntax of OPA before 1.0. */
  readonly v0?: boolean
  /** Format the sources first. */
  readonly fix?: boolean
  /** Kinds of findings that stop the build as errors do. */
  readonly fatal?: readonly Finding['kind'][]
}

export interface BuildResult {
  readonly out: string
  readonly revision: string
  /** Sources that this build reformatted. */
  readonly formatted: readonly string[]
  /** `PASS: 3/3`, `FAIL: 2/3`, or `none`. */
  readonly tests: string
  readonly findings: readonly Finding[]
  /** Doubts about the bundle, as a gate logs them when it activates it. */
  readonly warnings: readonly string[]
  readonly cost: BundleCost | undefined
  /** For each entrypoint, whether it reads the body of a request. */
  readonly bodies: BodyUses | undefined
  /** Why no bundle was written. Its problems are all that stopped the build, then all findings. */
  readonly error: GateError | undefined
}

/** @throws GateError ERR_OPA when there is no opa, ERR_USAGE when the folder has no sources */
export async function buildBundle(options: BuildOptions): Promise<BuildResult> {
  const { policies, root, v0 = false, fatal = [] } = options
  checkFolder(policies)
  const sources = { opa: findOpa(root), policies, v0, schema: schemaOf(root) }
  const formatted = options.fix === true ? await formatSources(sources) : []
  const revision = revisionOf(policies, v0)
  const work = mkdtempSync(join(tmpdir(), 'dropgate-build-'))
  try {
    // All of opa beside each other. Errors of the check come first: they have file and line, and others follow from them.
    const [checked, format, tests, built] = await Promise.allSettled([
      checkSources(sources),
      findUnformatted(sources),
      runTests(sources),
      build(options, sources, revision, work),
    ])
    if (checked.status === 'rejected') return unbuilt(options, checked.reason)
    if (format.status === 'rejected') throw format.reason
    if (tests.status === 'rejected') throw tests.reason
    const inTests = findInTests(tests.value, policies)
    const known = {
      revision,
      formatted,
      tests: summaryOf(tests.value),
      findings: [...inTests, ...checked.value, ...format.value].sort(byPlace),
    }
    if (built.status === 'rejected') return unbuilt(options, built.reason, known)
    const { warnings, cost, bodies } = built.value
    const stopping = known.findings.filter(({ kind }) => fatal.includes(kind))
    if (stopping.length > 0) return unbuilt(options, stoppedBy(stopping), known)
    put(built.value.bytes, options.out)
    const skipped = [...ignoredData(policies), ...warnings]
    return { out: options.out, ...known, warnings: skipped, cost, bodies, error: undefined }
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

type Known = Pick<BuildResult, 'revision' | 'formatted' | 'tests' | 'findings'>

function unbuilt({ out, policies }: BuildOptions, thrown: unknown, known?: Known): BuildResult {
  const { code, message, hint, problems = [], cause } = asGateError(thrown)
  const none = { revision: '', formatted: [], tests: 'none', findings: [] }
  const { findings, ...rest } = known ?? none
  const error = new GateError(code, message, {
    cause,
    ...(hint === undefined ? {} : { hint }),
    problems: [
      ...(problems.length === 0 ? [{ code, path: policies, message }] : problems),
      ...findings.map(findingProblem),
    ],
  })
  return {
    out,
    ...rest,
    findings,
    warnings: ignoredData(policies),
    cost: undefined,
    bodies: undefined,
    error,
  }
}

function stoppedBy(findings: readonly Finding[]): GateError {
  const kinds = [...new Set(findings.map(({ kind }) => kind))].join(', ')
  return new GateError('ERR_OPA', `findings stop this build (${kinds}): ${findings.length}`, {
    hint: '--strict, or the variable CI in the environment, makes errors of them',
  })
}

type Built = Pick<TriedPolicy, 'warnings' | 'cost' | 'bodies'> & { readonly bytes: Buffer }

/** Compiles the sources and tries the bundle. @throws GateError ERR_OPA, ERR_BUNDLE_* */
async function build(
  { policies, entrypoints, limits }: BuildOptions,
  sources: SourceOptions,
  revision: string,
  work: string,
): Promise<Built> {
  // opa builds from a copy with relative names, so that no path of this machine gets into the bundle.
  copySources(policies, join(work, 'policies'))
  const file = join(work, 'bundle.tar.gz')
  const args = [
    'build',
    '--target=wasm',
    '--bundle',
    ...entrypoints.flatMap((entrypoint) => ['--entrypoint', entrypoint]),
    '--ignore=*_test.rego',
    `--revision=${revision}`,
    `--output=${file}`,
    ...versionFlags(sources),
    'policies',
  ]
  const { ok, out, err } = await askOpa(sources.opa, args, work)
  if (!ok) {
    const [, missing] = /entrypoint "([^"]*)" does not refer to a rule/.exec(`${out}${err}`) ?? []
    if (missing !== undefined) throw await missingEntrypoint(missing, sources)
    throw new GateError('ERR_OPA', `opa build failed:\n${`${out}${err}`.trim()}`)
  }
  const bytes = readFileSync(file)
  try {
    const tried = await tryPolicy(await readArchive(bytes, limits), limits, entrypoints)
    const { warnings, cost, bodies } = tried
    return { bytes, warnings, cost, bodies }
  } catch (error) {
    throw withPlaces(asGateError(error), policies)
  }
}

/** The problems of a trial that name a builtin, with the lines of the sources that call it. */
function withPlaces(error: GateError, policies: string): GateError {
  const { code, message, hint, problems } = error
  if (problems === undefined) return error
  const files = regoFiles(policies).map((file) => [file, readFileSync(file, 'utf8')] as const)
  const placed = problems.flatMap((problem): Problem[] => {
    const call = new RegExp(`^[^#]*(?<![\\w.])${problem.path.replaceAll('.', '\\.')}(?![\\w.])`)
    const places = files.flatMap(([file, text]) =>
      text.split('\n').flatMap((line, i) => (call.test(line) ? [`${file}:${i + 1}`] : [])),
    )
    return places.length === 0 ? [problem] : places.map((path) => ({ ...problem, path }))
  })
  const lines = placed.map((each) => `${each.path}: ${each.message}`).join('\n')
  return new GateError(code, `${message.split(':', 1)[0]}:\n${lines}`, {
    cause: error,
    problems: placed,
    ...(hint === undefined ? {} : { hint }),
  })
}

/** The file appears in one step, so that a watching gate never reads half of it. */
function put(bytes: Buffer, out: string): void {
  makeFolder(dirname(out))
  const beside = join(dirname(out), `.${basename(out)}.new`)
  writeFileSync(beside, bytes)
  renameSync(beside, out)
}

function summaryOf(tests: readonly OpaTest[]): string {
  const run = tests.filter(({ skip }) => skip !== true)
  if (run.length === 0) return 'none'
  const passed = run.filter((test) => !isFailed(test)).length
  return `${passed === run.length ? 'PASS' : 'FAIL'}: ${passed}/${run.length}`
}

function byPlace(a: Finding, b: Finding): number {
  return a.file === b.file ? (a.row ?? 0) - (b.row ?? 0) : a.file < b.file ? -1 : 1
}

function checkFolder(policies: string): void {
  const isFolder = existsSync(policies) && statSync(policies).isDirectory()
  if (isFolder && regoFiles(policies).length > 0) return
  throw new GateError(
    'ERR_USAGE',
    isFolder ? `there is no *.rego in ${policies}` : `${policies} is not a folder`,
    { hint: 'name the folder of the Rego sources: `dropgate build FOLDER`' },
  )
}

function copySources(policies: string, to: string): void {
  for (const { file, name } of filesIn(policies)) {
    if (!isPartOfBundle(name)) continue
    const copy = join(to, relative(policies, file))
    mkdirSync(dirname(copy), { recursive: true })
    copyFileSync(file, copy)
  }
}

/** `opa run` reads these without `--bundle`; a bundle has only data.json and data.yaml. */
function ignoredData(policies: string): string[] {
  return filesIn(policies)
    .filter(({ name }) => /^[^.].*\.(?:json|ya?ml)$/.test(name) && !isPartOfBundle(name))
    .map(
      ({ file }) =>
        `${file} is not in the bundle: data is read from files named data.json or data.yaml only, under the path of their folder`,
    )
}

/** Returns twelve hex digits of a digest over the names and bytes of all files that go into the bundle. */
function revisionOf(policies: string, v0: boolean): string {
  const digest = createHash('sha256').update(v0 ? 'v0\0' : '')
  for (const { file, name } of filesIn(policies)) {
    if (name.endsWith('_test.rego') || !isPartOfBundle(name)) continue
    const bytes = readFileSync(file)
    digest.update(`${relative(policies, file)}\0${bytes.length}\0`).update(bytes)
  }
  return digest.digest('hex').slice(0, 12)
}
