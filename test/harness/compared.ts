/**
 * One policy, asked by `opa eval` and by the engine: the same generated requests, from the text that the gate would build. The
 * engine has the policy as a worker has it (module prepared, data as an image of memory) and gets each request twice: only what
 * the policy reads, and the whole input.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { findOpa, runOpa } from '../../src/bundle/opa.ts'
import type { Answer } from '../../src/domain/decision.ts'
import { ActivePolicy } from '../../src/policy/engine.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { buildInput, type InputParts, InputPlan, type InputState } from '../../src/policy/input.ts'
import { readsEverything } from '../../src/policy/input-usage.ts'
import { packageOf } from './policy.ts'

/** Numbers from a seed, the same everywhere (mulberry32). */
export class Chance {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** From 0 up to, not including, `below`. */
  number(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }

  of<T>(choices: readonly T[]): T {
    return choices[this.number(choices.length)]!
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.number(times) === 0
  }

  some<T>(choices: readonly T[], most: number): T[] {
    return Array.from({ length: this.number(most + 1) }, () => this.of(choices))
  }
}

/** What differs from request to request. */
export interface Case {
  readonly method?: string
  readonly path?: string
  readonly headers?: readonly (readonly [name: string, value: string])[]
  readonly body?: string
  readonly address?: string
  readonly time?: string
  readonly principal?: object
  readonly labels?: object
}

export interface ComparedPolicy {
  /** Paths of the modules. */
  readonly files: readonly string[]
  readonly data: object
  /** As in the configuration: `envoy/authz/allow`. */
  readonly entrypoint: string
  /** True for modules in the syntax of OPA before 1.0. */
  readonly v0?: boolean
  readonly make: (chance: Chance) => Case
}

function partsOf(made: Case): InputParts {
  const { path = '/', headers = [], body, labels = {} } = made
  const mark = path.indexOf('?')
  const [pathOnly, query] = mark === -1 ? [path, null] : [path.slice(0, mark), path.slice(mark + 1)]
  return {
    requestId: '7', method: made.method ?? 'GET', path, host: 'h', scheme: 'http',
    protocol: 'HTTP/1.1', headers: headers.flat(), size: body === undefined ? -1 : Buffer.byteLength(body),
    bodyWithheld: false,
    sourceAddress: made.address ?? '10.0.0.1', sourcePort: 1, destinationAddress: '10.0.0.2', destinationPort: 2,
    parsedPath: pathOnly === '/' ? [] : pathOnly.slice(1).split('/'), query,
    routeJson: JSON.stringify({ name: 'r', labels }), labelsJson: JSON.stringify(labels),
    principal: made.principal === undefined ? undefined : { json: JSON.stringify(made.principal) },
  } // biome-ignore format: a table
}

function stateOf({ body, time = '2026-01-01T00:00:00.000Z' }: Case): InputState {
  const parsed = body?.startsWith('{') ? body : 'null'
  const texts = body === undefined ? undefined : { quoted: JSON.stringify(body), parsed }
  return { timeRfc3339: time, body: texts, feedStale: false, feedAgeMs: 1 }
}

export interface Difference {
  readonly input: string
  readonly opa: string
  readonly engine: string
}

export interface Comparison {
  readonly asked: number
  readonly allowed: number
  readonly differences: readonly Difference[]
}

const whole = new InputPlan(readsEverything.input)

const maxMemoryBytes = 64 << 20

