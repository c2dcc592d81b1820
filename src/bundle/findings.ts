/**
 * What the opa tool and its checks say of policy sources, each with file and line. An error stops the build; a finding does
 * so only where that is asked for. The checks of opa run beside each other, since each of them is a process of its own.
 */
import { readFileSync } from 'node:fs'
import { GateError, type Problem } from '../errors.ts'
import { adviseInput } from './input-advice.ts'
import { askOpa, type OpaAnswer } from './opa.ts'

export interface Finding {
  /**
   * `strict`: what `opa check --strict` refuses; `input`: a field that the gate's input does not have; `format`: differs from
   * `opa fmt`; `test`: a test fails; `untested`: there is no test.
   */
  readonly kind: 'strict' | 'input' | 'format' | 'test' | 'untested'
  readonly file: string
  /** Line, counted from 1; null where the finding is about a whole file or folder. */
  readonly row: number | null
  readonly message: string
}

export interface SourceOptions {
  readonly opa: string
  /** Folder of Rego sources and data. */
  readonly policies: string
  /** The sources are in the syntax of OPA before 1.0. */
  readonly v0: boolean
  /** Path of the JSON Schema of `input`. */
  readonly schema: string
}

export interface OpaTest {
  readonly package: string
  readonly name: string
  readonly fail?: boolean
  readonly skip?: boolean
  readonly error?: { readonly message?: string }
  readonly location?: { readonly file: string; readonly row: number }
}

/** An error in the JSON of `opa check`. */
interface OpaError {
  readonly message: string
  readonly code?: string
  readonly location?: { readonly file: string; readonly row: number }
  readonly details?: unknown
}

/** The lock file of an editor: a link that leads nowhere, over which opa stumbles. */
const ignored = '--ignore=.#*'

export function versionFlags({ v0 }: { readonly v0: boolean }): readonly string[] {
  return v0 ? ['--v0-compatible'] : []
}

/** `file:row: kind: message`, as editors and CI systems read it. */
export function findingLine({ kind, file, row, message }: Finding): string {
  return `${at(file, row)}: ${kind}: ${message}`
}

export function findingProblem({ file, row, message }: Finding): Problem {
  return { code: 'ERR_OPA', path: at(file, row), message }
}

function at(file: string, row: number | null): string {
  return row === null ? file : `${file}:${row}`
}

/**
 * Everything that `opa check` says. Most sources are good, and one run shows it; opa stops at the first phase that has errors,
 * so the kinds are told apart by further runs.
 * @throws GateError ERR_OPA with file and line of each error, when the sources do not compile.
 */
export async function checkSources(options: SourceOptions): Promise<Finding[]> {
  const schema = ['--schema', options.schema]
  const all = await check(options, '--strict', ...schema)
  if (all.length === 0) return []
  const [errors, strict, input] = await Promise.all([
    check(options),
    check(options, '--strict'),
    check(options, ...schema),
  ])
  if (errors.length > 0) throw await failedCheck(options, errors)
  return [
    ...strict.flatMap((error) => findingOf('strict', error)),
    ...input.flatMap((error) => findingOf('input', error)),
  ]
}

async function failedCheck(
  options: SourceOptions,
  errors: readonly OpaError[],
): Promise<GateError> {
  const problems = errors.map(
    ({ message, code, location }): Problem => ({
      code: 'ERR_OPA',
      path: location === undefined ? options.policies : at(location.file, location.row),
      message: code === undefined ? message : `${code}: ${message}`,
    }),
  )
  const lines = problems.map(({ path, message }) => `${path}: ${message}`).join('\n')
  const hint = await hintOnSyntax(options, errors)
  return new GateError('ERR_OPA', `opa check failed:\n${lines}`, {
    problems,
    ...(hint === undefined ? {} : { hint }),
  })
}

/** Sources for an older opa parse with its flag: the errors are the syntax and nothing else. */
async function hintOnSyntax(
  options: SourceOptions,
  errors: readonly OpaError[],
): Promise<string | undefined> {
  if (options.v0 || !errors.some(({ code }) => code === 'rego_parse_error')) return undefined
  const old = await check({ ...options, v0: true })
  if (old.length > 0) return undefined
  return `these are sources in the syntax of OPA before 1.0: build with --v0-compatible, or rewrite them once with \`opa fmt --write --v0-v1 ${options.policies}\``
}

