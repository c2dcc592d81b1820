/**
 * `glob.match`, with the syntax of the library that OPA uses (gobwas/glob): `*` and `?` do not match a delimiter, `**`
 * does; `[abc]`, `[a-z]`, `[!a]`, `{a,b}` and `\`. A glob becomes a pattern of RE2 (regex.ts).
 */
import { RE2JS } from 're2js'
import type { BuiltinTable } from '../builtin.ts'
import { type Args, BuiltinError, text, texts } from '../values/operand.ts'
import { isArray, type Value } from '../values/value.ts'
import { matches } from './regex.ts'

class GlobReader {
  readonly #letters: readonly string[]
  /** A class of characters without the delimiters. */
  readonly #single: string
  #at = 0
  #open = 0

  constructor(glob: string, delimiters: readonly string[]) {
    this.#letters = [...glob]
    this.#single = delimiters.length === 0 ? '.' : `[^${delimiters.map(inClass).join('')}]`
  }

  /** @throws BuiltinError */
  pattern(): string {
    let out = ''
    while (this.#at < this.#letters.length) out += this.#item()
    if (this.#open > 0) throw new BuiltinError('glob: unexpected end of input')
    return `(?s)^(?:${out})$`
  }

  #item(): string {
    if (this.#take('*')) return this.#take('*') ? '.*' : `${this.#single}*`
    if (this.#take('?')) return this.#single
    if (this.#take('[')) return this.#class()
    if (this.#take('{')) {
      this.#open++
      return '(?:'
    }
    if (this.#open === 0) return RE2JS.quote(this.#text('*?[{'))
    if (this.#take(',')) return '|'
    if (!this.#take('}')) return RE2JS.quote(this.#text('*?[{},'))
    this.#open--
    return ')'
  }

  /** Steps over `letter` if it is the next one. */
  #take(letter: string): boolean {
    if (this.#letters[this.#at] !== letter) return false
    this.#at++
    return true
  }

  /** Text up to one of `ends`. */
  #text(ends: string): string {
    let out = ''
    for (
      ;
      this.#at < this.#letters.length && !ends.includes(this.#letters[this.#at]!);
      this.#at++
    ) {
      if (this.#letters[this.#at] === '\\') this.#at++
      const letter = this.#letters[this.#at]
      if (letter === undefined) throw new BuiltinError('glob: nothing is escaped')
      out += letter
    }
    return out
  }

  #class(): string {
    const not = this.#take('!') ? '^' : ''
    const [from, between, to] = this.#letters.slice(this.#at)
    let inner: string
    if (between === '-' && to !== undefined) {
      if (to < from!) throw new BuiltinError('glob: the range ends before it begins')
      inner = `${inClass(from!)}-${inClass(to)}`
      this.#at += 3
    } else inner = [...this.#text(']')].map(inClass).join('')
    if (inner === '' || !this.#take(']')) throw new BuiltinError('glob: the range does not end')
    return `[${not}${inner}]`
  }
}

function inClass(letter: string): string {
  return `\\x{${letter.codePointAt(0)!.toString(16)}}`
}

/** No delimiters at all for null, a dot for an empty list. */
function delimitersOf(value: Value, args: Args): readonly string[] {
  if (value === null) return []
  if (!isArray(value)) throw new BuiltinError('operand 2 must be one of {array, null}')
  const all = texts(args, 1)
  if (!all.every((each) => [...each].length === 1))
    throw new BuiltinError('operand 2 must be an array of single characters')
  return all.length === 0 ? ['.'] : all
}

function match(args: Args): Value {
  const [glob, subject] = [text(args, 0), text(args, 2)]
  if (!glob.isWellFormed()) throw new BuiltinError('glob: invalid UTF-8')
  return matches(new GlobReader(glob, delimitersOf(args[1]!, args)).pattern(), subject)
}

export const globBuiltins: BuiltinTable = { 'glob.match': { call: match } }
