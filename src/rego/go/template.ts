/**
 * `strings.render_template`: Go's `text/template` on an object, with the syntax that template-read.ts supports. A
 * number of the object is treated as a text, as in OPA: it is never zero and never equals a number of the template.
 */

import type { BuiltinTable } from '../builtin.ts'
import { array, BuiltinError, object, refuseWork, text } from '../values/operand.ts'
import {
  compareTexts,
  isArray,
  jsonKey,
  RegoNumber,
  RegoObject,
  RegoSet,
  type Value,
} from '../values/value.ts'
import { formatText } from './sprintf.ts'
import { type Node, type Operand, type Pipeline, readTemplate, type Term } from './template-read.ts'

/**
 * A value of the object or the template: undefined if it is missing, a JavaScript number if it was written in the
 * template.
 */
type Data = Value | number | undefined

const maxOutput = 1 << 22
const maxSteps = 100_000

class Rendering {
  #out = ''
  #steps = 0
  readonly #variables: [name: string, value: Data][]

  constructor(root: Value) {
    this.#variables = [['$', root]]
  }

  render(nodes: readonly Node[], dot: Data): string {
    this.#nodes(nodes, dot)
    // Replace Go's mark for a missing value by that of OPA.
    return this.#out.replaceAll('<no value>', '<undefined>')
  }

  #step(): void {
    if (++this.#steps > maxSteps || this.#out.length > maxOutput) {
      refuseWork('strings.render_template needs too many steps or writes too much')
    }
  }

  #nodes(nodes: readonly Node[], dot: Data): void {
    for (const node of nodes) {
      this.#step()
      if (node.kind === 'text') this.#out += node.value
      else if (node.kind === 'print') {
        const value = this.#pipeline(node.pipeline, dot)
        if (node.pipeline.declared.length === 0) this.#out += printed(value)
      } else {
        const mark = this.#variables.length
        this.#block(node, dot)
        this.#variables.length = mark
      }
    }
  }

  #block(node: Exclude<Node, { kind: 'text' | 'print' }>, dot: Data): void {
    if (node.kind === 'range') {
      this.#range(node, dot)
      return
    }
    const value = this.#pipeline(node.pipeline, dot)
    if (!isTrue(value)) this.#nodes(node.otherwise, dot)
    else this.#nodes(node.body, node.kind === 'with' ? value : dot)
  }

  #range(
    { pipeline, body, otherwise }: Extract<Node, { kind: 'range' | 'if' | 'with' }>,
    dot: Data,
  ): void {
    const over = this.#pipeline({ ...pipeline, declared: [] }, dot)
    const items = entries(over)
    if (items.length === 0) this.#nodes(otherwise, dot)
    for (const [key, value] of items) {
      const mark = this.#variables.length
      const [first, second] = pipeline.declared
      if (second !== undefined) this.#variables.push([first!, key], [second, value])
      else if (first !== undefined) this.#variables.push([first, value])
      this.#nodes(body, value)
      this.#variables.length = mark
    }
  }

  #pipeline({ declared, assigns, commands }: Pipeline, dot: Data): Data {
    let value: Data
    for (const [i, command] of commands.entries()) {
      value = this.#command(command, dot, i === 0 ? [] : [value])
    }
    const [name] = declared
    if (name !== undefined && !assigns) this.#variables.push([name, value])
    if (name !== undefined && assigns) {
      const variable = this.#variables.findLast(([known]) => known === name)
      if (variable === undefined) throw new BuiltinError(`undefined variable ${name}`)
      variable[1] = value
    }
    return value
  }

  /** @param piped Result of the previous command of the pipeline. */
  #command(operands: readonly Operand[], dot: Data, piped: readonly Data[]): Data {
    this.#step()
    const [first, ...rest] = operands as [Operand, ...Operand[]]
    if (first.term.kind === 'function') {
      const { name } = first.term
      const values = (): Data[] => [...rest.map((operand) => this.#operand(operand, dot)), ...piped]
      return name === 'and' || name === 'or'
        ? firstThatDecides(name, values())
        : call(name, values())
    }
    if (rest.length > 0 || piped.length > 0) throw new BuiltinError('not a function')
    return this.#operand(first, dot)
  }

  #operand({ term, fields }: Operand, dot: Data): Data {
    return fields.reduce<Data>(field, this.#term(term, dot))
  }

  #term(term: Term, dot: Data): Data {
    switch (term.kind) {
      case 'dot':
        return dot
      case 'text':
      case 'literal':
        return term.value
      case 'variable': {
        const variable = this.#variables.findLast(([name]) => name === term.name)
        if (variable === undefined) throw new BuiltinError(`undefined variable ${term.name}`)
        return variable[1]
      }
      case 'group':
        return this.#pipeline(term.pipeline, dot)
      case 'function':
        return call(term.name, [])
    }
  }
}

function field(value: Data, name: string): Data {
  if (!(value instanceof RegoObject)) throw new BuiltinError(`can't evaluate field ${name}`)
  return value.get(name)
}

function entries(value: Data): (readonly [Data, Data])[] {
  if (value === undefined || value === null) return []
  if (value instanceof RegoObject) {
    return Array.from(value, ([key, of]) => [jsonKey(key), of] as const).sort(([a], [b]) =>
      compareTexts(a, b),
    )
  }
  if (typeof value === 'number') {
    return Array.from({ length: Math.min(value, maxSteps) }, (_, i) => [i, i] as const)
  }
  const items = value instanceof RegoSet ? value.sorted() : value
  if (typeof items !== 'object' || !isArray(items)) throw new BuiltinError('range over no list')
  return items.map((item, i) => [i, item] as const)
}

