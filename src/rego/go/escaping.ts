/** `urlquery.*`, and percent-encoding like Go's `net/url`. */
import { encodedName, encodedValue, unescapeBytes } from '../../domain/form.ts'
import type { BuiltinTable } from '../builtin.ts'
import { bytesOf, textOf } from '../values/bytes.ts'
import { type Args, BuiltinError, object, text } from '../values/operand.ts'
import { compareTexts, isArray, jsonKey, RegoObject, RegoSet, type Value } from '../values/value.ts'

/** Characters that are not encoded, besides letters, digits and `-_.~`. */
export type Plain = string

/** @param plain Characters that stay as they are; every other byte becomes a percent triplet. */
export function escapeText(text: string, plain: Plain): string {
  let out = ''
  for (const byte of bytesOf(text)) {
    const char = String.fromCharCode(byte)
    out +=
      /[A-Za-z0-9\-_.~]/.test(char) || (byte < 0x80 && plain.includes(char))
        ? char
        : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return out
}

const strayPercent = /%(?![0-9a-fA-F]{2})/

/** @throws BuiltinError for a percent sign without two hexadecimal digits after it. */
export function unescapeText(text: string): string {
  if (!text.includes('%')) return text
  if (strayPercent.test(text)) throw new BuiltinError('invalid URL escape')
  return textOf(unescapeBytes(bytesOf(text)))
}

function encodeQuery(text: string): string {
  return escapeText(text, ' ').replaceAll(' ', '+')
}

/** Not `formDecode`: Go's `QueryUnescape` refuses a stray percent sign, and keeps bytes that are not UTF-8. */
function decodeQuery(text: string): string {
  return unescapeText(text.replaceAll('+', ' '))
}

function encodeObject(args: Args): string {
  const values = new Map<string, readonly string[]>()
  for (const [key, value] of object(args, 0)) {
    const list = value instanceof RegoSet ? value.sorted() : isArray(value) ? value : [value]
    if (!list.every((one) => typeof one === 'string')) {
      throw new BuiltinError('values must be string, array[string], or set[string]')
    }
    values.set(jsonKey(key), list)
  }
  return [...values]
    .sort(([a], [b]) => compareTexts(a, b))
    .flatMap(([key, list]) => list.map((one) => `${encodeQuery(key)}=${encodeQuery(one)}`))
    .join('&')
}

function decodeObject(args: Args): Value {
  const values = new Map<string, string[]>()
  for (const pair of text(args, 0).split('&')) {
    if (pair.includes(';')) throw new BuiltinError('invalid semicolon separator in query')
    if (pair === '') continue
    const key = decodeQuery(encodedName(pair))
    const value = decodeQuery(encodedValue(pair))
    const known = values.get(key)
    if (known === undefined) values.set(key, [value])
    else known.push(value)
  }
  return new RegoObject(values)
}

export const escapingBuiltins: BuiltinTable = {
  'urlquery.encode': { call: (args) => encodeQuery(text(args, 0)) },
  'urlquery.decode': { call: (args) => decodeQuery(text(args, 0)) },
  'urlquery.encode_object': { call: encodeObject },
  'urlquery.decode_object': { call: decodeObject },
}
