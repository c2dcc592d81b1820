/**
 * OPA's own test cases, read from the Go module cache where `go` keeps the version that policies are built with. They
 * are OPA's and are not copied.
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { isMap, isScalar, isSeq, type Node, parseDocument } from 'yaml'
import { opaVersion } from '../../src/bundle/opa.ts'
import { RegoNumber, RegoObject, toJson, type Value } from '../../src/rego/values/value.ts'

export interface Case {
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
  readonly strictError: boolean
  readonly sortBindings: boolean
}

/** @returns the folder of the v1 cases. */
export function findCases(): string {
  const module = `github.com/open-policy-agent/opa@${opaVersion}`
  const done = spawnSync('go', ['mod', 'download', '-json', module], { encoding: 'utf8' })
  if (done.status !== 0) {
    throw new Error(`go mod download ${module} failed: ${done.error ?? done.stdout + done.stderr}`)
  }
  return join((JSON.parse(done.stdout) as { Dir: string }).Dir, 'v1/test/cases/testdata/v1')
}

/** In the order of their files' names. */
export function readCases(folder: string): Case[] {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.yaml'))
    .sort()
  return files.flatMap((file) => {
    const document = valueIn(parseDocument(readFileSync(join(folder, file), 'utf8')).contents)
    const cases = (document as RegoObject).get('cases') as Value[]
    return cases.map((each) => caseOf(each as RegoObject, relative(folder, join(folder, file))))
  })
}

function caseOf(fields: RegoObject, file: string): Case {
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