/** In batches of 1,000 requests at most, each one run of `opa eval`. */
export async function comparePolicy(
  policy: ComparedPolicy,
  seed: number,
  count: number,
): Promise<Comparison> {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-compared-'))
  try {
    for (const file of policy.files) writeFileSync(join(folder, basename(file)), readFileSync(file))
    const engine = await engineOf(policy, folder)
    const chance = new Chance(seed)
    const differences: Difference[] = []
    let allowed = 0
    for (let left = count; left > 0; left -= 1000) {
      const cases = Array.from({ length: Math.min(left, 1000) }, () => policy.make(chance))
      const inputs = cases.map((each) => buildInput(partsOf(each), stateOf(each), whole).text)
      const expected = evalBatch(policy, folder, inputs)
      for (const [i, each] of cases.entries()) {
        const projected = buildInput(
          partsOf(each),
          stateOf(each),
          engine.planOf(policy.entrypoint),
        ).text
        const answer = engine.decide(policy.entrypoint, projected)
        if (answer.allowed) allowed++
        const answers = [answer, engine.decide(policy.entrypoint, inputs[i]!)].map(textOf)
        for (const found of new Set(answers)) {
          if (found !== expected[i])
            differences.push({ input: inputs[i]!, opa: expected[i]!, engine: found })
        }
      }
    }
    return { asked: count, allowed, differences }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

async function engineOf(policy: ComparedPolicy, folder: string): Promise<ActivePolicy> {
  writeFileSync(join(folder, 'data.json'), JSON.stringify(policy.data))
  const out = join(folder, 'out.tar.gz')
  const args = ['build', '--target=wasm', '--bundle', `--entrypoint=${policy.entrypoint}`]
  const flags = [...versionFlags(policy), `--output=${out}`, '.']
  runOpa(findOpa(process.cwd()), [...args, ...flags], folder)
  const loaded = await packageOf(readFileSync(out))
  const data = new PolicyInstance({ ...loaded, maxMemoryBytes }).image()
  return new ActivePolicy({ ...loaded, data }, maxMemoryBytes)
}

function versionFlags({ v0 = false }: ComparedPolicy): readonly string[] {
  return v0 ? ['--v0-compatible'] : []
}

function textOf(answer: Answer): string {
  return answer.failure === undefined || answer.resultJson !== undefined
    ? canonical(`[${answer.resultJson ?? ''}]`)
    : `failed: ${answer.detail}`
}

function evalBatch(policy: ComparedPolicy, folder: string, inputs: readonly string[]): string[] {
  const { data, entrypoint, files } = policy
  const comma = Object.keys(data).length === 0 ? '' : ','
  const withBatch = `${JSON.stringify(data).slice(0, -1)}${comma}"batch":[${inputs.join(',')}]}`
  writeFileSync(join(folder, 'batch.json'), withBatch)
  const rule = `data.${entrypoint.replaceAll('/', '.')}`
  const query = `[answer | asked := data.batch[_]; answer := [decided | decided := ${rule} with input as asked]]`
  const sources = [...files.map((file) => basename(file)), 'batch.json']
  const args = ['eval', '--format=json', ...versionFlags(policy)]
  const given = sources.map((name) => `--data=${name}`)
  const output = runOpa(findOpa(process.cwd()), [...args, ...given, query], folder)
  const { result } = JSON.parse(output, exactly)
  return (result[0].expressions[0].value as unknown[]).map((value) => canonical(value))
}

/** One text for equal values, whatever the order of keys; numbers that a double cannot hold by their digits. */
function canonical(value: unknown): string {
  const parsed = typeof value === 'string' ? JSON.parse(value, exactly) : value
  return JSON.stringify(parsed, (_key, inner) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}

function exactly(_key: string, value: unknown, context?: { source?: string }): unknown {
  return typeof value !== 'number' || Number.isSafeInteger(value)
    ? value
    : `number ${context?.source}`
}

/** Compares all of these, prints what came, and fails the process where an answer differs or is never reached. */
export async function sweep(
  names: readonly string[],
  compare: (name: string, seed: number, count: number) => Promise<Comparison>,
  usual: number,
): Promise<void> {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
  const each = Number(process.env.EACH ?? usual)
  process.stdout.write(`seed ${seed}\n`)
  for (const name of names) {
    const { asked, allowed, differences } = await compare(name, seed, each)
    process.stdout.write(
      `${name}: ${asked} asked, ${allowed} allowed, ${differences.length} different\n`,
    )
    if (allowed === 0 || allowed === asked) process.exitCode = 1
    for (const difference of differences.slice(0, 3)) {
      process.stdout.write(`${JSON.stringify(difference, undefined, 1)}\n`)
      process.exitCode = 1
    }
  }
}
