/**
 * Arithmetic as OPA computes it: integers exactly, other numbers with 64 bits of precision (go/big-float.ts). The module
 * computes with integers of few digits itself, see policy/natives.ts.
 */

import type { BuiltinTable } from '../builtin.ts'
import {
  add,
  type BigFloat,
  divide,
  floatOf,
  floatText,
  isEqualTo,
  multiply,
  negate,
  readFloat,
  truncated,
} from '../go/big-float.ts'
import { type Decimal, toBigInt } from './decimal.ts'
import { type Args, BuiltinError, members, number, refuseWork } from './operand.ts'
import { RegoNumber, RegoSet, type Value } from './value.ts'

/** OPA refuses numbers over 2^100000, about this many digits. */
const maxDigits = 31_000
/** Most bits of the result of a shift. */
const maxShift = 100_000n

function bounded({ decimal }: RegoNumber): Decimal {
  if (Math.abs(decimal.exponent) + decimal.digits.length > maxDigits)
    refuseWork(`a number of more than ${maxDigits} digits`)
  return decimal
}

/** The value when it is an integer. */
function exact(value: RegoNumber): bigint | undefined {
  return toBigInt(bounded(value))
}

function float(value: RegoNumber): BigFloat {
  // Go reads the digits as they are written, whose zeros at the end count.
  bounded(value)
  const [mantissa = '', written = '0'] = value.text.replace(/^-/, '').split(/[eE]/)
  const point = mantissa.indexOf('.')
  const fraction = point === -1 ? 0 : mantissa.length - point - 1
  return readFloat(
    value.text.startsWith('-'),
    mantissa.replace('.', ''),
    Number(written) - fraction,
  )
}

/** What the largest product of two numbers that OPA takes needs, and more. */
const largest = 1n << 400_000n

function limited(value: bigint): bigint {
  if (value > largest || value < -largest) refuseWork('a result of more than 400,000 bits')
  return value
}

const result = (value: BigFloat | bigint): RegoNumber =>
  new RegoNumber(typeof value === 'bigint' ? limited(value) : floatText(value))

function binary(
  onIntegers: (a: bigint, b: bigint) => bigint,
  onFloats: (a: BigFloat, b: BigFloat) => BigFloat,
): (args: Args) => Value {
  return (args) => compute(number(args, 0), number(args, 1), onIntegers, onFloats)
}

function compute(
  a: RegoNumber,
  b: RegoNumber,
  onIntegers: (a: bigint, b: bigint) => bigint,
  onFloats: (a: BigFloat, b: BigFloat) => BigFloat,
): RegoNumber {
  const [x, y] = [exact(a), exact(b)]
  return result(
    x !== undefined && y !== undefined ? onIntegers(x, y) : onFloats(float(a), float(b)),
  )
}

const subtract = binary(
  (a, b) => a - b,
  (a, b) => add(a, negate(b)),
)

/** Of numbers, or of sets. */
function minus(args: Args): Value {
  const [a, b] = args
  if (!(a instanceof RegoSet) || !(b instanceof RegoSet)) return subtract(args)
  return new RegoSet([...a].filter((member) => !b.has(member)))
}

const smallest = -(2n ** 31n)
const isSmall = (value: bigint | undefined): value is bigint =>
  value !== undefined && value >= smallest && value < -smallest

function div(args: Args): Value {
  const [a, b] = [number(args, 0), number(args, 1)]
  const [x, y] = [a, b].map(exact)
  if (y === 0n) throw new BuiltinError('divide by zero')
  if (isSmall(x) && isSmall(y) && x !== 0n && x % y === 0n) return result(x / y)
  return result(divide(float(a), float(b)))
}

function rem(args: Args): Value {
  const [x, y] = [exact(number(args, 0)), exact(number(args, 1))]
  if (x === undefined || y === undefined) throw new BuiltinError('modulo on floating-point number')
  if (y === 0n) throw new BuiltinError('modulo by zero')
  return result(x % y)
}

/** Small integers as they are, as OPA does; others through floats, which also rounds large integers. */
function unary(of: (value: BigFloat) => BigFloat, small = (value: bigint) => value) {
  return (args: Args): Value => {
    const value = number(args, 0)
    const whole = /^-?\d+$/.test(value.text) ? exact(value) : undefined
    return result(isSmall(whole) ? small(whole) : of(float(value)))
  }
}

const half = readFloat(false, '5', -1)

/** As OPA does, whose result for a number between -1 and 0 is 1. */
function ceil(value: BigFloat): BigFloat {
  const whole = truncated(value)
  if (whole < 0n || isEqualTo(value, whole)) return floatOf(whole)
  return add(floatOf(whole), floatOf(1n))
}

/** As OPA does, whose result for a number between -1 and 0 is 0. */
function floor(value: BigFloat): BigFloat {
  const whole = truncated(value)
  if (whole >= 0n || isEqualTo(value, whole)) return floatOf(whole)
  return add(floatOf(whole), floatOf(-1n))
}

