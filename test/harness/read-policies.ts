/**
 * Generated policies that reach their input in many ways, and inputs for them. A policy that gets only what the analysis
 * says it reads must answer as with the whole input.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { readArchive } from '../../src/bundle/archive.ts'
import { findOpa, runOpa } from '../../src/bundle/opa.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import {
  findPolicyUsage,
  type PolicyUsage,
  readsEverything,
  type UsedField,
} from '../../src/policy/input-usage.ts'
import { prepareModule } from '../../src/policy/module.ts'
import { Chance } from './compared.ts'

/** A bundle of several files; its entrypoints are numbered in their order. */
export function compileFiles(
  files: Readonly<Record<string, string>>,
  entrypoints: readonly string[],
): Buffer {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-rego-'))
  try {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, name)), { recursive: true })
      writeFileSync(join(folder, name), text)
    }
    const named = entrypoints.flatMap((entrypoint) => ['-e', entrypoint])
    runOpa(
      findOpa(process.cwd()),
      ['build', '-t', 'wasm', ...named, '-o', 'out.tar.gz', '-b', '.'],
      folder,
    )
    return readFileSync(join(folder, 'out.tar.gz'))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const names = ['a', 'b', 'c', 'body'] as const
type Json = null | boolean | number | string | Json[] | { [name: string]: Json }

/** A document of objects with few names, so that references meet something, and with equal parts, for comparisons. */
export function drawInput(chance: Chance, depth = 4, drawn: Json[] = []): Json {
  if (depth < 4 && drawn.length > 0 && chance.once(4)) return chance.of(drawn)
  const kind = depth === 0 ? 9 : chance.number(14)
  if (kind < 8 || depth === 4) {
    const all = names.filter(() => !chance.once(4))
    const members = all.map((name) => [name, drawInput(chance, depth - 1, drawn)] as const)
    const made = Object.fromEntries(members)
    drawn.push(made)
    return made
  }
  if (kind === 8)
    return Array.from({ length: chance.number(3) }, () => drawInput(chance, depth - 1, drawn))
  return chance.of<Json>(['a', 'b', 'c', 'body', true, false, null, 0, 1, 2])
}

/** A line of a rule that gives a variable its value; the lines after it may use the variable. */
const definition = /^(?:some )?(v\d+) (?::=|in) |"a": (v\d+), "b": _/

/** Draws the rules of one package. Each rule may use those before it, so that there is no recursion. */
class PolicyDrawing {
  readonly #chance: Chance
  /** References to what holds a value: rules and, in a body, variables. */
  readonly #values = ['input']
  readonly #functions: string[] = []
  readonly #sets: string[] = []
  #variables = 0

  constructor(chance: Chance) {
    this.#chance = chance
  }

  draw(): string {
    const rules: string[] = []
    for (const i of [90, 91]) rules.push(this.#function(i))
    const count = 3 + this.#chance.number(6)
    for (let i = 0; i < count; i++) rules.push(this.#rule(i))
    const answers = 1 + this.#chance.number(2)
    for (let i = 0; i < answers; i++)
      rules.push(`out := {"v": ${i}, "x": 1} if {\n${this.#body([])}\n} else := ${this.#pure()}`)
    return rules.join('\n\n')
  }

  #rule(i: number): string {
    const chance = this.#chance
    switch (chance.number(7)) {
      case 0:
        return this.#function(i)
      case 1: {
        const name = `s${i}`
        const text = `${name} contains ${this.#pure()} if {\n${this.#body([])}\n}\n\n${name} contains ${this.#pure()}`
        this.#sets.push(name)
        return text
      }
      case 2: {
        const name = `o${i}`
        const text = `${name}.a := ${this.#pure()}\n\n${name}.b := ${this.#pure()} if {\n${this.#body([])}\n}`
        this.#values.push(name)
        this.#note(name, text)
        return text
      }
      case 3: {
        const name = `t${i}`
        const text = `${name} := ${this.#pure()} if {\n${this.#body([])}\n} else := ${this.#pure()} if {\n${this.#body([])}\n}`
        this.#values.push(name)
        this.#note(name, text)
        return text
      }
      case 4: {
        const name = `d${i}`
        const text = `default ${name} := {"a": 1}\n\n${name} := ${this.#pure()} if {\n${this.#body([])}\n}`
        this.#values.push(name)
        this.#note(name, text)
        return text
      }
      default: {
        const name = `r${i}`
        const text = `${name} := ${this.#pure()}`
        this.#values.push(name)
        this.#note(name, text)
        return text
      }
    }
  }

  #function(i: number): string {
    const name = `f${i}`
    const text = `${name}(p, q) := ${this.#pure(['p', 'q'])} if {\n${this.#body(['p', 'q'])}\n} else := ${this.#pure(['p', 'q'])}`
    this.#functions.push(name)
    return text
  }

