/**
 * Small functions in WebAssembly that are added to a module. A guard tells whether the module's own builtin answers as
 * OPA does for an argument: 1 when it does, 0 when the host must answer. So the host is asked about rare arguments only.
 *
 * The layout of values is that of OPA's value.h: the type is the first byte; a string has its length at 4 and its bytes'
 * address at 8; a number has its form (1: an integer of 64 bits, 2: text) at 1 and its content at 8; an array has the
 * address of its elements at 4 and their number at 8; an object and a set have the number of their members at 12.
 */
import { leb, op, signedLeb } from './binary.ts'
import { valueType } from './data-memory.ts'

export type Guard =
  | 'text'
  | 'line'
  | 'glob'
  | 'pattern'
  | 'integer'
  | 'integers'
  | 'array'
  | 'short'

/** Members up to which the module sorts by itself; it sorts by insertion, whose time grows with the square. */
const shortLength = 24
/** Digits of a number that the module adds and multiplies exactly, as OPA does. */
const mostDigits = 16
const largest = 10 ** mostDigits

const i32 = 0x7f
const noBlockType = 0x40
const more = {
  load8: 0x2d, load64: 0x29, geU: 0x4f, leU: 0x4d, ltS64: 0x53, gtS64: 0x55, add: 0x6a, and: 0x71, or: 0x72, ltU: 0x49, eq: 0x46,
} as const // biome-ignore format: a table

type Code = readonly (number | Code)[]

const get = (local: number): Code => [op.localGet, local]
const set = (local: number, value: Code): Code => [value, op.localSet, local]
const constant = (value: number): Code => [op.i32Const, signedLeb(value)]
const load = (address: Code, offset: number): Code => [address, op.i32Load, 2, offset]
const byteAt = (address: Code, offset = 0): Code => [address, more.load8, 0, offset]
const binary = (a: Code, b: Code, code: number): Code => [a, b, code]
const isEqual = (a: Code, value: number): Code => binary(a, constant(value), more.eq)
const either = (a: Code, b: Code): Code => binary(a, b, more.or)
const both = (a: Code, b: Code): Code => binary(a, b, more.and)
const answer = (value: number): Code => [constant(value), op.return]
const when = (condition: Code, then: Code): Code => [condition, op.if, noBlockType, then, op.end]
const whenNot = (condition: Code, then: Code): Code => when([condition, op.i32Eqz], then)
const forever = (...code: Code): Code => [op.loop, noBlockType, ...code, op.br, 0, op.end]
const isString = (value: Code): Code =>
  either(isEqual(byteAt(value), valueType.string), isEqual(byteAt(value), valueType.internedString))

/** A function's body: the number of its locals beside its parameters, then its code. */
export function body(locals: number, ...code: Code): Uint8Array {
  const declared = locals === 0 ? [0] : [1, locals, i32]
  return Buffer.from([declared, ...code, op.end].flat(20 as 1) as number[])
}

const value = get(0)
const [at, end, previous] = [1, 2, 3]

/** Runs `each` for every byte of the string `value`; its byte is at the address in `at`. */
const overBytes = (...each: Code): Code => [
  set(at, load(value, 8)),
  set(end, binary(get(at), load(value, 4), more.add)),
  forever(
    when(binary(get(at), get(end), more.geU), answer(1)),
    ...each,
    set(at, binary(get(at), constant(1), more.add)),
  ),
]
const isHigh: Code = binary(byteAt(get(at)), constant(0x80), more.geU)

/** Ranges of characters, both ends included. */
const plainInGlobs = [' ', '%', '*', ',', '-:', '=', '?Z', '_', 'az', '~'] as const

/** Whether the byte at an address is in one of the ranges. */
const anyOf = (address: Code, ranges: readonly string[]): Code =>
  ranges
    .map((range) =>
      both(
        binary(byteAt(address), constant(range.charCodeAt(0)), more.geU),
        binary(byteAt(address), constant(range.charCodeAt(range.length - 1)), more.leU),
      ),
    )
    .reduce(either)