function accumulated(
  from: bigint,
  onIntegers: (a: bigint, b: bigint) => bigint,
  onFloats: (a: BigFloat, b: BigFloat) => BigFloat,
): (args: Args) => Value {
  return (args) => {
    const all = members(args, 0).map((_, i, list) => number(list, i))
    const integers = all.map(exact)
    if (integers.every((each) => each !== undefined)) return result(integers.reduce((a, b) => limited(onIntegers(a, b)), from))
    return result(all.map(float).reduce((a, b) => onFloats(a, b), floatOf(from)))
  }
} // biome-ignore format: a long line

function integers(args: Args): bigint[] {
  return args.map((_, at) => {
    const whole = exact(number(args, at))
    if (whole === undefined)
      throw new BuiltinError(`operand ${at + 1} must be integer number but got floating-point number`)
    return whole
  })
} // biome-ignore format: a long line

function bits(of: (a: bigint, b: bigint) => bigint): (args: Args) => Value {
  return (args) => {
    const [a, b = 0n] = integers(args)
    return result(of(a!, b))
  }
}

function shift(of: (a: bigint, by: bigint) => bigint): (args: Args) => Value {
  return bits((a, by) => {
    if (by < 0n) throw new BuiltinError('operand 2 must be an unsigned integer number')
    // OPA takes the low 64 bits of the number.
    const places = by & 0xffffffffffffffffn
    return of(a, places)
  })
}

const left = (a: bigint, by: bigint): bigint => {
  if (a !== 0n && by > maxShift) refuseWork(`a shift by more than ${maxShift} bits`)
  return a === 0n ? 0n : a << by
}
const right = (a: bigint, by: bigint): bigint =>
  by > maxShift * 4n ? (a < 0n ? -1n : 0n) : a >> by

const radixes: Readonly<Record<string, number>> = { '2': 2, '8': 8, '10': 10, '16': 16 }

function formatInt(args: Args): Value {
  const [value, base] = [number(args, 0), number(args, 1)]
  const radix = radixes[base.text]
  if (radix === undefined) throw new BuiltinError('operand 2 must be one of {2, 8, 10, 16}')
  const whole = /^-?\d+$/.test(value.text) ? BigInt(value.text) : truncated(float(value))
  return whole.toString(radix)
}

/**
 * What Go's `strconv.ParseFloat` reads as a decimal number. OPA keeps a text such as `+1` or `010` as it is, and then cannot
 * write it as JSON; here it becomes the number that it means.
 */
function toNumber(args: Args): Value {
  const value = args[0]!
  if (value === null || value === false) return new RegoNumber(0)
  if (value === true) return new RegoNumber(1)
  if (value instanceof RegoNumber) return value
  if (typeof value !== 'string')
    throw new BuiltinError('operand 1 must be one of {null, boolean, number, string}')
  const parts = /^([+-]?)(\d*)(?:(\.)(\d*))?([eE][+-]?\d+)?$/.exec(
    value.replace(/(?<=\d)_(?=\d)/g, ''),
  )
  const [, sign, whole = '', , fraction = '', exponent = ''] = parts ?? []
  const isNumber = parts !== null && whole + fraction !== ''
  if (!isNumber || !Number.isFinite(Number(`${whole || 0}.${fraction || 0}${exponent}`)))
    throw new BuiltinError('invalid syntax')
  const digits = whole.replace(/^0+(?=\d)/, '') || '0'
  return new RegoNumber(
    `${sign === '-' ? '-' : ''}${digits}${fraction === '' ? '' : `.${fraction}`}${exponent}`,
  )
}

const sum = [(a: bigint, b: bigint) => a + b, add] as const
const times = [
  (a: bigint, b: bigint) => a * b,
  (a: BigFloat, b: BigFloat) => multiply(a, b),
] as const

export const arithmeticBuiltins: BuiltinTable = {
  plus: { call: binary(...sum) },
  minus: { call: minus },
  mul: { call: binary(...times) },
  div: { call: div },
  rem: { call: rem },
  abs: { call: unary((value) => ({ ...value, negative: false }), (value) => (value < 0n ? -value : value)) },
  round: { call: unary((value) => floatOf(truncated(add(value, value.negative ? negate(half) : half)))) },
  ceil: { call: unary(ceil) },
  floor: { call: unary(floor) },
  sum: { call: accumulated(0n, ...sum) },
  product: { call: accumulated(1n, times[0], (a, b) => multiply(a, b, 53)) },
  'bits.and': { call: bits((a, b) => a & b) },
  'bits.or': { call: bits((a, b) => a | b) },
  'bits.xor': { call: bits((a, b) => a ^ b) },
  'bits.negate': { call: bits((a) => ~a) },
  'bits.lsh': { call: shift(left) },
  'bits.rsh': { call: shift(right) },
  format_int: { call: formatInt },
  to_number: { call: toNumber },
} // biome-ignore format: a table
