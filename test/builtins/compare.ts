/**
 * Calls beside `opa eval`: one policy with a rule for each builtin, evaluated by OPA over thousands of inputs in one
 * process, and by our engine as a compiled module.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readArchive } from '../../src/bundle/archive.ts'
import { findOpa, runOpa } from '../../src/bundle/opa.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { prepareModule } from '../../src/policy/module.ts'
import { bytesOf } from '../../src/rego/values/bytes.ts'
import {
  fromJson,
  isArray,
  keyOf,
  parseTerm,
  RegoObject,
  RegoSet,
  toJson,
  type Value,
} from '../../src/rego/values/value.ts'
import { compile } from '../harness/bundle.ts'
import { undefinedTerm } from './arguments.ts'
import type { Call, callables } from './calls.ts'

type Callables = ReturnType<typeof callables>

export interface Difference {
  readonly call: Call
  readonly opa: string
  readonly ours: string
}

/** OPA itself gives no answer. */
const died = 'opa died'

const data = {
  stuff: { '1': 'text one', a: 1, true: 2, null: 3, '[1]': 4, '-1': 5 },
  list: ['zero', 'one', 'two'],
}
/** Levels of sets and raw strings inside of each other that an argument may have. */
const levels = 5

const decoding = Array.from({ length: levels }, (_, i) => {
  const [here, below] = [`dec${i}`, `dec${i + 1}`]
  return `
${here}(x) := x.v
${here}(x) := base64.decode(x.b)
${here}(x) := {d | some y in x.s; d := ${below}(y)} if x.s
${here}(x) := [d | some y in x.a; d := ${below}(y)] if x.a
${here}(x) := {k: v | some y in x.o; k := ${below}(y[0]); v := ${below}(y[1])} if x.o`
}).join('')

/** The policy. A string answers as its bytes, since JSON could not carry all of them. */
function policy(all: Callables): string {
  const rules = all.map(({ types, rego }, i) => {
    const given = types.map((_, k) => `${'abcd'[k]} := dec0(input.a[${k}])`)
    return `f${i} := out(r) if { ${[...given, `r := ${rego}`].join('; ')} }`
  })
  return `package cases
import future.keywords
${decoding}
dec${levels}(x) := x.v
dec${levels}(x) := base64.decode(x.b)
out(x) := ["string", base64.encode(x)] if is_string(x)
out(x) := [type_name(x), x] if not is_string(x)
${rules.join('\n')}
`
}

/** Each answer in a list, which is empty for undefined. */
const asking = `package asked
import future.keywords
answers := [r | some c in data.batch; r := [v | v := data.cases[c.e] with input as c.i]]
`

/** A value as JSON that `dec0` reads: sets, raw strings and keys of other types are marked. */
function tagged(value: Value): string {
  if (typeof value === 'string') {
    return value.isWellFormed()
      ? `{"v":${JSON.stringify(value)}}`
      : `{"b":"${bytesOf(value).toString('base64')}"}`
  }
  if (isPlain(value)) return `{"v":${toJson(value)}}`
  if (isArray(value)) return `{"a":[${value.map(tagged)}]}`
  if (value instanceof RegoSet) return `{"s":[${Array.from(value, tagged)}]}`
  const entries = Array.from(value as RegoObject, ([key, of]) => `[${tagged(key)},${tagged(of)}]`)
  return `{"o":[${entries}]}`
}

/** True for what JSON can carry. */
function isPlain(value: Value): boolean {
  if (typeof value === 'string') return value.isWellFormed()
  if (isArray(value)) return value.every(isPlain)
  if (value instanceof RegoSet) return false
  if (!(value instanceof RegoObject)) return true
  return Array.from(value).every(
    ([key, of]) => typeof key === 'string' && key.isWellFormed() && isPlain(of),
  )
}

const inputOf = ({ args }: Call): string =>
  `{"a":[${args.map((text) => (text === undefinedTerm ? '{}' : tagged(parseTerm(text))))}]}`

const answer = (value: Value | undefined): string =>
  value === undefined ? 'undefined' : toJson(value)

