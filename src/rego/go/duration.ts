/**
 * Durations in Go's form (`1h30m`, `1.5s`), and OPA's additional units `d`, `w`, `y`.
 */
import { BuiltinError } from '../values/operand.ts'

const unitsNs: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3, // U+00B5, the micro sign
  μs: 1e3, // U+03BC, the letter mu
  ms: 1e6,
  s: 1e9,
  m: 6e10,
  h: 3.6e12,
}
const longUnitsHours: Readonly<Record<string, number>> = { d: 24, w: 168, y: 8760 }

const most = 1n << 63n

/** @returns Nanoseconds. @throws BuiltinError */
export function parseDuration(text: string): bigint {
  if (!/[dwy]/.test(text)) return parseShort(text)
  if (!/^[-+]?(?:[0-9.]+(?:ms|us|µs|ns|[a-z]))+$/.test(text)) throw bad(text)
  const short = text.replace(/([0-9.]+)([dwy])/g, (_, digits: string, unit: string) => {
    const value = /^(?:[0-9]+\.?[0-9]*|\.[0-9]+)$/.test(digits) ? Number(digits) : Number.NaN
    if (!Number.isFinite(value)) throw bad(text)
    return `${plain(value * longUnitsHours[unit]!)}h`
  })
  return parseShort(short)
}

/** Writes a number without an exponent. */
function plain(value: number): string {
  if (value >= 1e21) return '9'.repeat(22)
  return value !== 0 && value < 1e-6 ? value.toFixed(20) : String(value)
}

function parseShort(text: string): bigint {
  const match = /^([-+]?)(.+)$/s.exec(text)
  if (match === null) throw bad(text)
  const [, sign, body] = match as unknown as [string, string, string]
  if (body === '0') return 0n
  let total = 0n
  let at = 0
  while (at < body.length) {
    const segment = /([0-9]*)(?:\.([0-9]*))?([^0-9.]+)/y
    segment.lastIndex = at
    const found = segment.exec(body)
    if (found === null) throw bad(text)
    const [whole, digits, fraction = '', unit] = found as unknown as [
      string,
      string,
      string,
      string,
    ]
    const unitNs = Object.hasOwn(unitsNs, unit) ? unitsNs[unit]! : undefined
    if ((digits === '' && fraction === '') || unitNs === undefined) throw bad(text)
    total += (digits === '' ? 0n : BigInt(digits)) * BigInt(unitNs) + fractionNs(fraction, unitNs)
    if (total > most) throw bad(text)
    at += whole.length
  }
  if (sign !== '-' && total === most) throw bad(text)
  return sign === '-' ? -total : total
}

/** Computes with doubles, as Go does: fractions of a nanosecond are cut off. */
function fractionNs(digits: string, unitNs: number): bigint {
  let [value, scale] = [0, 1]
  for (const digit of digits.slice(0, 18)) {
    value = value * 10 + Number(digit)
    scale *= 10
  }
  return BigInt(Math.trunc(value * (unitNs / scale)))
}

function bad(text: string): BuiltinError {
  return new BuiltinError(`time: invalid duration ${JSON.stringify(text)}`)
}
