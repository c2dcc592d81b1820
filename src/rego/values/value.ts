/**
 * Rego values as builtins see them. Module and host exchange them as text that `opa_value_dump` writes and
 * `opa_value_parse` reads: JSON, extended by sets (`{1, 2}`, `set()`) and keys of any type. Nothing is lost: a number
 * keeps its digits, a set stays a set.
 */
import { compareDecimals, type Decimal, decimalKey, readDecimal } from './decimal.ts'
import { quoted } from './quote.ts'

export type Value = null | boolean | string | RegoNumber | readonly Value[] | RegoSet | RegoObject

/** A number as its digits, because a JavaScript number would round large or precise values. */
export class RegoNumber {
  readonly text: string
  #decimal: Decimal | undefined

  /** @param value Text of a JSON number, a safe integer, a finite double or a bigint. */
  constructor(value: string | number | bigint) {
    this.text = typeof value === 'string' ? value : doubleText(value)
  }

  get decimal(): Decimal {
    this.#decimal ??= readDecimal(this.text)
    return this.#decimal
  }

  get isInteger(): boolean {
    return this.decimal.exponent >= 0
  }
}

export class RegoSet {
  readonly #members = new Map<string, Value>()

  constructor(members: Iterable<Value> = []) {
    for (const member of members) this.add(member)
  }

  add(member: Value): void {
    const key = keyOf(member)
    if (!this.#members.has(key)) this.#members.set(key, member)
  }

  has(member: Value): boolean {
    return this.#members.has(keyOf(member))
  }

  get size(): number {
    return this.#members.size
  }

  /** Returns the members in Rego's order. */
  sorted(): Value[] {
    return [...this.#members.values()].sort(compare)
  }

  [Symbol.iterator](): IterableIterator<Value> {
    return this.#members.values()
  }
}

export class RegoObject {
  readonly #entries = new Map<string, readonly [Value, Value]>()

  constructor(entries: Iterable<readonly [Value, Value]> = []) {
    for (const [key, value] of entries) this.set(key, value)
  }

  get(key: Value): Value | undefined {
    return this.#entries.get(keyOf(key))?.[1]
  }

  set(key: Value, value: Value): void {
    this.#entries.set(keyOf(key), [key, value])
  }

  delete(key: Value): boolean {
    return this.#entries.delete(keyOf(key))
  }

  has(key: Value): boolean {
    return this.#entries.has(keyOf(key))
  }

  get size(): number {
    return this.#entries.size
  }

  /** Iterates in the order in which the keys were first added. */
  [Symbol.iterator](): IterableIterator<readonly [Value, Value]> {
    return this.#entries.values()
  }

  /** Returns the members in Rego's order of keys. */
  sorted(): (readonly [Value, Value])[] {
    return [...this.#entries.values()].sort(([a], [b]) => compare(a, b))
  }
}

function doubleText(value: number | bigint): string {
  // JavaScript writes 1e21 as "1e+21", which is also valid JSON.
  if (typeof value === 'number' && !Number.isFinite(value)) throw new RangeError('not a number')
  return String(value)
}

/** Returns a text that is the same for equal values and different for unequal ones. */
export function keyOf(value: Value): string {
  if (typeof value === 'string') return `"${value}`
  if (value instanceof RegoNumber) return decimalKey(value.decimal)
  if (value === null || typeof value === 'boolean') return String(value)
  if (isArray(value)) return `[${list(value.map(keyOf))}`
  if (value instanceof RegoSet) return `{${list([...value].map(keyOf).sort())}`
  return `:${list(Array.from(value, ([key, of]) => list([keyOf(key), keyOf(of)])).sort())}`
}

/** Puts the length before each text, so that two different lists never give the same result. */
function list(texts: readonly string[]): string {
  let out = ''
  for (const text of texts) out += `${text.length},${text}`
  return out
}

export function isArray(value: Value): value is readonly Value[] {
  return Array.isArray(value)
}

/** Returns Rego's name for the type of a value. */
export function typeName(value: Value): string {
  if (value === null) return 'null'
  if (typeof value === 'boolean') return 'boolean'
  if (typeof value === 'string') return 'string'
  if (value instanceof RegoNumber) return 'number'
  if (isArray(value)) return 'array'
  return value instanceof RegoSet ? 'set' : 'object'
}

const order = ['null', 'boolean', 'number', 'string', 'array', 'object', 'set']

/** Compares two values in Rego's total order: by type, then by value. */
export function compare(a: Value, b: Value): number {
  if (typeof a === 'string' && typeof b === 'string') return compareTexts(a, b)
  const byType = order.indexOf(typeName(a)) - order.indexOf(typeName(b))
  if (byType !== 0) return byType
  if (a instanceof RegoNumber) return compareDecimals(a.decimal, (b as RegoNumber).decimal)
  if (typeof a === 'boolean') return Number(a) - Number(b as boolean)
  if (a === null) return 0
  if (isArray(a as Value)) return compareLists(a as readonly Value[], b as readonly Value[])
  if (a instanceof RegoSet) return compareLists(a.sorted(), (b as RegoSet).sorted())
  const [left, right] = [(a as RegoObject).sorted(), (b as RegoObject).sorted()]
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const by = compare(left[i]![0], right[i]![0]) || compare(left[i]![1], right[i]![1])
    if (by !== 0) return by
  }
  return left.length - right.length
}

function compareLists(a: readonly Value[], b: readonly Value[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    const by = compare(a[i]!, b[i]!)
    if (by !== 0) return by
  }
  return a.length - b.length
}

/** Compares by code point, which is the order of the UTF-8 bytes. The order of UTF-16 units differs above U+D7FF. */
export function compareTexts(a: string, b: string): number {
  if (a === b) return 0
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    const [x, y] = [a.charCodeAt(i), b.charCodeAt(i)]
    if (x === y) continue
    const [xHigh, yHigh] = [x >= 0xd800 && x <= 0xdfff, y >= 0xd800 && y <= 0xdfff]
    return xHigh === yHigh ? x - y : xHigh ? 1 : -1
  }
  return a.length - b.length
}

/** @param text Text written by `opa_value_dump`. @throws SyntaxError */
export function parseTerm(text: string): Value {
  const reader = new TermReader(text)
  const value = reader.value()
  reader.end()
  return value
}

/** Most nested levels of arrays, objects and sets; deeper values would exhaust the stack. */
const maxDepth = 1000

class TermReader {
  readonly #text: string
  #at = 0
  #depth = 0