export class Comparison {
  readonly #all: Callables
  readonly #indices: ReadonlyMap<string, number>
  readonly #policy: string
  #instance: PolicyInstance | undefined
  #make: () => PolicyInstance = () => {
    throw new Error('not open')
  }

  constructor(all: Callables) {
    this.#all = all
    this.#indices = new Map(all.map(({ name }, i) => [name, i]))
    this.#policy = policy(all)
  }

  async open(): Promise<void> {
    const entrypoints = this.#all.map((_, i) => `cases/f${i}`)
    const bundle = compile(this.#policy, entrypoints, data, ['--v0-compatible'])
    const { wasm } = await readArchive(bundle, {
      maxBundleBytes: 1 << 26,
      maxUnpackedBytes: 1 << 28,
    })
    const { bytes, initialPages } = prepareModule(wasm)
    const module = await WebAssembly.compile(bytes)
    const given = { module, initialPages, data: JSON.stringify(data), maxMemoryBytes: 256 << 20 }
    this.#make = () => new PolicyInstance(given)
  }

  /** The answer of our engine: JSON, `undefined`, or why the evaluation ended. */
  ours(call: Call): string {
    if (this.#instance === undefined || this.#instance.broken) this.#instance = this.#make()
    const entrypoint = this.#instance.entrypoints.get(`cases/f${this.#indices.get(call.name)}`)!
    try {
      const results = fromJson(this.#instance.evaluate(entrypoint, inputOf(call))) as RegoObject[]
      return answer(results[0]?.get('result'))
    } catch (error) {
      return `failed: ${(error as Error).message}`
    }
  }

  /**
   * The answers of `opa eval`. OPA's process dies of some calls, and then answers none: a part that fails is asked again in
   * halves, down to the call that it dies of.
   */
  theirs(calls: readonly Call[]): string[] {
    try {
      return this.#asked(calls)
    } catch (error) {
      if (calls.length === 1) return [`${died}: ${(error as Error).message}`]
      const middle = calls.length >> 1
      return [...this.theirs(calls.slice(0, middle)), ...this.theirs(calls.slice(middle))]
    }
  }

  #asked(calls: readonly Call[]): string[] {
    const folder = mkdtempSync(join(tmpdir(), 'dropgate-calls-'))
    try {
      writeFileSync(join(folder, 'cases.rego'), this.#policy)
      writeFileSync(join(folder, 'asked.rego'), asking)
      const batch = calls.map(
        (call) => `{"e":"f${this.#indices.get(call.name)}","i":${inputOf(call)}}`,
      )
      const all = `${JSON.stringify(data).slice(0, -1)},"batch":[${batch}]}`
      writeFileSync(join(folder, 'data.json'), all)
      const args = ['eval', '--v0-compatible', '--format=json', '--data=.', 'data.asked.answers']
      const { result } = fromText(runOpa(findOpa(process.cwd()), args, folder))
      return result.map(([value]) => answer(value))
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  /** Calls for which OPA had a value, and the most CPU of one call of ours, of all comparisons. */
  defined = 0
  slowestMs = 0

  differences(calls: readonly Call[]): Difference[] {
    const theirs = this.theirs(calls)
    return calls.flatMap((call, i) => {
      const began = process.cpuUsage().user
      const [opa, ours] = [theirs[i]!, this.ours(call)]
      this.slowestMs = Math.max(this.slowestMs, (process.cpuUsage().user - began) / 1000)
      if (opa !== 'undefined') this.defined++
      return opa === ours || opa.startsWith(died) || isSame(opa, ours) ? [] : [{ call, opa, ours }]
    })
  }
}

function fromText(printed: string): { result: Value[][] } {
  const [result] = (fromJson(printed) as RegoObject).get('result') as RegoObject[]
  const [expression] = result!.get('expressions') as RegoObject[]
  return { result: expression!.get('value') as Value[][] }
}

/** Equal as values, for texts of JSON that differ: `1.0` and `1`. */
function isSame(a: string, b: string): boolean {
  if (!a.startsWith('[') || !b.startsWith('[')) return false
  return keyOf(fromJson(a)) === keyOf(fromJson(b))
}
