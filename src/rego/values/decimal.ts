/**
 * Decimal numbers as digits and an exponent. An exponent is compared, never expanded: `1e1000000000` costs no more
 * than `1`.
 */

/**
 * The number (`negative ? -1 : 1`) × `digits` × 10^`exponent`. `digits` has no zeros at either end; it is '0' for
 * zero.
 */
export interface Decimal {
  readonly negative: boolean
  readonly digits: string
  readonly exponent: number
}

/** Most digits of a number that is written without an exponent. */
const maxDigits = 100_000

const zero: Decimal = { negative: false, digits: '0', exponent: 0 }

/** @param text Text of a JSON number. */
export function readDecimal(text: string): Decimal {
  const negative = text.startsWith('-')
  const unsigned = negative ? text.slice(1) : text
  const e = unsigned.search(/[eE]/)
  const mantissa = e === -1 ? unsigned : unsigned.slice(0, e)
  const point = mantissa.indexOf('.')
  const digits = point === -1 ? mantissa : mantissa.slice(0, point) + mantissa.slice(point + 1)
  let [from, to] = [0, digits.length]
  while (from < to && digits[from] === '0') from++
  if (from === to) return zero
  while (digits[to - 1] === '0') to--
  const written = e === -1 ? 0 : Number(unsigned.slice(e + 1))
  const fraction = point === -1 ? 0 : mantissa.length - point - 1
  return {
    negative,
    digits: digits.slice(from, to),
    exponent: written - fraction + (digits.length - to),
  }
}

export function decimalKey({ negative, digits, exponent }: Decimal): string {
  return `${negative ? '-' : '+'}${digits}e${exponent}`
}

export function compareDecimals(a: Decimal, b: Decimal): number {
  if (a.digits === '0' || b.digits === '0') return sign(a) - sign(b)
  if (a.negative !== b.negative) return a.negative ? -1 : 1
  const size = a.digits.length + a.exponent - (b.digits.length + b.exponent)
  const by = size !== 0 ? size : a.digits < b.digits ? -1 : a.digits > b.digits ? 1 : 0
  return a.negative ? -by : by
}

export function sign({ digits, negative }: Decimal): number {
  return digits === '0' ? 0 : negative ? -1 : 1
}

/** @returns Undefined if the number has a fraction or too many digits. */
export function toBigInt({ negative, digits, exponent }: Decimal): bigint | undefined {
  if (exponent < 0 || digits.length + exponent > maxDigits) return undefined
  const whole = BigInt(digits + '0'.repeat(exponent))
  return negative ? -whole : whole
}

/** @returns Undefined if the computation would need too many digits. */
export function isMultiple(value: Decimal, of: Decimal): boolean | undefined {
  if (value.digits === '0') return true
  const least = Math.min(value.exponent, of.exponent)
  const [whole, step] = [value, of].map((each) =>
    toBigInt({ ...each, exponent: each.exponent - least }),
  )
  return whole === undefined || step === undefined ? undefined : whole % step === 0n
}
