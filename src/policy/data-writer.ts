/**
 * Writes JSON text as OPA values into the memory of a module. The text is hostile: anything that is not JSON in valid
 * UTF-8 is refused, and nesting has a limit, since evaluations walk values by recursion.
 */
import { isUtf8 } from 'node:buffer'
import { GateError } from '../errors.ts'
import {
  bucketsFor,
  type DataMemory,
  hashFactor,
  hashOf,
  hashStart,
  numberForm,
  size,
  valueType,
} from './data-memory.ts'

/** Most objects and lists inside each other. */
export const maxDataDepth = 1000

/** Strings up to this many bytes are looked for among those written before. */
const maxSharedBytes = 64
const sharedSlots = 1 << 16

export class DataWriter {
  readonly #memory: DataMemory
  readonly #text: Uint8Array
  #at = 0
  /** Values that are waiting for the end of their list; names, hashes and values that wait for the end of their object. */
  readonly #items: number[] = []
  /** For each open list or object: its first item, and whether it is an object. */
  readonly #opened: number[] = []
  readonly #isObject: boolean[] = []
  /** Addresses of strings and numbers, by hash; a slot holds the last one. */
  readonly #strings: Uint32Array
  readonly #numbers: Uint32Array
  /** Numbers that lists have as their indexes. */
  readonly #indexes: number[] = []
  #true = 0
  #false = 0
  #null = 0

  /** @throws GateError ERR_BUNDLE_READ when the text is not UTF-8 */
  constructor(memory: DataMemory, text: Uint8Array) {
    this.#memory = memory
    this.#text = text
    if (!isUtf8(text)) throw notJson('it is not UTF-8')
    const slots = text.length < 4096 ? 64 : sharedSlots
    this.#strings = new Uint32Array(slots)
    this.#numbers = new Uint32Array(slots)
  }

  /** How much of the text is written, in bytes. */
  get at(): number {
    return this.#at
  }

  /** @returns the address of the value. @throws GateError ERR_BUNDLE_READ; what the module throws without memory */
  write(): number {
    const value = this.#value()
    if (this.#next() !== -1) throw this.#wrong()
    return value
  }

  #value(): number {
    const items = this.#items
    for (;;) {
      const code = this.#next()
      let value: number
      if (code === 0x7b || code === 0x5b) {
        this.#open(code === 0x7b)
        if (this.#next() !== code + 2) {
          if (code === 0x7b) this.#name()
          continue
        }
        this.#at++
        value = this.#close()
      } else value = this.#scalar(code)
      // A value is complete: it goes where it belongs, and what ends here is closed.
      for (;;) {
        if (this.#opened.length === 0) return value
        items.push(value)
        const isObject = this.#isObject.at(-1)!
        const after = this.#next()
        this.#at++
        if (after === 0x2c) {
          if (isObject) this.#name()
          break
        }
        if (after !== (isObject ? 0x7d : 0x5d)) throw this.#wrong(this.#at - 1)
        value = this.#close()
      }
    }
  }

  #open(isObject: boolean): void {
    if (this.#opened.length === maxDataDepth)
      throw new GateError('ERR_BUNDLE_LIMITS', `data is nested more than ${maxDataDepth} deep`)
    this.#opened.push(this.#items.length)
    this.#isObject.push(isObject)
    this.#at++
  }

  #close(): number {
    const from = this.#opened.pop()!
    const value = this.#isObject.pop() === true ? this.#object(from) : this.#list(from)
    this.#items.length = from
    return value
  }