  /** A reference, or a value made of references. */
  #pure(more: readonly string[] = []): string {
    const chance = this.#chance
    const from = chance.of([...this.#values, ...more, ...more])
    switch (chance.number(9)) {
      case 0:
        return `{"a": ${this.#ref(from)}, "b": ${this.#ref(chance.of([...this.#values, ...more]))}}`
      case 1:
        return `object.get(${this.#ref(from)}, "${this.#name()}", ${this.#ref(from)})`
      case 2: {
        const f = this.#functions.length === 0 ? undefined : chance.of(this.#functions)
        if (f !== undefined) return `${f}(${this.#ref(from)}, ${this.#ref(from)})`
        return this.#ref(from)
      }
      case 3:
        return `[${this.#ref(from)}, 1]`
      case 4:
        return `[y | some y in ${this.#ref(from)}]`
      case 5:
        return `{k: y.${this.#name()} | some k, y in ${this.#ref(from)}}`
      default:
        return this.#ref(from)
    }
  }

  /** Rules and variables whose value is an array or an object of `a` and `b`: OPA refuses other references to them. */
  readonly #shapes = new Map<string, 'array' | 'object'>()

  #ref(from: string): string {
    let text = from
    const shape = this.#shapes.get(from)
    if (shape === 'array') return text
    // To use all of the input is rare, or there would be nothing to leave out.
    const least = from === 'input' && !this.#chance.once(40) ? 1 : 0
    for (let left = least + this.#chance.number(4 - least); left > 0; left--)
      text += `.${text === from && shape === 'object' ? this.#chance.of(['a', 'b']) : this.#name()}`
    return text
  }

  #note(name: string, text: string): void {
    if (/:= \[/.test(text)) this.#shapes.set(name, 'array')
    else if (/:= \{"a"/.test(text)) this.#shapes.set(name, 'object')
  }

  #name(): string {
    return this.#chance.of(names)
  }

  #body(more: readonly string[]): string {
    const known = [...more]
    const lines: string[] = []
    for (let left = 1 + this.#chance.number(3); left > 0; left--) {
      const line = this.#condition(known)
      lines.push(`\t${line}`)
      const [, assigned, matched] = definition.exec(line) ?? []
      if (assigned !== undefined) {
        known.push(assigned)
        this.#note(assigned, line)
      }
      if (matched !== undefined) known.push(matched)
    }
    return lines.join('\n')
  }