/** A number in the form of text: digits, perhaps after a minus sign, and not many. */
const digitsOnly: Code = [
  when(binary(constant(mostDigits), load(value, 12), more.ltU), answer(0)),
  set(at, load(value, 8)),
  set(end, binary(get(at), load(value, 12), more.add)),
  when(isEqual(byteAt(get(at)), 0x2d), [
    set(at, binary(get(at), constant(1), more.add)),
    // The module fails at -0.
    when(isEqual(byteAt(get(at)), 0x30), answer(0)),
  ]),
  forever(
    when(binary(get(at), get(end), more.geU), answer(1)),
    when(binary(byteAt(get(at)), constant(0x30), more.ltU), answer(0)),
    when(binary(byteAt(get(at)), constant(0x3a), more.geU), answer(0)),
    set(at, binary(get(at), constant(1), more.add)),
  ),
]
const inRange: Code = both(
  [value, more.load64, 3, 8, op.i64Const, signedLeb(largest), more.ltS64],
  [value, more.load64, 3, 8, op.i64Const, signedLeb(-largest), more.gtS64],
)

/** The guards' bodies, in the order in which they are added; `integers` calls `integer`. */
export function guardBodies(
  indexOf: (guard: Guard) => number,
): Readonly<Record<Guard, Uint8Array>> {
  return {
    // Only ASCII. The module's tables of letters are of another version of Unicode, and bytes that are not UTF-8 end the evaluation.
    text: body(2, whenNot(isString(value), answer(1)), overBytes(when(isHigh, answer(0))), constant(1)),
    // Only ASCII without a line break.
    line: body(
      2,
      whenNot(isString(value), answer(1)),
      overBytes(when(either(isHigh, isEqual(byteAt(get(at)), 0x0a)), answer(0))),
      constant(1),
    ),
    // Letters, digits, `*`, `?` and a few other characters that mean nothing in a glob.
    glob: body(
      2,
      whenNot(isString(value), answer(1)),
      overBytes(whenNot(anyOf(get(at), plainInGlobs), answer(0))),
      constant(1),
    ),
    // Without what RE2 reads otherwise than Go: a byte 0, `\C`, `(?<name>`.
    pattern: body(
      3,
      whenNot(isString(value), answer(1)),
      overBytes(
        when(either(isHigh, [byteAt(get(at)), op.i32Eqz]), answer(0)),
        when(both(isEqual(get(previous), 0x5c), isEqual(byteAt(get(at)), 0x43)), answer(0)),
        when(both(isEqual(get(previous), 0x3f), isEqual(byteAt(get(at)), 0x3c)), answer(0)),
        set(previous, byteAt(get(at))),
      ),
      constant(1),
    ),
    integer: body(
      2,
      whenNot(isEqual(byteAt(value), valueType.number), answer(1)),
      when(isEqual(byteAt(value, 1), 1), [inRange, op.return]),
      digitsOnly,
      constant(1),
    ),
    integers: body(
      2,
      whenNot(isEqual(byteAt(value), valueType.array), answer(0)),
      set(at, load(value, 4)),
      set(end, binary(get(at), binary(load(value, 8), constant(3), 0x74), more.add)),
      forever(
        when(binary(get(at), get(end), more.geU), answer(1)),
        whenNot([load(get(at), 4), op.call, leb(indexOf('integer'))], answer(0)),
        set(at, binary(get(at), constant(8), more.add)),
      ),
      constant(1),
    ),
    array: body(0, [isEqual(byteAt(value), valueType.set), op.i32Eqz]),
    short: body(
      0,
      when(isEqual(byteAt(value), valueType.array), [binary(load(value, 8), constant(shortLength), more.leU), op.return]),
      when(binary(byteAt(value), constant(valueType.array), more.ltU), answer(1)),
      when(isEqual(byteAt(value), valueType.internedString), answer(1)),
      binary(load(value, 12), constant(shortLength), more.leU),
    ),
  } // biome-ignore format: code
}

/** Whether a collection's order needs no sorting: what is no object and no set, or has one member at most. */
export const isOrdered: Code = either(
  both(
    [isEqual(byteAt(value), valueType.object), op.i32Eqz],
    [isEqual(byteAt(value), valueType.set), op.i32Eqz],
  ),
  binary(load(value, 12), constant(1), more.leU),
)

/** Whether a key of base data may stand for another one: a number for a text in an object, a text for a number in an array. */
export const mayBeOther: Code = either(
  both(isEqual(byteAt(value), valueType.object), isEqual(byteAt(get(1)), valueType.number)),
  both(
    isEqual(byteAt(value), valueType.array),
    either(isString(get(1)), isEqual(byteAt(get(1)), valueType.number)),
  ),
)