  constructor(text: string) {
    this.#text = text
  }

  value(): Value {
    this.#space()
    if (++this.#depth > maxDepth) throw new SyntaxError(`deeper than ${maxDepth} levels`)
    const value = this.#any()
    this.#depth--
    return value
  }

  #any(): Value {
    switch (this.#text[this.#at]) {
      case '"':
        return this.#string()
      case '[':
        return this.#array()
      case '{':
        return this.#objectOrSet()
      case 't':
        return this.#word('true', true)
      case 'f':
        return this.#word('false', false)
      case 'n':
        return this.#word('null', null)
      case 's':
        return this.#word('set()', new RegoSet())
      default:
        return this.#number()
    }
  }

  end(): void {
    this.#space()
    if (this.#at !== this.#text.length) throw this.#unexpected()
  }

  #space(): void {
    while (this.#at < this.#text.length && this.#text.charCodeAt(this.#at) <= 0x20) this.#at++
  }

  /** Steps over `char` if it is the next character. */
  #take(char: string): boolean {
    this.#space()
    if (this.#text[this.#at] !== char) return false
    this.#at++
    return true
  }

  #expect(char: string): void {
    if (!this.#take(char)) throw this.#unexpected()
  }

  #word<T>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) throw this.#unexpected()
    this.#at += word.length
    return value
  }