function findingOf(kind: Finding['kind'], { message, location, details }: OpaError): Finding[] {
  // A schema that the sources name themselves is not here: what it describes is then not checked.
  if (location === undefined || message.startsWith('undefined schema')) return []
  const { file, row } = location
  return [{ kind, file, row, message: adviseInput(message, details) }]
}

async function check(
  options: SourceOptions,
  ...more: readonly string[]
): Promise<readonly OpaError[]> {
  const args = ['check', '--bundle', '--format=json', '--max-errors=1000', ignored]
  const answer = await askOpa(options.opa, [
    ...args,
    ...versionFlags(options),
    ...more,
    options.policies,
  ])
  if (answer.ok) return []
  try {
    return (JSON.parse(answer.err) as { errors: readonly OpaError[] }).errors
  } catch (error) {
    throw failed('check', answer, error)
  }
}

export async function findUnformatted(options: SourceOptions): Promise<Finding[]> {
  const flags = versionFlags(options)
  const list = await askOpa(options.opa, ['fmt', '--list', ...flags, options.policies])
  // A file that does not parse is an error of `opa check`.
  if (!list.ok) return []
  return await Promise.all(
    list.out.split('\n').flatMap((file) => (file === '' ? [] : [unformatted(file)])),
  )
  async function unformatted(file: string): Promise<Finding> {
    const { out } = await askOpa(options.opa, ['fmt', ...flags, file])
    const [is, should] = [readFileSync(file, 'utf8').split('\n'), out.split('\n')]
    const row = is.findIndex((line, i) => line !== should[i]) + 1
    const message = 'is not formatted as `opa fmt` does it; --fix formats it'
    return { kind: 'format', file, row: Math.max(row, 1), message }
  }
}

/** Formats the sources in place. @returns the files that changed */
export async function formatSources(options: SourceOptions): Promise<string[]> {
  const flags = [...versionFlags(options), options.policies]
  const { ok, out } = await askOpa(options.opa, ['fmt', '--list', ...flags])
  const files = out.split('\n').filter((file) => file !== '')
  if (!ok || files.length === 0) return []
  const written = await askOpa(options.opa, ['fmt', '--write', ...flags])
  if (!written.ok) throw failed('fmt', written)
  return files
}

/** The results of `opa test`. Its exit status says only whether a test failed. @throws GateError ERR_OPA */
export async function runTests(options: SourceOptions): Promise<readonly OpaTest[]> {
  const flags = ['--bundle', '--format=json', ignored, ...versionFlags(options)]
  const answer = await askOpa(options.opa, ['test', ...flags, options.policies])
  try {
    const tests = JSON.parse(answer.out === '' ? '[]' : answer.out) as readonly OpaTest[] | null
    if (answer.ok || answer.out !== '') return tests ?? []
  } catch (error) {
    throw failed('test', answer, error)
  }
  throw failed('test', answer)
}

export function isFailed({ fail, error }: OpaTest): boolean {
  return fail === true || error !== undefined
}

export function findInTests(tests: readonly OpaTest[], policies: string): Finding[] {
  if (tests.length === 0) return [withoutTests(policies)]
  return tests.filter(isFailed).map(({ package: path, name, location, error }) => ({
    kind: 'test',
    file: location?.file ?? policies,
    row: location?.row ?? null,
    message: `${path}.${name} fails${error?.message === undefined ? '' : `: ${error.message}`}`,
  }))
}

/** The finding for a policy without tests: nothing would check that the policy does what it should. */
export function withoutTests(policies: string): Finding {
  const message =
    'there are no tests: write a rule whose name begins with test_ in a file *_test.rego'
  return { kind: 'untested', file: policies, row: null, message }
}

function failed(command: string, { out, err }: OpaAnswer, cause?: unknown): GateError {
  return new GateError('ERR_OPA', `opa ${command} failed:\n${`${out}${err}`.trim()}`, { cause })
}