  #condition(known: readonly string[]): string {
    const chance = this.#chance
    const from = chance.of([...this.#values, ...known, ...known])
    const other = chance.of([...this.#values, ...known])
    const v = `v${this.#variables++}`
    switch (chance.number(16)) {
      case 0:
        return `${this.#ref(from)} == ${this.#ref(other)}`
      case 1:
        return `${this.#ref(from)} == ${chance.of(['"a"', '1', 'true', 'null'])}`
      case 2:
        return `not ${this.#ref(from)}`
      case 3:
        return `${v} := ${this.#pure(known)}`
      case 4:
        return `some ${v} in ${this.#ref(from)}`
      case 5:
        return `${this.#ref(from)}[${this.#ref(other)}]`
      case 6:
        return `count(${this.#ref(from)}) > ${chance.number(3)}`
      case 7:
        return `walk(${this.#ref(from)}, [_, ${chance.of(['"a"', '1', '{}'])}])`
      case 8:
        return `every ${v} in ${this.#ref(from)} { ${v}.${this.#name()} != ${this.#ref(other)} }`
      case 9: {
        const rule = chance.of(this.#values)
        const where = `input${chance.of(['', '.a', '.b', '.a.b', '.b.c'])}`
        if (rule === 'input') return `${this.#ref(rule)} != 7 with ${where} as ${this.#ref(other)}`
        return `${this.#ref(rule)} != 7 with ${where} as ${this.#pure(known)}`
      }
      case 10: {
        const set = this.#sets.length === 0 ? undefined : chance.of(this.#sets)
        return set === undefined ? `${this.#ref(from)} != 3` : `${this.#ref(from)} in ${set}`
      }
      case 11:
        return `json.marshal(${this.#ref(from)}) != "{}"`
      case 12:
        return `is_object(${this.#ref(from)})`
      case 13:
        return `${this.#ref(from)} = {"a": ${v}, "b": _}`
      case 14:
        return `${v} := {"a": ${this.#ref(from)}, "body": ${this.#ref(other)}}`
      default:
        return this.#ref(from)
    }
  }
}

export interface DrawnPolicies {
  readonly sources: readonly string[]
  readonly instance: PolicyInstance
  readonly usage: PolicyUsage
}

/** Draws policies, each a package of its own with one entrypoint, all in one module. Those that OPA refuses are left out. */
export async function drawPolicies(chance: Chance, count: number): Promise<DrawnPolicies> {
  const opa = findOpa(process.cwd())
  let sources = Array.from({ length: count }, () => new PolicyDrawing(chance).draw())
  const pack = (): Record<string, string> =>
    Object.fromEntries(sources.map((text, i) => [`p${i}.rego`, `package p${i}\n\n${text}\n`]))
  // opa names at most ten errors at a time.
  for (let tries = 0; tries < 40; tries++) {
    try {
      const bundle = compileFiles(
        pack(),
        sources.map((_, i) => `p${i}/out`),
      )
      const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }
      const { wasm, data } = await readArchive(bundle, limits)
      const { bytes, initialPages } = prepareModule(wasm)
      const module = await WebAssembly.compile(bytes)
      const instance = new PolicyInstance({ module, initialPages, data, maxMemoryBytes: 64 << 20 })
      return { sources, instance, usage: findPolicyUsage(wasm) }
    } catch (error) {
      const refused = new Set(
        [...String(error).matchAll(/\bp(\d+)\.rego:/g)].map(([, i]) => Number(i)),
      )
      if (refused.size === 0) throw error
      sources = sources.filter((_, i) => !refused.has(i))
    }
  }
  throw new Error(`${opa} accepts none of the policies`)
}

/** The parts of a document that a usage names; the rest is left out. */
export function projected(value: Json | undefined, { whole, fields }: UsedField): Json | undefined {
  if (whole || typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const out: Record<string, Json> = {}
  for (const [name, field] of fields)
    if (Object.hasOwn(value, name)) out[name] = projected(value[name], field)!
  return out
}

export interface ReadDifference {
  readonly source: string
  readonly input: string
  readonly whole: string
  readonly projected: string
}

export interface ReadSweep {
  readonly policies: number
  readonly asked: number
  /** Policies of which the analysis left something out of an input. */
  readonly narrow: number
  readonly answers: number
  readonly differences: readonly ReadDifference[]
}

/** Evaluates drawn policies with the whole input and with what the analysis says they read. */
export async function sweepReads(seed: number, count: number, inputs: number): Promise<ReadSweep> {
  const chance = new Chance(seed)
  const { sources, instance, usage } = await drawPolicies(chance, count)
  const differences: ReadDifference[] = []
  const answers = new Set<string>()
  let [asked, narrow] = [0, 0]
  for (const [i, source] of sources.entries()) {
    const entry = instance.entrypoints.get(`p${i}/out`)!
    const read = (usage.entrypoints.get(entry) ?? readsEverything).input
    let left = false
    for (let k = 0; k < inputs; k++) {
      const input = drawInput(chance)
      const text = JSON.stringify(input)
      const part = JSON.stringify(projected(input, read))
      left ||= part !== text
      const [all, some] = [text, part].map((given) => answerOf(instance, entry, given))
      answers.add(`${i} ${all}`)
      asked++
      if (all !== some)
        differences.push({ source, input: text, whole: all!, projected: `${part}: ${some}` })
    }
    if (left) narrow++
  }
  return { policies: sources.length, asked, narrow, answers: answers.size, differences }
}

function answerOf(instance: PolicyInstance, entry: number, input: string): string {
  try {
    return instance.evaluate(entry, input)
  } catch (error) {
    return (error as Error).message
  }
}
