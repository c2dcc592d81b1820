/** Percent-encoding as Go's `net/url` reads and writes it; `urlquery.*`. */

import type { BuiltinTable } from '../builtin.ts'
import { bytesOf, textOf } from '../values/bytes.ts'
import { type Args, BuiltinError, object, text } from '../values/operand.ts'
import { compareTexts, isArray, jsonKey, RegoObject, RegoSet, type Value } from '../values/value.ts'

/** Characters beside letters, digits and `-_.~` that stand as they are. */
export type Plain = string

/** @param plain what stays as it is; every other byte becomes a triplet. */
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

/** @throws BuiltinError for a percent sign that no two hexadecimal digits follow. */
export function unescapeText(text: string): string {
  if (!text.includes('%')) return text
  const from = bytesOf(text)
  const bytes = Buffer.alloc(from.length)
  let length = 0
  for (let i = 0; i < from.length; i++) {
    let byte = from[i]!
    if (byte === 0x25) {
      const digits = from.toString('latin1', i + 1, i + 3)
      if (!/^[0-9a-fA-F]{2}$/.test(digits)) throw new BuiltinError('invalid URL escape')
      byte = Number.parseInt(digits, 16)
      i += 2
    }
    bytes[length++] = byte
  }
  return textOf(bytes.subarray(0, length))
}

function encodeQuery(text: string): string {
  return escapeText(text, ' ').replaceAll(' ', '+')
}

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
    const split = pair.indexOf('=')
    const key = decodeQuery(split === -1 ? pair : pair.slice(0, split))
    const value = split === -1 ? '' : decodeQuery(pair.slice(split + 1))
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
