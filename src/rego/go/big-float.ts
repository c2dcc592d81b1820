/**
 * Go's `big.Float` with 64 bits of precision, in which OPA computes with numbers that are no integers. Every operation
 * rounds to the nearest, halves to even. Numbers are read and written as Go does, whose reading is itself inexact for large
 * exponents (math/big: floatconv.go, ftoa.go).
 */

/** The number (`negative ? -1 : 1`) × `mantissa` × 2^`exponent`, of at most `precision` bits. */
export interface BigFloat {
  readonly negative: boolean
  readonly mantissa: bigint
  readonly exponent: number
  readonly precision: number
}

const usualPrecision = 64

function bitLength(value: bigint): number {
  if (value === 0n) return 0
  const hex = value.toString(16)
  return hex.length * 4 - Math.clz32(Number.parseInt(hex[0]!, 16)) + 28
}

/** @param inexact The exact value is slightly larger than `mantissa` says. */
function rounded(negative: boolean, mantissa: bigint, exponent: number, precision: number, inexact = false): BigFloat {
  const excess = BigInt(bitLength(mantissa) - precision)
  if (excess <= 0n) return { negative, mantissa, exponent, precision }
  const half = 1n << (excess - 1n)
  const rest = mantissa & ((1n << excess) - 1n)
  const kept = mantissa >> excess
  const up = rest > half || (rest === half && (inexact || (kept & 1n) === 1n))
  if (!up) return { negative, mantissa: kept, exponent: exponent + Number(excess), precision }
  // A carry may make one bit more.
  return rounded(negative, kept + 1n, exponent + Number(excess), precision)
} // biome-ignore format: long signature

const quotientBits = 4

function divided(a: BigFloat, b: BigFloat, precision: number): BigFloat {
  const shift = BigInt(Math.max(0, precision + quotientBits + bitLength(b.mantissa) - bitLength(a.mantissa)))
  const numerator = a.mantissa << shift
  const quotient = numerator / b.mantissa
  const exponent = a.exponent - b.exponent - Number(shift)
  return rounded(a.negative !== b.negative, quotient, exponent, precision, quotient * b.mantissa !== numerator)
} // biome-ignore format: long lines

function product(a: BigFloat, b: BigFloat, precision: number): BigFloat {
  return rounded(a.negative !== b.negative, a.mantissa * b.mantissa, a.exponent + b.exponent, precision)
} // biome-ignore format: long line

/** 5^n as Go computes it, with 64 bits more than are needed; beyond 5^27 it is rounded on the way. */
function powerOfFive(n: number): BigFloat {
  const precision = usualPrecision + 64
  const exact = { negative: false, mantissa: 5n ** BigInt(Math.min(n, 27)), exponent: 0, precision }
  let power: BigFloat = exact
  let factor: BigFloat = { ...exact, mantissa: 5n, precision: precision + 64 }
  for (let left = n - 27; left > 0; left >>>= 1) {
    if ((left & 1) === 1) power = product(power, factor, precision)
    factor = product(factor, factor, precision + 64)
  }
  return power
}

/** @param digits Without a point; the value is `digits` × 10^`exponent`. */
export function readFloat(negative: boolean, digits: string, exponent: number): BigFloat {
  const whole: BigFloat = {
    negative,
    mantissa: BigInt(digits),
    exponent,
    precision: usualPrecision,
  }
  if (exponent === 0 || whole.mantissa === 0n)
    return rounded(negative, whole.mantissa, whole.mantissa === 0n ? 0 : exponent, usualPrecision)
  return exponent < 0
    ? divided(whole, powerOfFive(-exponent), usualPrecision)
    : product(whole, powerOfFive(exponent), usualPrecision)
}

export function floatOf(whole: bigint): BigFloat {
  const mantissa = whole < 0n ? -whole : whole
  const precision = Math.max(usualPrecision, bitLength(mantissa))
  return { negative: whole < 0n, mantissa, exponent: 0, precision }
}

export function multiply(a: BigFloat, b: BigFloat, precision = Math.max(a.precision, b.precision)): BigFloat {
  return product(a, b, precision)
} // biome-ignore format: a long line

/** @param b Not zero. */
export function divide(a: BigFloat, b: BigFloat): BigFloat {
  return divided(a, b, Math.max(a.precision, b.precision))
}

const signed = ({ negative, mantissa }: BigFloat): bigint => (negative ? -mantissa : mantissa)

