/**
 * `sprintf` like Go's `fmt` (https://pkg.go.dev/fmt): flags, width, precision, `*`, argument indexes, and Go's output
 * for a verb that does not fit its argument. Arguments are integers, floats or texts; other values are converted to
 * text.
 */

import type { BuiltinTable } from '../builtin.ts'
import { bytesOf } from '../values/bytes.ts'
import { array, refuseWork, text } from '../values/operand.ts'
import { printable, quoted } from '../values/quote.ts'
import { describe, RegoNumber, type Value } from '../values/value.ts'
import { formatFloat, formatHex, formatMantissa } from './float.ts'

/** A bigint stands for integers of any size, like Go's int64 and *big.Int. */
type Argument = bigint | number | string

/** Largest width and precision (Go's limit), and most characters of one result. */
const maxWidth = 1_000_000
const maxOutput = 1 << 24

const int64 = (value: bigint): boolean => BigInt.asIntN(64, value) === value

function argument(value: Value): Argument {
  if (typeof value === 'string') return value
  if (!(value instanceof RegoNumber)) return describe(value)
  if (!/[.eE]/.test(value.text)) return BigInt(value.text)
  const double = Number(value.text)
  return Number.isFinite(double) ? double : value.text
}

interface Flags {
  plus: boolean
  minus: boolean
  sharp: boolean
  space: boolean
  zero: boolean
  width: number | undefined
  precision: number | undefined
}

class Printer {
  readonly #format: readonly string[]
  readonly #args: readonly Argument[]
  #at = 0
  #next = 0
  #reordered = false
  #goodIndex = true
  #out = ''

  constructor(format: string, args: readonly Argument[]) {
    this.#format = [...format]
    this.#args = args
  }

