/**
 * Functions on texts that OPA compiles into the module, whose own answers are wrong for texts that are not ASCII
 * (policy/natives.ts). As in Go: a byte that is not UTF-8 is a character by itself, and becomes U+FFFD where Go makes text
 * of characters.
 */
import type { BuiltinTable } from '../builtin.ts'
import { latin, textOf } from './bytes.ts'
import {
  type Args,
  array,
  BuiltinError,
  count,
  members,
  object,
  refuseWork,
  text,
} from './operand.ts'
import { describe, RegoNumber, RegoSet, type Value } from './value.ts'

const maxLength = 1 << 26
/** Most characters times patterns of one `strings.replace_n`. */
const maxTried = 1 << 24

/** Go's `unicode.IsSpace`. */
const spaces = /[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/

/** Go maps each letter to one letter, and reads a byte that is not UTF-8 as U+FFFD. */
function mapped(of: string, map: (letter: string) => string): string {
  let out = ''
  for (const letter of of.toWellFormed()) {
    const to = map(letter)
    // A letter that becomes several has none of its own.
    out += [...to].length === 1 ? to : letter
  }
  return out
}

const lower = (letter: string): string => (letter === 'İ' ? 'i' : letter.toLowerCase())

function trimmed(args: Args, isCut: (letter: string) => boolean, left: boolean, right: boolean): string {
  const letters = [...text(args, 0)]
  let [from, to] = [0, letters.length]
  while (left && from < to && isCut(letters[from]!)) from++
  while (right && from < to && isCut(letters[to - 1]!)) to--
  return letters.slice(from, to).join('')
} // biome-ignore format: a long line

function trim(left: boolean, right: boolean): (args: Args) => Value {
  return (args) => {
    // Go takes every byte that is not UTF-8 for the same character, U+FFFD.
    const cut = new Set([...text(args, 1)].map(known))
    return trimmed(args, (letter) => cut.has(known(letter)), left, right)
  }
}

const known = (letter: string): string => letter.toWellFormed()

function substring(args: Args): Value {
  const [base, from, length] = [text(args, 0), count(args, 1), count(args, 2)]
  if (from < 0) throw new BuiltinError('negative offset')
  const letters = [...base]
  const to = length < 0 ? letters.length : Math.min(letters.length, from + length)
  if (from === 0 && to >= letters.length && length >= 0) return base
  return letters.slice(from, Math.max(from, to)).join('').toWellFormed()
}

function concat(args: Args): Value {
  const between = text(args, 0)
  const parts = members(args, 1).map((_, i, all) => text(all, i))
  return parts.join(between)
}

/** The parts of a template string: a set has the one value of an expression, or none where that is undefined. */
function template(args: Args): Value {
  const parts = array(args, 0).map((part) => {
    const values = part instanceof RegoSet ? [...part] : [part]
    if (values.length > 1) throw new BuiltinError('an expression with several values')
    const [value = '<undefined>'] = values
    return typeof value === 'string' ? value : describe(value)
  })
  return parts.join('')
}

/** Replaces like Go's `strings.NewReplacer`: at each byte, the first pattern in order that matches there. */
function replaceN(args: Args): Value {
  const patterns = object(args, 0)
    .sorted()
    .map((pair) => [latin(text(pair, 0)), latin(text(pair, 1))] as const)
  const base = latin(text(args, 1))
  if (base.length * patterns.length > maxTried) refuseWork('a replacement of many patterns')
  let [out, at, afterEmpty] = ['', 0, false]
  while (at <= base.length) {
    const found = patterns.find(([old]) => (old !== '' || !afterEmpty) && base.startsWith(old, at) && (at < base.length || old === ''))
    if (found !== undefined) {
      out += found[1]
      at += found[0].length
      afterEmpty = found[0] === ''
      if (out.length > maxLength) refuseWork('a replacement of this length')
      continue
    }
    out += base[at] ?? ''
    at++
    afterEmpty = false
  }
  return textOf(Buffer.from(out, 'latin1'))
} // biome-ignore format: a long line

export const letterBuiltins: BuiltinTable = {
  lower: { call: (args) => mapped(text(args, 0), lower) },
  upper: { call: (args) => mapped(text(args, 0), (letter) => letter.toUpperCase()) },
  count: { call: (args) => new RegoNumber([...text(args, 0)].length) },
  'strings.reverse': { call: (args) => [...text(args, 0)].reverse().join('') },
  split: { call: (args) => split(text(args, 0), text(args, 1)) },
  substring: { call: substring },
  trim: { call: trim(true, true) },
  trim_left: { call: trim(true, false) },
  trim_right: { call: trim(false, true) },
  trim_space: { call: (args) => trimmed(args, (letter) => spaces.test(letter), true, true) },
  concat: { call: concat },
  'strings.replace_n': { call: replaceN },
  'internal.template_string': { call: template },
}

function split(base: string, by: string): Value {
  return by === '' ? [...base] : base.split(by)
}
