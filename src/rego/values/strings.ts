/**
 * The text functions (`strings.*` and others) that OPA does not compile into the module, and `replace` and `indexof`, which
 * replace those that are compiled into it, see policy/module.ts.
 */

import type { BuiltinTable } from '../builtin.ts'
import { bytesOf, latin, textOf } from './bytes.ts'
import { type Args, BuiltinError, count as counted, refuseWork, text, texts } from './operand.ts'
import { RegoNumber, typeName, type Value } from './value.ts'

const maxProduct = 1 << 30
/** Most characters that one `replace` may insert. */
const maxReplaced = 1 << 26

/** Returns a text as a list of one, or the members of an array or set of texts. */
function oneOrMany(args: Args, at: number): readonly string[] {
  const value = args[at]!
  if (typeof value === 'string') return [value]
  if (typeName(value) !== 'array' && typeName(value) !== 'set') {
    throw new BuiltinError(`operand ${at + 1} must be one of {string, set, array}`)
  }
  return texts(args, at)
}

/**
 * Sorts both lists, so that the cost depends on the sum of their lengths, not on the product: in sorted order, a text
 * stands next to its prefixes.
 */
function anyPrefix(values: readonly string[], prefixes: readonly string[]): boolean {
  const sorted = [...values].sort()
  return prefixes.some((prefix) => {
    let [from, to] = [0, sorted.length]
    while (from < to) {
      const middle = (from + to) >>> 1
      if (sorted[middle]! < prefix) from = middle + 1
      else to = middle
    }
    return sorted[from]?.startsWith(prefix) === true
  })
}

function reversed(values: readonly string[]): string[] {
  return values.map((value) => [...value].reverse().join(''))
}

/**
 * Returns the text to search in and the text to search for. If they match almost everywhere, a search costs the
 * product of their lengths, so that is limited.
 */
function searched(args: Args): [base: string, search: string] {
  const [base, search] = [text(args, 0), text(args, 1)]
  if (base.length * search.length > maxProduct) refuseWork('the texts of a search are too long')
  return [base, search]
}

/** Returns the positions of the first matches, `most` of them, in code points; matches may overlap. */
function indexes(args: Args, most: number): RegoNumber[] {
  const [base, search] = searched(args)
  if (search === '') throw new BuiltinError('empty search character')
  const found: RegoNumber[] = []
  let [at, points] = [0, 0]
  for (let i = base.indexOf(search); i !== -1; i = base.indexOf(search, i + 1)) {
    for (; at < i; points++) at += base.codePointAt(at)! > 0xffff ? 2 : 1
    // A match that starts inside a surrogate pair is not at a code point.
    if (at === i && found.push(new RegoNumber(points)) === most) break
  }
  return found
}

function count(args: Args): Value {
  const [base, search] = searched(args)
  if (search === '') return new RegoNumber([...base].length + 1)
  let n = 0
  for (let i = base.indexOf(search); i !== -1; i = base.indexOf(search, i + search.length)) n++
  return new RegoNumber(n)
}

/**
 * Replaces like Go's `strings.Replacer`, which OPA uses. An empty pattern matches before every byte (not character) and
 * at the end.
 */
function replace(args: Args): Value {
  const [base, search] = searched(args)
  const by = text(args, 2)
  // A pattern of whole characters matches between characters only. An empty pattern, or one with bytes that are not
  // UTF-8, also matches within a character.
  const byLetters = search !== '' && search.isWellFormed()
  const [where, what, put] = byLetters ? [base, search, by] : [base, search, by].map(latin)
  const parts = what === '' ? ['', ...where!, ''] : where!.split(what!)
  if ((parts.length - 1) * put!.length > maxReplaced) refuseWork('a replacement of this length')
  const replaced = parts.join(put)
  if (!byLetters) return textOf(Buffer.from(replaced, 'latin1'))
  // After a replacement, adjacent bytes may form a character: decode them again.
  return replaced.isWellFormed() ? replaced : textOf(bytesOf(replaced))
}

/** Returns the first `n` parts, or the last ones if `n` is negative. */
function splitN(args: Args): Value {
  const [base, separator, n] = [text(args, 0), text(args, 1), counted(args, 2)]
  const parts = separator === '' ? [...base] : base.split(separator)
  return n >= 0 ? parts.slice(0, n) : parts.slice(Math.max(parts.length + n, 0))
}

export const stringBuiltins: BuiltinTable = {
  'strings.any_prefix_match': {
    call: (args) => anyPrefix(oneOrMany(args, 0), oneOrMany(args, 1)),
  },
  'strings.any_suffix_match': {
    call: (args) => anyPrefix(reversed(oneOrMany(args, 0)), reversed(oneOrMany(args, 1))),
  },
  'strings.count': { call: count },
  'strings.split_n': { call: splitN },
  indexof: { call: (args) => indexes(args, 1)[0] ?? new RegoNumber(-1) },
  indexof_n: { call: (args) => indexes(args, Number.POSITIVE_INFINITY) },
  replace: { call: replace },
}