  #string(): string {
    const from = this.#at
    let at = from
    let end: number
    do {
      end = this.#text.indexOf('"', at + 1)
      if (end === -1) throw this.#unexpected()
      at = end
    } while (escaped(this.#text, end))
    this.#at = end + 1
    const inner = this.#text.slice(from + 1, end)
    return inner.includes('\\') ? (JSON.parse(`"${inner}"`) as string) : inner
  }

  #number(): RegoNumber {
    const from = this.#at
    while ('+-.0123456789eE'.includes(this.#text[this.#at] || ' ')) this.#at++
    if (from === this.#at) throw this.#unexpected()
    return new RegoNumber(this.#text.slice(from, this.#at))
  }

  #array(): Value[] {
    this.#at++
    const items: Value[] = []
    if (this.#take(']')) return items
    do items.push(this.value())
    while (this.#take(','))
    this.#expect(']')
    return items
  }

  #objectOrSet(): RegoObject | RegoSet {
    this.#at++
    const object = new RegoObject()
    if (this.#take('}')) return object
    const first = this.value()
    if (!this.#take(':')) return this.#set(first)
    object.set(first, this.value())
    while (this.#take(',')) {
      const key = this.value()
      this.#expect(':')
      object.set(key, this.value())
    }
    this.#expect('}')
    return object
  }

  #set(first: Value): RegoSet {
    const set = new RegoSet([first])
    while (this.#take(',')) set.add(this.value())
    this.#expect('}')
    return set
  }

  #unexpected(): SyntaxError {
    return new SyntaxError(`the text of a term is malformed at position ${this.#at}`)
  }
}

/** Returns true if an odd number of backslashes stands before `at`. */
function escaped(text: string, at: number): boolean {
  let from = at
  while (text[from - 1] === '\\') from--
  return (at - from) % 2 === 1
}

/** Returns the text of a value for `opa_value_parse`. */
export function printTerm(value: Value): string {
  if (typeof value === 'string') return quote(value)
  if (value === null || typeof value === 'boolean') return String(value)
  if (value instanceof RegoNumber) return value.text
  if (isArray(value)) return `[${value.map(printTerm).join(',')}]`
  if (value instanceof RegoSet) {
    return value.size === 0 ? 'set()' : `{${[...value].map(printTerm).join(',')}}`
  }
  return `{${Array.from(value, ([key, of]) => `${printTerm(key)}:${printTerm(of)}`).join(',')}}`
}

/** Quotes a text without lone surrogates: one would abort the module. */
function quote(text: string): string {
  return JSON.stringify(text.toWellFormed())
}

/** Returns the text that OPA shows for a term: `{"a": [1, 2]}`, with members in Rego's order. */
export function describe(value: Value): string {
  if (value instanceof RegoSet) {
    return value.size === 0 ? 'set()' : `{${value.sorted().map(describe).join(', ')}}`
  }
  if (value instanceof RegoObject) {
    return `{${value
      .sorted()
      .map(([key, of]) => `${describe(key)}: ${describe(of)}`)
      .join(', ')}}`
  }
  if (isArray(value)) return `[${value.map(describe).join(', ')}]`
  return typeof value === 'string' ? quoted(value) : printTerm(value)
}

/** Returns the JSON that OPA makes of a value: sets become sorted arrays, keys become texts. */
export function toJson(value: Value, quoteText = quote): string {
  const inner = (each: Value): string => toJson(each, quoteText)
  if (typeof value === 'string') return quoteText(value)
  if (isArray(value)) return `[${value.map(inner).join(',')}]`
  if (value instanceof RegoSet) return `[${value.sorted().map(inner).join(',')}]`
  if (!(value instanceof RegoObject)) return printTerm(value)
  const members = value.sorted().map(([key, of]) => [jsonKey(key), inner(of)] as const)
  members.sort(([a], [b]) => compareTexts(a, b))
  // Two keys may have one text, 1 and "1": the last one counts, in Rego's order, where texts come last.
  const last = members.filter(([key], i) => key !== members[i + 1]?.[0])
  return `{${last.map(([key, of]) => `${quoteText(key)}:${of}`).join(',')}}`
}

/** Returns the text of a key in JSON, where keys must be strings. Go writes it as JSON for HTML. */
export function jsonKey(key: Value): string {
  return typeof key === 'string' ? key : escapeMarkup(toJson(key))
}

/** Escapes the characters that HTML would treat as markup. In JSON text they occur only inside strings. */
export function escapeMarkup(json: string): string {
  return json.replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** @param text Text of a JSON value. @throws SyntaxError */
export function fromJson(text: string): Value {
  // JSON.parse decides whether the text is JSON. Our reader would also accept sets, but keeps all digits.
  JSON.parse(text)
  return parseTerm(text)
}