function isTrue(value: Data): boolean {
  if (value === undefined || value === null || value === false || value === '' || value === 0)
    return false
  if (value instanceof RegoObject || value instanceof RegoSet) return value.size > 0
  return typeof value !== 'object' || !isArray(value) || value.length > 0
}

/** Returns the text that Go's `fmt` prints for a value. */
function printed(value: Data): string {
  if (value === undefined || value === null) return '<no value>'
  if (value instanceof RegoNumber) return value.text
  if (value instanceof RegoObject) {
    const members = entries(value).map(([key, of]) => `${printed(key)}:${inner(of)}`)
    return `map[${members.join(' ')}]`
  }
  if (value instanceof RegoSet) return printed(value.sorted())
  if (typeof value === 'object' && isArray(value)) return `[${value.map(inner).join(' ')}]`
  return String(value)
}

function inner(value: Data): string {
  return value === null || value === undefined ? '<nil>' : printed(value)
}

function firstThatDecides(name: 'and' | 'or', values: readonly Data[]): Data {
  if (values.length === 0) throw new BuiltinError(`wrong number of args for ${name}`)
  return values.find((value) => isTrue(value) === (name === 'or')) ?? values.at(-1)
}

function call(name: string, args: readonly Data[]): Data {
  const needed = ['not', 'len'].includes(name)
    ? 1
    : ['eq', 'ne', 'lt', 'le', 'gt', 'ge'].includes(name)
      ? 2
      : 0
  if (args.length < needed || (needed > 0 && name !== 'eq' && args.length > needed)) {
    throw new BuiltinError(`wrong number of args for ${name}`)
  }
  switch (name) {
    case 'not':
      return !isTrue(args[0])
    case 'len':
      return lengthOf(args[0])
    case 'index':
      return args.slice(1).reduce<Data>(at, args[0])
    case 'print':
    case 'println':
      return joined(args, name === 'println')
    case 'printf': {
      const [format, ...values] = args
      return formatText(text([format as Value], 0), array([values.map(forPrintf)], 0))
    }
    case 'eq':
      return args.slice(1).some((other) => order(args[0], other, true) === 0)
    case 'ne':
      return order(args[0], args[1], true) !== 0
    case 'lt':
      return order(args[0], args[1], false) < 0
    case 'le':
      return order(args[0], args[1], false) <= 0
    case 'gt':
      return order(args[0], args[1], false) > 0
    default:
      return order(args[0], args[1], false) >= 0
  }
}

function lengthOf(value: Data): number {
  if (typeof value === 'string') return Buffer.byteLength(value)
  if (value instanceof RegoNumber) return value.text.length
  if (value instanceof RegoObject || value instanceof RegoSet) return value.size
  if (typeof value === 'object' && value !== null && isArray(value)) return value.length
  throw new BuiltinError('len of no list')
}

function at(value: Data, key: Data): Data {
  if (value instanceof RegoObject) return typeof key === 'string' ? value.get(key) : undefined
  const items = value instanceof RegoSet ? value.sorted() : value
  const isList = typeof items === 'object' && items !== null && isArray(items)
  if (!isList || typeof key !== 'number' || items[key] === undefined) {
    throw new BuiltinError('index out of range')
  }
  return items[key]
}

/**
 * Joins arguments with spaces: between all of them (println), or only between two arguments that are not texts
 * (print).
 */
function joined(args: readonly Data[], lines: boolean): string {
  let out = ''
  for (const [i, value] of args.entries()) {
    const apart = lines || (typeof value !== 'string' && typeof args[i - 1] !== 'string')
    out += (i > 0 && apart ? ' ' : '') + inner(value)
  }
  return lines ? `${out}\n` : out
}

function forPrintf(value: Data): Value {
  if (typeof value === 'number') return new RegoNumber(value)
  // Go's printf gets a number of the object as a text.
  return value instanceof RegoNumber ? value.text : (value ?? null)
}

/** @param equality True for equality tests: they accept booleans, which have no order. */
function order(a: Data, b: Data, equality: boolean): number {
  const [x, y] = [a, b].map((value) => (value instanceof RegoNumber ? value.text : value))
  if (typeof x === 'string' && typeof y === 'string') return compareTexts(x, y)
  if (typeof x === 'number' && typeof y === 'number') return x - y
  if (equality && typeof x === 'boolean' && typeof y === 'boolean') return x === y ? 0 : 1
  throw new BuiltinError('incompatible types for comparison')
}

/** Go's templates get JSON: no sets, and texts as keys. OPA reads it with its reader of YAML, which takes no controls. */
function isJson(value: Value): boolean {
  if (typeof value === 'string') return !/[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]/.test(value)
  if (value instanceof RegoSet) return false
  if (!(value instanceof RegoObject)) return !isArray(value) || value.every(isJson)
  return Array.from(value).every(
    ([key, of]) => typeof key === 'string' && isJson(key) && isJson(of),
  )
}

export const templateBuiltins: BuiltinTable = {
  'strings.render_template': {
    call: (args) => {
      const variables = object(args, 1)
      if (!isJson(variables)) throw new BuiltinError('the variables are not JSON')
      return new Rendering(variables).render(readTemplate(text(args, 0)), variables)
    },
  },
}
