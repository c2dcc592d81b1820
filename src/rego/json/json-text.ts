/**
 * Reads and writes JSON like Go's `encoding/json`; and `json.unmarshal` and `json.is_valid`, which replace those that are
 * compiled into the module, see policy/module.ts.
 */
import { wellFormedJson } from '../../domain/json.ts'
import type { BuiltinTable } from '../builtin.ts'
import { type Args, BuiltinError, refuseWork, text } from '../values/operand.ts'
import {
  escapeMarkup,
  fromJson,
  parseTerm,
  RegoNumber,
  RegoObject,
  toJson,
  type Value,
} from '../values/value.ts'

/** Most nested levels that Go reads. */
const maxDepth = 10_000
/** Largest power of two that OPA reads, or one part of it. */
const maxPower = 100_000

/** Whether OPA's reader of YAML refuses a text. OPA reads some JSON with it too. */
export function isUnprintable(text: string): boolean {
  return /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]/.test(text)
}

/** @throws BuiltinError when the text is not JSON. */
export function readJson(text: string, message = 'not JSON'): Value {
  try {
    return fromJson(text)
  } catch (error) {
    if (error instanceof SyntaxError) throw new BuiltinError(message)
    throw error
  }
}

/** As Go's `encoding/json` does, which writes each byte that is not UTF-8 as an escaped U+FFFD. */
export function writeJson(value: Value): string {
  return escapeMarkup(toJson(value, quotedForGo))
}

function quotedForGo(text: string): string {
  const quoted = JSON.stringify(text)
  return text.isWellFormed()
    ? quoted
    : quoted.replace(/\\(?:\\|ud[89a-f][0-9a-f]{2})/g, (pair) =>
        pair[1] === 'u' ? '\\ufffd' : pair,
      )
}

/** Not of a term: `{1}` and `[1] x` are none. Bytes that are no letters may be in its strings. */
function isJson(given: string): boolean {
  try {
    JSON.parse(given.toWellFormed())
  } catch {
    return false
  }
  return depthOf(given) <= maxDepth
}

/** @param given JSON. */
function depthOf(given: string): number {
  let [depth, deepest] = [0, 0]
  for (let at = 0; at < given.length; at++) {
    const char = given[at]
    if (char === '"') {
      for (at++; given[at] !== '"'; at++) if (given[at] === '\\') at++
    } else if (char === '[' || char === '{') deepest = Math.max(deepest, ++depth)
    else if (char === ']' || char === '}') depth--
  }
  return deepest
}

function unmarshal(args: Args): Value {
  const given = text(args, 0)
  if (!isJson(given)) throw new BuiltinError('not JSON')
  let value: Value
  try {
    value = parseTerm(wellFormedJson(given.toWellFormed()))
  } catch {
    // Only what is too deep: that it is JSON has been seen.
    refuseWork('json.unmarshal of a value that is nested too deeply')
  }
  checkNumbers(value)
  return value
}

/** @throws BuiltinError */
function checkNumbers(value: Value): void {
  if (value instanceof RegoNumber) {
    if (/e/i.test(value.text) && !isReadable(value)) throw new BuiltinError('number too big')
  } else if (Array.isArray(value)) for (const each of value) checkNumbers(each)
  else if (value instanceof RegoObject) for (const [, each] of value) checkNumbers(each)
}

function isReadable({ text, decimal: { digits, exponent } }: RegoNumber): boolean {
  // Go keeps the written exponent in 64 bits.
  if (Math.abs(Number(/[+-]?\d+$/.exec(text)![0])) >= 2 ** 63) return false
  if (digits === '0') return true
  const log2 = Math.log2(Number(`0.${digits.slice(0, 20)}`))
  return Math.abs(Math.floor(log2 + (digits.length + exponent) * Math.log2(10)) + 1) <= maxPower
}

export const jsonTextBuiltins: BuiltinTable = {
  'json.is_valid': { call: ([given]) => typeof given === 'string' && isJson(given) },
  'json.unmarshal': { call: unmarshal },
}
