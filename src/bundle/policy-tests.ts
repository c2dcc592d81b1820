/**
 * Runs the tests of a policy on two engines: `opa test` shows what the rules mean, the gate's own engine what the
 * gate will answer. For the second, each `test_…` rule is compiled as an entrypoint of one module, with its mocks.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { asGateError, GateError } from '../errors.ts'
import { compileModule } from '../policy/compile.ts'
import { PolicyInstance } from '../policy/host.ts'
import { prepareModule } from '../policy/module.ts'
import { readArchive } from './archive.ts'
import {
  checkSources,
  type Finding,
  isFailed,
  type OpaTest,
  runTests,
  type SourceOptions,
  versionFlags,
  withoutTests,
} from './findings.ts'
import { findOpa, runOpa } from './opa.ts'

export interface TestOptions {
  /** Folder of Rego sources, data and tests. */
  readonly policies: string
  /** Folder of dropgate itself, with its schema and tools; `policies` is not relative to it. */
  readonly root: string
  readonly maxMemoryBytes: number
  /** The sources are in the syntax of OPA before 1.0. */
  readonly v0?: boolean
}

export interface TestResult {
  /** Path of the test rule: `gate/authz_test/test_alice`. */
  readonly name: string
  readonly opa: 'pass' | 'fail' | 'skip'
  readonly engine: 'pass' | 'fail' | 'skip'
  /** Why the test did not pass on the gate's own engine. */
  readonly message: string | undefined
}

export interface TestReport {
  readonly tests: readonly TestResult[]
  /** What `opa check` says of the sources; no test fails of it. */
  readonly findings: readonly Finding[]
  readonly passed: boolean
  /** Percentage of the rules' lines that the tests execute; opa measures it only when all tests pass. */
  readonly coverage: number | undefined
  /** Lines that no test executes, as `policies/authz.rego:14`. */
  readonly uncovered: readonly string[]
}

/** @throws GateError ERR_OPA when the sources do not compile or contain no test */
export async function testPolicies(options: TestOptions): Promise<TestReport> {
  const { policies, root, v0 = false } = options
  const opa = findOpa(root)
  const sources = { opa, policies, v0, schema: schemaOf(root) }
  const findings = await checkSources(sources)
  const verdicts = await runTests(sources)
  if (verdicts.length === 0) {
    const { file, message } = withoutTests(policies)
    throw new GateError('ERR_OPA', `${file}: ${message}`)
  }
  const wanted = verdicts.filter(({ skip }) => skip !== true)
  const own = await runOnEngine(
    sources,
    wanted.map((test) => nameOf(test)),
    options,
  )
  const tests = verdicts.map((verdict): TestResult => {
    const name = nameOf(verdict)
    if (verdict.skip === true) return { name, opa: 'skip', engine: 'skip', message: undefined }
    const failed = isFailed(verdict)
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
    return { tests, findings, passed, coverage: undefined, uncovered: [] }
  const args = ['test', '--bundle', '--coverage', '--format=json', ...versionFlags(sources)]
  return { tests, findings, passed, ...readCoverage(runOpa(opa, [...args, policies])) }
}

/** Path of the JSON Schema of `input`, which is part of dropgate. */
export function schemaOf(root: string): string {
  return join(root, 'schemas', 'input.json')
}

function nameOf({ package: path, name }: OpaTest): string {
  return `${path.replace(/^data\./, '').replaceAll('.', '/')}/${name}`
}

interface CoverageReport {
  readonly coverage?: number
  readonly files?: Readonly<
    Record<
      string,
      { readonly not_covered?: readonly { readonly start: { readonly row: number } }[] }
    >
  >
}

function readCoverage(json: string): Pick<TestReport, 'coverage' | 'uncovered'> {
  const { coverage, files = {} } = (readJson(json) ?? {}) as CoverageReport
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

/** @returns For each test name why it did not pass, or undefined if it passed. */
async function runOnEngine(
  sources: SourceOptions,
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
    const args = ['build', '--target=wasm', '--bundle', ...entrypoints, `--output=${out}`]
    runOpa(sources.opa, [...args, ...versionFlags(sources), 'policies'], work)
    const limits = { maxBundleBytes: maxMemoryBytes, maxUnpackedBytes: maxMemoryBytes }
    const { wasm, data } = await readArchive(readFileSync(out), limits)
    const { bytes, initialPages } = prepareModule(wasm)
    const module = await compileModule(bytes)
    const start = (): PolicyInstance =>
      new PolicyInstance({ module, initialPages, data, maxMemoryBytes, keepHeap: true })
    let instance = start()
    for (const name of names) {
      try {
        const result = instance.evaluate(instance.entrypoints.get(name)!, '{}')
        results.set(
          name,
          result === '[{"result":true}]' ? undefined : `the rule returned ${result}`,
        )
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
