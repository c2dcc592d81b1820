/**
 * The same tests on two engines: `opa test` says what the rules mean, our own engine what the gate will answer. Each
 * `test_…` rule becomes an entrypoint of a module, with its mocks compiled in.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { asGateError, GateError } from '../errors.ts'
import { PolicyInstance } from '../policy/host.ts'
import { prepareModule } from '../policy/module.ts'
import { readArchive } from './archive.ts'
import { findOpa, runOpa, tryOpa } from './opa.ts'

export interface TestOptions {
  /** Folder of Rego sources, data and tests. */
  readonly policies: string
  /** Folder of dropgate itself, with its schema and tools; never what `policies` is relative to. */
  readonly root: string
  readonly maxMemoryBytes: number
}

export interface TestResult {
  /** `gate/authz_test/test_alice`. */
  readonly name: string
  readonly opa: 'pass' | 'fail' | 'skip'
  readonly engine: 'pass' | 'fail' | 'skip'
  /** Why the engine did not pass it. */
  readonly message: string | undefined
}

export interface TestReport {
  readonly tests: readonly TestResult[]
  readonly passed: boolean
  /** Percent of the rules' lines that the tests reach; opa measures it only where all of them pass. */
  readonly coverage: number | undefined
  /** What they do not reach, as `policies/authz.rego:14`. */
  readonly uncovered: readonly string[]
}

interface OpaTest {
  readonly package: string
  readonly name: string
  readonly fail?: boolean
  readonly skip?: boolean
  readonly error?: unknown
}

/** @throws GateError ERR_OPA when the sources do not compile, or there is no test */
export async function testPolicies(options: TestOptions): Promise<TestReport> {
  const { policies, root } = options
  const opa = findOpa(root)
  runOpa(opa, ['check', '--strict', '--bundle', '--schema', schemaOf(root), policies])
  // A failed test is a result, not a failure of the tool: its status is looked at only where nothing was said.
  const verdicts = readVerdicts(tryOpa(opa, ['test', '--bundle', '--format=json', policies]))
  if (verdicts.length === 0) throw withoutTests(policies)
  const wanted = verdicts.filter(({ skip }) => skip !== true)
  const own = await runOnEngine(
    opa,
    wanted.map((test) => nameOf(test)),
    options,
  )
  const tests = verdicts.map((verdict): TestResult => {
    const name = nameOf(verdict)
    if (verdict.skip === true) return { name, opa: 'skip', engine: 'skip', message: undefined }
    const failed = verdict.fail === true || verdict.error !== undefined
    const message = own.get(name)
    return {
      name,
      opa: failed ? 'fail' : 'pass',
      engine: message === undefined ? 'pass' : 'fail',
      message,
    }
  })
  const passed = tests.every((test) => test.opa !== 'fail' && test.engine !== 'fail')
  if (tests.some((test) => test.opa === 'fail'))
    return { tests, passed, coverage: undefined, uncovered: [] }
  const args = ['test', '--bundle', '--coverage', '--format=json', policies]
  return { tests, passed, ...readCoverage(runOpa(opa, args)) }
}

/** Nothing says whether the policy does what it should. */
export function withoutTests(policies: string): GateError {
  return new GateError('ERR_OPA', `there is no test in ${policies}`, {
    hint: 'a test is a rule whose name begins with test_, in a file *_test.rego',
  })
}

/** The JSON Schema of `input`, which comes with dropgate. */
export function schemaOf(root: string): string {
  return join(root, 'schemas', 'input.json')
}

function nameOf({ package: path, name }: OpaTest): string {
  return `${path.replace(/^data\./, '').replaceAll('.', '/')}/${name}`
}

function readVerdicts(json: string): readonly OpaTest[] {
  const value: unknown = readJson(json)
  if (value === null) return []
  if (!Array.isArray(value)) throw new GateError('ERR_OPA', 'opa test gave no list of results')
  return value as OpaTest[]
}

interface Covered {
  readonly coverage?: number
  readonly files?: Readonly<
    Record<
      string,
      { readonly not_covered?: readonly { readonly start: { readonly row: number } }[] }
    >
  >
}

function readCoverage(json: string): Pick<TestReport, 'coverage' | 'uncovered'> {
  const { coverage, files = {} } = (readJson(json) ?? {}) as Covered
  const lines = Object.entries(files).flatMap(([file, { not_covered: ranges = [] }]) =>
    ranges.map(({ start }) => `${file}:${start.row}`),
  )
  return { coverage: coverage ?? 0, uncovered: [...new Set(lines)] }
}

function readJson(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch (error) {
    throw new GateError('ERR_OPA', `opa test failed:\n${json.trim()}`, { cause: error })
  }
}

/** @returns name -> why it did not pass, undefined where it did. */
async function runOnEngine(
  opa: string,
  names: readonly string[],
  { policies, maxMemoryBytes }: TestOptions,
): Promise<ReadonlyMap<string, string | undefined>> {
  const results = new Map<string, string | undefined>()
  if (names.length === 0) return results
  const work = mkdtempSync(join(tmpdir(), 'dropgate-test-'))
  try {
    cpSync(policies, join(work, 'policies'), { recursive: true })
    const entrypoints = names.flatMap((name) => ['--entrypoint', name])
    const out = join(work, 'tests.tar.gz')
    runOpa(
      opa,
      ['build', '--target=wasm', '--bundle', ...entrypoints, `--output=${out}`, 'policies'],
      work,
    )
    const limits = { maxBundleBytes: maxMemoryBytes, maxUnpackedBytes: maxMemoryBytes }
    const { wasm, data } = await readArchive(readFileSync(out), limits)
    const { bytes, initialPages } = prepareModule(wasm)
    const module = await WebAssembly.compile(bytes)
    const start = (): PolicyInstance =>
      new PolicyInstance({ module, initialPages, data, maxMemoryBytes, keepHeap: true })
    let instance = start()
    for (const name of names) {
      try {
        const result = instance.evaluate(instance.entrypoints.get(name)!, '{}')
        results.set(name, result === '[{"result":true}]' ? undefined : `it gave ${result}`)
      } catch (error) {
        results.set(name, asGateError(error).message)
        if (instance.broken) instance = start()
      }
    }
    return results
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
