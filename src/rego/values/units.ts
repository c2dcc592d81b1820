/**
 * `units.*`: amounts with SI and binary units, computed with the same rounding as OPA's rationals and 64-bit floats.
 */

import type { BuiltinTable } from '../builtin.ts'
import { BuiltinError, refuseWork, text } from './operand.ts'
import { RegoNumber } from './value.ts'

interface Ratio {
  readonly numerator: bigint
  readonly denominator: bigint
}

const decimalPowers = ['k', 'm', 'g', 't', 'p', 'e']
/** OPA defines milli as the double 0.001. */
const milli: Ratio = { numerator: 1152921504606847n, denominator: 1n << 60n }

/** Largest exponent: above it, an amount of a few bytes would expand to megabytes. */
const maxExponent = 5000

/** @throws BuiltinError */
function splitAmount(given: string): [amount: string, unit: string] {
  if (given.includes(' ')) throw new BuiltinError('spaces not allowed in resource strings')
  let at = 0
  for (; at < given.length; at++) {
    const char = given[at]!
    if (/[0-9.+-]/.test(char)) continue
    if (!/[eE]/.test(char)) break
    const exponent = /^[eE]([+-]?)([0-9]*)/.exec(given.slice(at, at + 10))!
    if (exponent[1] === '' && exponent[2] === '') break
    if (exponent[2]!.length > 6) throw new BuiltinError('exponent too large')
    if (exponent[1] !== '') at++
  }
  if (at === 0) throw new BuiltinError('no amount provided')
  return [given.slice(0, at), given.slice(at)]
}

/** @throws BuiltinError */
function readRatio(amount: string): Ratio {
  const match = /^([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?$/.exec(amount)
  const [, sign, whole = '', fraction = '', exponent = '0'] = match ?? []
  if (match === null || whole + fraction === '') {
    throw new BuiltinError('could not parse amount to a number')
  }
  const power = Number(exponent) - fraction.length
  if (Math.abs(power) > maxExponent || whole.length > maxExponent)
    refuseWork('the amount has too many digits')
  const digits = BigInt(whole + fraction) * (sign === '-' ? -1n : 1n)
  return {
    numerator: digits * 10n ** BigInt(Math.max(power, 0)),
    denominator: 10n ** BigInt(Math.max(-power, 0)),
  }
}

function times(a: Ratio, b: Ratio): Ratio {
  return { numerator: a.numerator * b.numerator, denominator: a.denominator * b.denominator }
}

/** @param unit Unit in lower case without a final `b`: '', 'k', 'ki', … */
function factorOf(unit: string): bigint | undefined {
  if (unit === '') return 1n
  const power = decimalPowers.indexOf(unit[0]!) + 1
  if (power === 0 || unit.length > 2 || (unit.length === 2 && unit[1] !== 'i')) return undefined
  return unit.length === 2 ? 1024n ** BigInt(power) : 1000n ** BigInt(power)
}

function parseUnits(given: string): RegoNumber {
  const [amount, unit] = splitAmount(given.replaceAll('"', ''))
  // Only the case of the first letter matters: m is milli, M is mega.
  const name = unit.slice(0, 1) + unit.slice(1).toLowerCase()
  const factor = name === 'm' ? undefined : factorOf(name.toLowerCase())
  if (factor === undefined && name !== 'm') throw new BuiltinError(`unit ${unit} not recognized`)
  const ratio = readRatio(amount)
  const { numerator, denominator } = times(
    ratio,
    factor === undefined ? milli : { numerator: factor, denominator: 1n },
  )
  if (numerator % denominator === 0n) return new RegoNumber(numerator / denominator)
  return new RegoNumber(tenPlaces(numerator, denominator))
}

/** Writes a quotient with ten decimal places; halves are rounded away from zero. */
function tenPlaces(numerator: bigint, denominator: bigint): string {
  const size = numerator < 0n ? -numerator : numerator
  const scaled = (size * 10n ** 10n * 2n + denominator) / (denominator * 2n)
  const digits = scaled.toString().padStart(11, '0')
  return `${numerator < 0n ? '-' : ''}${digits.slice(0, -10)}.${digits.slice(-10)}`
}

function parseBytes(given: string): RegoNumber {
  const [amount, unit] = splitAmount(given.toLowerCase().replaceAll('"', ''))
  const factor = unit === 'b' ? undefined : factorOf(unit.replace(/b$/, ''))
  if (factor === undefined) throw new BuiltinError(`byte unit ${unit} not recognized`)
  const number = roundToBits(readRatio(amount))
  const { numerator, denominator } = roundToBits(
    times(number, { numerator: factor, denominator: 1n }),
  )
  return new RegoNumber(numerator / denominator)
}

/** Rounds to 64 bits of mantissa, halves to even. */
function roundToBits(ratio: Ratio): Ratio {
  if (ratio.numerator === 0n) return ratio
  const negative = ratio.numerator < 0n
  const size = negative ? -ratio.numerator : ratio.numerator
  const bits = (value: bigint): number => value.toString(2).length
  // Shift so that the quotient has 64 or 65 bits.
  let shift = 64 - (bits(size) - bits(ratio.denominator))
  let divided = divide(size, ratio.denominator, shift)
  if (bits(divided.quotient) > 64) {
    shift--
    divided = divide(size, ratio.denominator, shift)
  }
  const { quotient, remainder, denominator } = divided
  const twice = remainder * 2n
  const up = twice > denominator || (twice === denominator && (quotient & 1n) === 1n)
  const mantissa = (up ? quotient + 1n : quotient) * (negative ? -1n : 1n)
  return shift >= 0
    ? { numerator: mantissa, denominator: 1n << BigInt(shift) }
    : { numerator: mantissa << BigInt(-shift), denominator: 1n }
}

function divide(
  size: bigint,
  by: bigint,
  shift: number,
): { quotient: bigint; remainder: bigint; denominator: bigint } {
  const numerator = shift >= 0 ? size << BigInt(shift) : size
  const denominator = shift >= 0 ? by : by << BigInt(-shift)
  return { quotient: numerator / denominator, remainder: numerator % denominator, denominator }
}

export const unitBuiltins: BuiltinTable = {
  'units.parse': { call: (args) => parseUnits(text(args, 0)) },
  'units.parse_bytes': { call: (args) => parseBytes(text(args, 0)) },
}
