/**
 * OPA's own test cases, read from the Go module cache where `go` keeps the version that policies are built with. They
 * are OPA's and are not copied.
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isMap, isScalar, isSeq, type Node, parse, parseDocument } from 'yaml'
import { opaVersion } from '../../src/bundle/opa.ts'
import { RegoNumber, RegoObject, toJson, type Value } from '../../src/rego/values/value.ts'

export const versions = ['v0', 'v1'] as const

export interface Case {
  /** Of the language. */
  readonly version: (typeof versions)[number]
  readonly directory: string
  readonly file: string
  readonly note: string
  readonly query: string
  readonly modules: readonly string[]
  readonly data: Value
  /** Text of a term; a case without input gets an empty one, as a gate's evaluations always have one. */
  readonly input: string
  readonly wantDefined: boolean | undefined
  readonly wantResult: readonly RegoObject[] | undefined
  readonly wantError: boolean
  /** `eval_conflict_error` and others. */
  readonly wantErrorCode: string | undefined
  readonly strictError: boolean
  readonly sortBindings: boolean
}

/** @returns the folder of OPA's source text. */
export function findOpaSource(): string {
  const module = `github.com/open-policy-agent/opa@${opaVersion}`
  const done = spawnSync('go', ['mod', 'download', '-json', module], { encoding: 'utf8' })
  if (done.status !== 0) {
    throw new Error(`go mod download ${module} failed: ${done.error ?? done.stdout + done.stderr}`)
  }
  return (JSON.parse(done.stdout) as { Dir: string }).Dir
}

/** By notes, each with a reason: the cases that OPA's own WebAssembly run leaves out. */
export function readExceptions(source: string): ReadonlyMap<string, string> {
  const file = join(source, 'internal/wasm/sdk/test/e2e/exceptions.yaml')
  return new Map(Object.entries(parse(readFileSync(file, 'utf8')) as Record<string, string>))
}

/** In the order of their files' names. */
export function readCases(source: string): Case[] {
  return versions.flatMap((version) =>
    casesOf(version, join(source, 'v1/test/cases/testdata', version)),
  )
}

function casesOf(version: Case['version'], folder: string): Case[] {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.yaml'))
    .sort()
  return files.flatMap((file) => {
    const document = valueIn(parseDocument(readFileSync(join(folder, file), 'utf8')).contents)
    const cases = (document as RegoObject).get('cases') as Value[]
    return cases.map((each) => ({ version, ...caseOf(each as RegoObject, file) }))
  })
}

function caseOf(fields: RegoObject, file: string): Omit<Case, 'version'> {
  const code = fields.get('want_error_code')
  const defined = fields.get('want_defined')
  return {
    directory: file.split('/')[0]!,
    file,
    note: String(fields.get('note')),
    query: String(fields.get('query')).trim(),
    modules: (fields.get('modules') ?? []) as string[],
    data: fields.get('data') ?? new RegoObject(),
    input: inputOf(fields),
    wantDefined: typeof defined === 'boolean' ? defined : undefined,
    wantResult: (fields.get('want_result') ?? undefined) as RegoObject[] | undefined,
    wantError: fields.has('want_error') || fields.has('want_error_code'),
    wantErrorCode: typeof code === 'string' ? code : undefined,
    strictError: fields.get('strict_error') === true,
    sortBindings: fields.get('sort_bindings') === true,
  }
}

function inputOf(fields: RegoObject): string {
  const term = fields.get('input_term')
  // Terms are Rego, which takes a comma before a closing bracket.
  if (typeof term === 'string') return term.replace(/,(\s*[\]}])/g, '$1')
  const input = fields.get('input')
  return input === undefined ? '{}' : toJson(input)
}

/** Numbers keep the digits that the file has. */
function valueIn(node: Node | null | unknown): Value {
  if (isMap(node)) {
    return new RegoObject(
      node.items.map(({ key, value }) => [keyOf(key as Node), valueIn(value)] as const),
    )
  }
  if (isSeq(node)) return node.items.map(valueIn)
  if (!isScalar(node)) return null
  const { value, source } = node
  if (typeof value === 'number') return new RegoNumber(jsonNumber(source ?? String(value), value))
  return value as null | boolean | string
}

/** Keys are texts, as in JSON. */
function keyOf(node: Node): Value {
  const key = valueIn(node)
  return key instanceof RegoNumber ? key.text : typeof key === 'string' ? key : String(key)
}

function jsonNumber(source: string, value: number): string {
  return /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$/.test(source)
    ? source
    : String(value)
}
