/**
 * Formats doubles like Go's `strconv`: `%e`, `%f`, `%g`, correctly rounded, halves to even.
 */

/** Number of decimal places after which every double has only zeros. */
const maxFraction = 1100

/** @param precision Number of digits after the point; -1 for as many as the value needs. */
export function formatFloat(value: number, verb: 'e' | 'f' | 'g', precision: number): string {
  if (Number.isNaN(value)) return 'NaN'
  const sign = value < 0 || Object.is(value, -0) ? '-' : ''
  const size = Math.abs(value)
  if (size === Infinity) return `${sign === '' ? '+' : sign}Inf`
  return sign + (verb === 'g' ? general(size, precision) : fixedOrExponent(size, verb, precision))
}

function fixedOrExponent(size: number, verb: 'e' | 'f', precision: number): string {
  if (verb === 'e') {
    const { digits, exponent } = precision < 0 ? shortest(size) : significant(size, precision + 1)
    return scientific(precision < 0 ? digits : digits.padEnd(precision + 1, '0'), exponent)
  }
  if (precision < 0) {
    const { digits, exponent } = shortest(size)
    return plain(digits, exponent, 0)
  }
  const places = Math.min(precision, maxFraction)
  const scaled = roundScaled(size, places)
    .toString()
    .padStart(places + 1, '0')
  const whole = scaled.slice(0, scaled.length - places)
  const fraction = scaled.slice(scaled.length - places).padEnd(precision, '0')
  return precision === 0 ? whole : `${whole}.${fraction}`
}

/** Formats with `%e` or `%f`, depending on the exponent (`%g`). */
function general(size: number, precision: number): string {
  const wanted = precision === 0 ? 1 : precision
  const { digits, exponent } = wanted < 0 ? shortest(size) : significant(size, wanted)
  const kept = digits.replace(/0+$/, '') || '0'
  // The choice between %e and %f compares the exponent with six digits for the shortest form, else with the requested
  // digits, or with the digits of the number if it has fewer.
  const limit =
    wanted < 0 ? 6 : wanted > kept.length && kept.length >= exponent + 1 ? kept.length : wanted
  if (exponent < -4 || exponent >= limit) return scientific(kept, exponent)
  return plain(kept, exponent, 0)
}

/** Digits of a number and the exponent of the first digit. */
interface Scientific {
  readonly digits: string
  readonly exponent: number
}

function shortest(size: number): Scientific {
  const [mantissa, exponent] = size.toExponential().split('e') as [string, string]
  return { digits: mantissa.replace('.', ''), exponent: Number(exponent) }
}

function significant(size: number, count: number): Scientific {
  if (size === 0) return { digits: '0', exponent: 0 }
  const { exponent } = shortest(size)
  const places = Math.min(count, maxFraction) - 1 - exponent
  const digits = roundScaled(size, places).toString()
  // Rounding may have produced one more digit.
  const carried = digits.length - Math.min(count, maxFraction)
  return { digits: digits.slice(0, count), exponent: exponent + Math.max(carried, 0) }
}

/** Returns mantissa and exponent with `size` = mantissa × 2^exponent. */
function binary(size: number): { mantissa: bigint; exponent: number } {
  const view = new DataView(new ArrayBuffer(8))
  view.setFloat64(0, size)
  const bits = view.getBigUint64(0)
  const biased = Number(bits >> 52n)
  const fraction = bits & 0xfffffffffffffn
  return {
    mantissa: biased === 0 ? fraction : fraction | 0x10000000000000n,
    exponent: Math.max(biased, 1) - 1075,
  }
}

/** Formats like Go's `%b`: the stored mantissa and exponent. */
export function formatMantissa(size: number): string {
  const { mantissa, exponent } = binary(size)
  return `${mantissa}p${exponent < 0 ? '-' : '+'}${Math.abs(exponent)}`
}

/** Formats like Go's `%x`: hexadecimal with one bit before the point. */
export function formatHex(size: number, precision: number): string {
  let { mantissa, exponent } = binary(size)
  if (mantissa === 0n) return `0x0${precision > 0 ? `.${'0'.repeat(precision)}` : ''}p+00`
  while (mantissa < 0x10000000000000n) {
    mantissa <<= 1n
    exponent--
  }
  const places = precision < 0 ? 13 : Math.min(precision, 13)
  const dropped = BigInt((13 - places) * 4)
  const half = dropped === 0n ? 0n : 1n << (dropped - 1n)
  const rest = mantissa & ((1n << dropped) - 1n)
  let kept = mantissa >> dropped
  if (dropped > 0n && (rest > half || (rest === half && (kept & 1n) === 1n))) kept++
  if (kept >> BigInt(places * 4) > 1n) {
    kept >>= 1n
    exponent++
  }
  const digits = kept.toString(16).slice(1)
  const fraction = precision < 0 ? digits.replace(/0+$/, '') : digits.padEnd(precision, '0')
  const power = exponent + 52
  const sized = String(Math.abs(power)).padStart(2, '0')
  return `0x1${fraction === '' ? '' : `.${fraction}`}p${power < 0 ? '-' : '+'}${sized}`
}

/** Returns `size` × 10^`places`, rounded to an integer, halves to even. */
function roundScaled(size: number, places: number): bigint {
  const { mantissa, exponent } = binary(size)
  let [numerator, denominator] = [mantissa, 1n]
  if (exponent >= 0) numerator <<= BigInt(exponent)
  else denominator <<= BigInt(-exponent)
  if (places >= 0) numerator *= 10n ** BigInt(places)
  else denominator *= 10n ** BigInt(-places)
  const quotient = numerator / denominator
  const twice = (numerator % denominator) * 2n
  const up = twice > denominator || (twice === denominator && (quotient & 1n) === 1n)
  return up ? quotient + 1n : quotient
}

function scientific(digits: string, exponent: number): string {
  const mantissa = digits.length > 1 ? `${digits[0]}.${digits.slice(1)}` : digits
  const size = String(Math.abs(exponent)).padStart(2, '0')
  return `${mantissa}e${exponent < 0 ? '-' : '+'}${size}`
}

function plain(digits: string, exponent: number, minFraction: number): string {
  const point = exponent + 1
  const whole = point <= 0 ? '0' : digits.slice(0, point).padEnd(point, '0')
  const fraction = (point < 0 ? '0'.repeat(-point) : '') + digits.slice(Math.max(point, 0))
  return fraction === '' && minFraction === 0
    ? whole
    : `${whole}.${fraction.padEnd(minFraction, '0')}`
}