  /** The name of a member, and the colon after it. */
  #name(): void {
    if (this.#next() !== 0x22) throw this.#wrong()
    const name = this.#string()
    const { words, bytes } = this.#memory
    const [length, at] = [words[(name + 4) >>> 2]!, words[(name + 8) >>> 2]!]
    this.#items.push(name, hashOf(bytes, at, at + length))
    if (this.#next() !== 0x3a) throw this.#wrong()
    this.#at++
  }

  /** Next character that is not white space, -1 at the end. */
  #next(): number {
    const text = this.#text
    for (let at = this.#at; at < text.length; at++) {
      const code = text[at]!
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) {
        this.#at = at
        return code
      }
    }
    this.#at = text.length
    return -1
  }

  #scalar(code: number): number {
    switch (code) {
      case 0x22:
        return this.#string()
      case 0x74:
        this.#word('true')
        this.#true ||= this.#plain(valueType.boolean, 1)
        return this.#true
      case 0x66:
        this.#word('false')
        this.#false ||= this.#plain(valueType.boolean, 0)
        return this.#false
      case 0x6e:
        this.#word('null')
        this.#null ||= this.#plain(valueType.null, 0)
        return this.#null
      default:
        return this.#number()
    }
  }

  #word(word: string): void {
    for (let i = 0; i < word.length; i++)
      if (this.#text[this.#at + i] !== word.charCodeAt(i)) throw this.#wrong()
    this.#at += word.length
  }

  #plain(type: number, content: number): number {
    const at = this.#memory.allocate(size.boolean)
    this.#memory.words[at >>> 2] = type | (content << 8)
    return at
  }

  #string(): number {
    const text = this.#text
    const from = this.#at + 1
    let hash = hashStart
    for (let at = from; at < text.length; at++) {
      const code = text[at]!
      if (code === 0x22) {
        this.#at = at + 1
        return this.#sharedString(text, from, at, hash)
      }
      if (code === 0x5c) return this.#escapedString(from)
      if (code < 0x20) throw this.#wrong(at)
      hash = Math.imul(hash, hashFactor) ^ code
    }
    throw this.#wrong(text.length)
  }

  #escapedString(from: number): number {
    const text = this.#text
    let at = from
    while (at < text.length && text[at] !== 0x22) at += text[at] === 0x5c ? 2 : 1
    if (at >= text.length) throw this.#wrong(at)
    let plain: string
    try {
      plain = JSON.parse(Buffer.from(text.subarray(from - 1, at + 1)).toString('utf8')) as string
    } catch {
      throw this.#wrong(from)
    }
    this.#at = at + 1
    // Half of a surrogate pair becomes U+FFFD, as in OPA.
    const bytes = Buffer.from(plain)
    return this.#sharedString(bytes, 0, bytes.length, hashOf(bytes, 0, bytes.length))
  }

  /** The same string as one that was written before, or a new one. */
  #sharedString(text: Uint8Array, from: number, to: number, hash: number): number {
    const memory = this.#memory
    const slot = (hash ^ (hash >>> 16)) & (this.#strings.length - 1)
    const before = this.#strings[slot]!
    if (before !== 0 && memory.holds(before, text, from, to)) return before
    const at = memory.allocate(size.string + to - from)
    const { words } = memory
    words[at >>> 2] = valueType.string
    words[(at + 4) >>> 2] = to - from
    words[(at + 8) >>> 2] = at + size.string
    memory.copy(text, from, to, at + size.string)
    if (to - from <= maxSharedBytes) this.#strings[slot] = at
    return at
  }

  #number(): number {
    const text = this.#text
    const from = this.#at
    const to = endOfNumber(text, from)
    if (to === -1) throw this.#wrong()
    this.#at = to
    const memory = this.#memory
    const hash = hashOf(text, from, to)
    const slot = (hash ^ (hash >>> 16)) & (this.#numbers.length - 1)
    const before = this.#numbers[slot]!
    if (before !== 0 && memory.holdsDigits(before, text, from, to)) return before
    const at = memory.allocate(size.number + to - from)
    const { words } = memory
    words[at >>> 2] = valueType.number | (numberForm.digits << 8)
    words[(at + 4) >>> 2] = 0
    words[(at + 8) >>> 2] = at + size.number
    words[(at + 12) >>> 2] = to - from
    words[(at + 16) >>> 2] = 0
    words[(at + 20) >>> 2] = 0
    memory.copy(text, from, to, at + size.number)
    this.#numbers[slot] = at
    return at
  }

  #list(from: number): number {
    const items = this.#items
    const length = items.length - from
    while (this.#indexes.length < length)
      this.#indexes.push(writeIndex(this.#memory, this.#indexes.length))
    const at = this.#memory.allocate(size.array + 8 * length)
    const { words } = this.#memory
    words[at >>> 2] = valueType.array
    words[(at + 4) >>> 2] = length === 0 ? 0 : at + size.array
    words[(at + 8) >>> 2] = length
    words[(at + 12) >>> 2] = length
    for (let i = 0, to = (at + size.array) >>> 2; i < length; i++) {
      words[to++] = this.#indexes[i]!
      words[to++] = items[from + i]!
    }
    return at
  }

  #object(from: number): number {
    const items = this.#items
    const memory = this.#memory
    const count = (items.length - from) / 3
    const buckets = bucketsFor(count)
    const at = memory.allocate(size.object + 4 * buckets + size.member * count)
    const { words } = memory
    const table = at + size.object
    words[at >>> 2] = valueType.object
    words[(at + 4) >>> 2] = table
    words[(at + 8) >>> 2] = buckets
    words.fill(0, table >>> 2, (table >>> 2) + buckets)
    let free = table + 4 * buckets
    let length = 0
    for (let i = from; i < items.length; i += 3) {
      const [name, hash, value] = [items[i]!, items[i + 1]!, items[i + 2]!]
      const bucket = table + 4 * (hash % buckets)
      const found = memory.findIn(bucket, name)
      if (found !== 0) {
        // The last of two members with the same name counts, as in OPA.
        words[(found + 4) >>> 2] = value
        continue
      }
      memory.link(bucket, free, name, value)
      free += size.member
      length++
    }
    words[(at + 12) >>> 2] = length
    return at
  }

  #wrong(at = this.#at): GateError {
    return notJson(at >= this.#text.length ? 'it ends too early' : `see byte ${at}`)
  }
}

/** A whole number as the module writes the indexes of lists. @returns its address */
export function writeIndex(memory: DataMemory, index: number): number {
  const at = memory.allocate(size.number)
  const { words } = memory
  words.fill(0, at >>> 2, (at + size.number) >>> 2)
  words[at >>> 2] = valueType.number | (numberForm.integer << 8)
  words[(at + 8) >>> 2] = index
  return at
}

function isDigit(code: number | undefined): boolean {
  return code !== undefined && code >= 0x30 && code <= 0x39
}

/** Index after the number that begins at `from`, -1 when none does. */
function endOfNumber(text: Uint8Array, from: number): number {
  let at = from
  if (text[at] === 0x2d) at++
  if (!isDigit(text[at])) return -1
  if (text[at] === 0x30) at++
  else while (isDigit(text[at])) at++
  if (text[at] === 0x2e) {
    if (!isDigit(text[++at])) return -1
    while (isDigit(text[at])) at++
  }
  if (text[at] === 0x65 || text[at] === 0x45) {
    at++
    if (text[at] === 0x2b || text[at] === 0x2d) at++
    if (!isDigit(text[at])) return -1
    while (isDigit(text[at])) at++
  }
  return at
}

function notJson(why: string): GateError {
  return new GateError('ERR_BUNDLE_READ', `the data is not JSON: ${why}`)
}