export function negate(a: BigFloat): BigFloat {
  return { ...a, negative: !a.negative }
}

export function add(a: BigFloat, b: BigFloat): BigFloat {
  const precision = Math.max(a.precision, b.precision)
  if (a.mantissa === 0n && b.mantissa === 0n)
    return { ...a, negative: a.negative && b.negative, precision }
  const exponent = Math.min(a.exponent, b.exponent)
  const [x, y] = [a, b].map((each) => signed(each) << BigInt(each.exponent - exponent))
  const sum = x! + y!
  return rounded(sum < 0n, sum < 0n ? -sum : sum, exponent, precision)
}

/** Towards zero. */
export function truncated(a: BigFloat): bigint {
  const whole =
    a.exponent >= 0 ? a.mantissa << BigInt(a.exponent) : a.mantissa >> BigInt(-a.exponent)
  return a.negative ? -whole : whole
}

export function isWhole(a: BigFloat): boolean {
  return a.exponent >= 0 || (a.mantissa & ((1n << BigInt(-a.exponent)) - 1n)) === 0n
}

export function isEqualTo(a: BigFloat, whole: bigint): boolean {
  return isWhole(a) && truncated(a) === whole
}

/** The digits d1 d2 … of 0.d1d2… × 10^`point`, without zeros at the end. */
interface Digits {
  readonly digits: string
  readonly point: number
}

function decimalOf(mantissa: bigint, exponent: number): Digits {
  const text = (exponent >= 0 ? mantissa << BigInt(exponent) : mantissa * 5n ** BigInt(-exponent)).toString()
  const point = text.length + Math.min(exponent, 0)
  return { digits: text.replace(/0+$/, ''), point }
} // biome-ignore format: long line

/** The shortest digits that are read as the same number at its precision (`roundShortest` of Go). */
function shortest({ mantissa, exponent, precision }: BigFloat): Digits {
  const exact = decimalOf(mantissa, exponent)
  // The last bit is half of the last place.
  const shift = BigInt(precision + 1 - bitLength(mantissa))
  const fine = mantissa << shift
  const [lower, upper] = [-1n, 1n].map((by) => decimalOf(fine + by, exponent - Number(shift)).digits)
  const inclusive = (fine & 2n) === 0n
  for (let i = 0; i < exact.digits.length; i++) {
    const [digit, low, high] = [exact.digits, lower!, upper!].map((digits) => Number(digits[i] ?? 0))
    const down = low !== digit || (inclusive && i + 1 === lower!.length)
    const up = digit !== high && (inclusive || digit! + 1 < high! || i + 1 < upper!.length)
    if (down && up) return isUp(exact.digits, i + 1) ? roundedUp(exact, i + 1) : roundedDown(exact, i + 1)
    if (down) return roundedDown(exact, i + 1)
    if (up) return roundedUp(exact, i + 1)
  }
  return exact
} // biome-ignore format: long lines

function isUp(digits: string, length: number): boolean {
  if (digits[length] === '5' && length + 1 === digits.length)
    return Number(digits[length - 1]) % 2 === 1
  return (digits[length] ?? '0') >= '5'
}

function roundedDown({ digits, point }: Digits, length: number): Digits {
  return { digits: digits.slice(0, length).replace(/0+$/, ''), point }
}

function roundedUp({ digits, point }: Digits, length: number): Digits {
  const kept = digits.slice(0, length).replace(/9+$/, '')
  if (kept === '') return { digits: '1', point: point + 1 }
  return { digits: kept.slice(0, -1) + String(Number(kept.at(-1)) + 1), point }
}

/** The text that OPA makes of a result: integers in full, others with an exponent where they are large or small. */
export function floatText(value: BigFloat): string {
  const sign = value.negative ? '-' : ''
  if (value.mantissa === 0n) return `${sign}0`
  const { digits, point } = shortest(value)
  if (isWhole(value)) return sign + digits.slice(0, point).padEnd(point, '0')
  const exponent = point - 1
  if (exponent < -4 || exponent >= 6) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : ''
    const size = String(Math.abs(exponent)).padStart(2, '0')
    return `${sign}${digits[0]}${fraction}e${exponent < 0 ? '-' : '+'}${size}`
  }
  if (point <= 0) return `${sign}0.${'0'.repeat(-point)}${digits}`
  return `${sign}${digits.slice(0, point).padEnd(point, '0')}${digits.length > point ? `.${digits.slice(point)}` : ''}`
}