  print(): string {
    while (this.#at < this.#format.length) {
      const char = this.#format[this.#at++]!
      if (char === '%') this.#directive()
      else this.#out += char
      if (this.#out.length > maxOutput) refuseWork('sprintf would print more than 16 MiB')
    }
    if (!this.#reordered && this.#next < this.#args.length) {
      const extra = this.#args.slice(this.#next).map((arg) => `${goType(arg)}=${plainText(arg)}`)
      this.#out += `%!(EXTRA ${extra.join(', ')})`
    }
    return this.#out
  }

  #directive(): void {
    this.#goodIndex = true
    const flags = this.#readFlags()
    let afterIndex = this.#readIndex()
    if (this.#format[this.#at] === '*') {
      this.#at++
      const width = this.#star()
      if (width === undefined) this.#out += '%!(BADWIDTH)'
      flags.width = width
      if (width !== undefined && width < 0) {
        flags.width = -width
        flags.minus = true
        flags.zero = false
      }
      afterIndex = false
    } else {
      flags.width = this.#readNumber()
      if (afterIndex && flags.width !== undefined) this.#goodIndex = false
    }
    if (this.#format[this.#at] === '.') {
      this.#at++
      if (afterIndex) this.#goodIndex = false
      afterIndex = this.#readIndex()
      if (this.#format[this.#at] === '*') {
        this.#at++
        const precision = this.#star()
        if (precision === undefined || precision < 0) {
          if (precision === undefined) this.#out += '%!(BADPREC)'
          flags.precision = undefined
        } else flags.precision = precision
        afterIndex = false
      } else flags.precision = this.#readNumber() ?? 0
    }
    if (!afterIndex) this.#readIndex()
    const verb = this.#format[this.#at++]
    if (verb === undefined) this.#out += '%!(NOVERB)'
    else if (verb === '%') this.#out += '%'
    else if (!this.#goodIndex) this.#out += `%!${verb}(BADINDEX)`
    else if (this.#next >= this.#args.length) this.#out += `%!${verb}(MISSING)`
    else this.#out += formatted(verb, this.#args[this.#next++]!, flags)
  }

  #readFlags(): Flags {
    const flags: Flags = {
      plus: false,
      minus: false,
      sharp: false,
      space: false,
      zero: false,
      width: undefined,
      precision: undefined,
    }
    for (; ; this.#at++) {
      switch (this.#format[this.#at]) {
        case '+':
          flags.plus = true
          break
        case '-':
          flags.minus = true
          flags.zero = false
          break
        case '#':
          flags.sharp = true
          break
        case ' ':
          flags.space = true
          break
        case '0':
          flags.zero = !flags.minus
          break
        default:
          return flags
      }
    }
  }

  #readNumber(): number | undefined {
    let digits = ''
    while (/^[0-9]$/.test(this.#format[this.#at] ?? '')) digits += this.#format[this.#at++]
    if (digits === '') return undefined
    const value = Number(digits)
    return value > maxWidth ? undefined : value
  }

  /** Reads an argument index such as `[3]`. @returns True if there was one. */
  #readIndex(): boolean {
    if (this.#format[this.#at] !== '[') return false
    this.#reordered = true
    const close = this.#format.indexOf(']', this.#at)
    const digits = close === -1 ? '' : this.#format.slice(this.#at + 1, close).join('')
    const index = /^[0-9]{1,7}$/.test(digits) ? Number(digits) : 0
    this.#at = close === -1 ? this.#at + 1 : close + 1
    if (index >= 1 && index <= this.#args.length) this.#next = index - 1
    else this.#goodIndex = false
    return close !== -1
  }

  #star(): number | undefined {
    const arg = this.#args[this.#next]
    if (this.#next < this.#args.length) this.#next++
    return typeof arg === 'bigint' && arg >= -maxWidth && arg <= maxWidth ? Number(arg) : undefined
  }
}

function goType(arg: Argument): string {
  if (typeof arg === 'string') return 'string'
  if (typeof arg === 'number') return 'float64'
  return int64(arg) ? 'int64' : '*big.Int'
}

function plainText(arg: Argument): string {
  return typeof arg === 'number' ? formatFloat(arg, 'g', -1) : String(arg)
}

function formatted(verb: string, arg: Argument, flags: Flags): string {
  if (verb === 'T') return pad(goType(arg), flags)
  const done =
    typeof arg === 'string'
      ? ofString(verb, arg, flags)
      : typeof arg === 'number'
        ? ofFloat(verb, arg, flags)
        : ofInteger(verb, arg, flags)
  // For a *big.Int, Go prints its own form of the error.
  if (done === undefined && typeof arg === 'bigint' && !int64(arg)) {
    return `%!${verb}(big.Int=${arg})`
  }
  // For a verb that does not fit, Go still applies the flags to the value.
  return done ?? `%!${verb}(${goType(arg)}=${formatted('v', arg, flags)})`
}

function pad(text: string, { width = 0, minus, zero }: Flags): string {
  const missing = width - [...text].length
  if (missing <= 0) return text
  if (minus) return text + ' '.repeat(missing)
  return (zero ? '0' : ' ').repeat(missing) + text
}

function ofString(verb: string, arg: string, flags: Flags): string | undefined {
  const { precision, sharp, plus } = flags
  const cut = precision === undefined ? arg : [...arg].slice(0, precision).join('')
  switch (verb) {
    case 'v':
    case 's':
      if (verb === 'v' && sharp) return pad(quoted(cut, plus), flags)
      return pad(cut, flags)
    case 'q':
      if (sharp && !cut.includes('`') && !/[\0-\x08\x0a-\x1f\x7f\ufeff]/.test(cut))
        return pad(`\`${cut}\``, flags)
      return pad(quoted(cut, plus), flags)
    case 'x':
    case 'X':
      return pad(hexOf(arg, verb, flags), flags)
    default:
      return undefined
  }
}

function hexOf(arg: string, verb: string, { precision, sharp, space }: Flags): string {
  const bytes = bytesOf(arg)
  const kept = precision === undefined ? bytes : bytes.subarray(0, precision)
  if (kept.length === 0) return ''
  const prefix = sharp ? '0x' : ''
  const pairs = kept.toString('hex').match(/../g)!
  const out = prefix + pairs.join(space ? ` ${prefix}` : '')
  return verb === 'X' ? out.toUpperCase() : out
}

function signed(sign: string, body: string, flags: Flags, zeroPads: boolean): string {
  const prefix = sign !== '' ? sign : flags.plus ? '+' : flags.space ? ' ' : ''
  if (!zeroPads) return pad(prefix + body, { ...flags, zero: false })
  return prefix + body.padStart((flags.width ?? 0) - prefix.length, '0')
}

function ofFloat(verb: string, arg: number, flags: Flags): string | undefined {
  const finite = Number.isFinite(arg)
  const sign = arg < 0 || Object.is(arg, -0) ? '-' : ''
  const lower = verb === 'v' ? 'g' : verb === 'B' ? '' : verb.toLowerCase()
  let body: string
  if (lower === 'b') body = formatMantissa(Math.abs(arg))
  else if (lower === 'x') body = formatHex(Math.abs(arg), flags.precision ?? -1)
  else if (lower === 'e' || lower === 'f' || lower === 'g') {
    const precision = flags.precision ?? (lower === 'g' ? -1 : 6)
    body = formatFloat(Math.abs(arg), lower, precision)
  } else return undefined
  const cased = /[EGX]/.test(verb) ? body.toUpperCase() : body
  return signed(sign, cased, flags, finite && flags.zero && !flags.minus)
}

const radix: Readonly<Record<string, number>> = { b: 2, o: 8, O: 8, d: 10, v: 10, x: 16, X: 16 }

function ofInteger(verb: string, arg: bigint, flags: Flags): string | undefined {
  const big = !int64(arg)
  if (verb === 'c' && !big) return pad(runeText(arg), flags)
  if (verb === 'q' && !big) return pad(quotedRune(runeText(arg)), flags)
  if (verb === 'U' && !big) return pad(unicodeText(arg, flags), { ...flags, zero: false })
  // A *big.Int treats %s like %d.
  const base = verb === 's' && big ? 10 : Object.hasOwn(radix, verb) ? radix[verb] : undefined
  if (base === undefined) return undefined
  const size = arg < 0n ? -arg : arg
  if (flags.precision === 0 && size === 0n) return ' '.repeat(flags.width ?? 0)
  let digits = size.toString(base)
  if (verb === 'X') digits = digits.toUpperCase()
  if (flags.precision !== undefined) digits = digits.padStart(flags.precision, '0')
  let prefix = verb === 'O' ? '0o' : ''
  if (flags.sharp) {
    if (verb === 'x' || verb === 'X') prefix = `0${verb}`
    else if (verb === 'b') prefix = '0b'
    else if (verb === 'o' && !digits.startsWith('0')) prefix = '0'
  }
  const zeroPads = flags.zero && !flags.minus && flags.precision === undefined
  const sign = arg < 0n ? '-' : ''
  if (!zeroPads) return signed(sign, prefix + digits, flags, false)
  const lead = (sign !== '' ? sign : flags.plus ? '+' : flags.space ? ' ' : '') + prefix
  return lead + digits.padStart((flags.width ?? 0) - lead.length + prefix.length, '0')
}

function runeText(arg: bigint): string {
  const valid = arg >= 0n && arg <= 0x10ffffn && !(arg >= 0xd800n && arg <= 0xdfffn)
  return valid ? String.fromCodePoint(Number(arg)) : '\ufffd'
}

function quotedRune(char: string): string {
  const inner = quoted(char).slice(1, -1)
  return `'${char === '"' ? '"' : char === "'" ? "\\'" : inner}'`
}

function unicodeText(arg: bigint, { precision, sharp }: Flags): string {
  const size = BigInt.asUintN(64, arg)
  const digits = size
    .toString(16)
    .toUpperCase()
    .padStart(Math.max(precision ?? 4, 4), '0')
  const char = size <= 0x10ffffn ? runeText(size) : ''
  return `U+${digits}${sharp && char !== '' && printable(char) ? ` '${char}'` : ''}`
}

/** Formats a text like Go's `fmt.Sprintf`. */
export function formatText(format: string, values: readonly Value[]): string {
  return new Printer(format, values.map(argument)).print()
}

export const sprintfBuiltins: BuiltinTable = {
  sprintf: { call: (args) => formatText(text(args, 0), array(args, 1)) },
}
