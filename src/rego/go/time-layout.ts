/**
 * Formats and parses times with Go's reference layouts (https://pkg.go.dev/time#pkg-constants), such as
 * `2006-01-02T15:04:05Z07:00`, with Go's rules for optional parts and ranges.
 */

import { BuiltinError } from '../values/operand.ts'
import {
  type DateParts,
  daysInMonth,
  daysOf,
  fixedZone,
  nsOf,
  partsOf,
  splitNs,
  unixOf,
  utc,
  type Zone,
} from './calendar.ts'

const longMonths = [
  'January', 'February', 'March', 'April', 'May', 'June',
  'July', 'August', 'September', 'October', 'November', 'December',
] // biome-ignore format: a list
export const longDays = [
  'Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday',
] // biome-ignore format: a list
const short = (name: string): string => name.slice(0, 3)

/** Layouts that have a name in Go. */
const named: Readonly<Record<string, string>> = {
  ANSIC: 'Mon Jan _2 15:04:05 2006',
  UnixDate: 'Mon Jan _2 15:04:05 MST 2006',
  RubyDate: 'Mon Jan 02 15:04:05 -0700 2006',
  RFC822: '02 Jan 06 15:04 MST',
  RFC822Z: '02 Jan 06 15:04 -0700',
  RFC850: 'Monday, 02-Jan-06 15:04:05 MST',
  RFC1123: 'Mon, 02 Jan 2006 15:04:05 MST',
  RFC1123Z: 'Mon, 02 Jan 2006 15:04:05 -0700',
  RFC3339: '2006-01-02T15:04:05Z07:00',
  RFC3339Nano: '2006-01-02T15:04:05.999999999Z07:00',
}

export function layoutNamed(layout: string): string {
  return Object.hasOwn(named, layout) ? named[layout]! : layout
}

/** Elements of a layout; an element that begins with another one comes before it. */
const elements = [
  'January', 'Jan', 'Monday', 'Mon', 'MST', '002', '01', '02', '03', '04', '05', '06', '15', '1', '2006', '2',
  '_2', '__2', '3', '4', '5', 'PM', 'pm', '-070000', '-07:00:00', '-0700', '-07:00', '-07',
  'Z070000', 'Z07:00:00', 'Z0700', 'Z07:00', 'Z07',
] as const // biome-ignore format: a list

const dateElements = [
  '06', '2006', 'Jan', 'January', '1', '01', 'Mon', 'Monday', '2', '_2', '02', '__2', '002',
] as const // biome-ignore format: a list
type DateElement = (typeof dateElements)[number]

function isDate(element: Element): element is DateElement {
  return (dateElements as readonly Element[]).includes(element)
}

/** A fraction of a second: `.` and repeated digits. `0` is written with all digits, `9` without zeros at the end. */
interface Fraction {
  readonly separator: string
  readonly digit: '0' | '9'
  readonly count: number
}
type Element = (typeof elements)[number] | Fraction

interface Chunk {
  readonly prefix: string
  readonly element: Element | undefined
  readonly suffix: string
}

function nextChunk(layout: string): Chunk {
  for (let i = 0; i < layout.length; i++) {
    // "_2006" means an underscore, then the year.
    if (layout.startsWith('_2006', i)) return chunk(layout, i + 1, '2006', 4)
    const found = elements.find((each) => layout.startsWith(each, i))
    if (found !== undefined) {
      const followed = layout.charCodeAt(i + 3)
      const isWord = (found === 'Jan' || found === 'Mon') && followed >= 97 && followed <= 122
      if (!isWord) return chunk(layout, i, found, found.length)
    }
    const separator = layout[i]!
    const digit = layout[i + 1]
    if ((separator === '.' || separator === ',') && (digit === '0' || digit === '9')) {
      let end = i + 1
      while (layout[end] === digit) end++
      if (!isDigit(layout, end)) {
        return chunk(layout, i, { separator, digit, count: end - i - 1 }, end - i)
      }
    }
  }
  return { prefix: layout, element: undefined, suffix: '' }
}

function chunk(layout: string, at: number, element: Element, length: number): Chunk {
  return { prefix: layout.slice(0, at), element, suffix: layout.slice(at + length) }
}

function isDigit(text: string, at: number): boolean {
  const code = text.charCodeAt(at)
  return code >= 48 && code <= 57
}

function pad(value: number, width: number): string {
  return value < 0 ? `-${pad(-value, width)}` : String(value).padStart(width, '0')
}

export function formatTime(ns: bigint, zone: Zone, layout: string): string {
  const { unixS, nanos } = splitNs(ns)
  const parts = partsOf(unixS, zone)
  const { offsetS } = zone.at(unixS)
  let out = ''
  let rest = layout
  while (rest !== '') {
    const { prefix, element, suffix } = nextChunk(rest)
    out += prefix
    if (element === undefined) break
    rest = suffix
    if (typeof element === 'object') out += fraction(nanos, element)
    else if (element === 'MST') out += zone.at(unixS).abbreviation || offset(offsetS, '-0700')
    else if (element.startsWith('Z') && offsetS === 0) out += 'Z'
    else if (/^[Z-]/.test(element)) out += offset(offsetS, element)
    else out += part(element, parts)
  }
  return out
}

function fraction(nanos: number, { separator, digit, count }: Fraction): string {
  const digits = pad(nanos, 9).slice(0, count)
  const kept = digit === '9' ? digits.replace(/0+$/, '') : digits
  return kept === '' ? '' : separator + kept
}

function offset(offsetS: number, element: string): string {
  const minutes = Math.trunc(offsetS / 60)
  const colon = element.includes(':') ? ':' : ''
  const absolute = Math.abs(minutes)
  let out = (minutes < 0 ? '-' : '+') + pad(Math.floor(absolute / 60), 2)
  if (element.length > 3) out += colon + pad(absolute % 60, 2)
  if (element.length > 6) out += colon + pad(Math.abs(offsetS) % 60, 2)
  return out
}

function part(element: string, parts: DateParts & { readonly days: number }): string {
  const { year, month, day, hour, minute, second, days } = parts
  const weekday = longDays[(((days + 4) % 7) + 7) % 7]!
  const yearDay = days - daysOf(year, 1, 1) + 1
  const hour12 = hour % 12 === 0 ? 12 : hour % 12
  switch (element) {
    case '2006':
      return pad(year, 4)
    case '06':
      return pad(Math.abs(year) % 100, 2)
    case 'January':
      return longMonths[month - 1]!
    case 'Jan':
      return short(longMonths[month - 1]!)
    case '1':
      return String(month)
    case '01':
      return pad(month, 2)
    case 'Monday':
      return weekday
    case 'Mon':
      return short(weekday)
    case '2':
      return String(day)
    case '_2':
      return String(day).padStart(2)
    case '02':
      return pad(day, 2)
    case '__2':
      return String(yearDay).padStart(3)
    case '002':
      return pad(yearDay, 3)
    case '15':
      return pad(hour, 2)
    case '3':
      return String(hour12)
    case '03':
      return pad(hour12, 2)
    case '4':
      return String(minute)
    case '04':
      return pad(minute, 2)
    case '5':
      return String(second)
    case '05':
      return pad(second, 2)
    case 'PM':
      return hour >= 12 ? 'PM' : 'AM'
    default:
      return hour >= 12 ? 'pm' : 'am'
  }
}

/** @returns Nanoseconds since 1970; the caller must check that they fit into 64 bits. @throws BuiltinError */
export function parseTime(layout: string, value: string): bigint {
  return new TimeReader(layout, value).read()
}

class TimeReader {
  readonly #whole: string
  #layout: string
  #value: string
  #year = 0
  #month = -1
  #day = -1
  #yearDay = -1
  #hour = 0
  #minute = 0
  #second = 0
  #nanos = 0
  #half: 'am' | 'pm' | undefined
  #zone: Zone | undefined

  constructor(layout: string, value: string) {
    this.#layout = layout
    this.#whole = value
    this.#value = value
  }

  read(): bigint {
    for (;;) {
      const { prefix, element, suffix } = nextChunk(this.#layout)
      this.#skip(prefix)
      if (element === undefined) break
      this.#layout = suffix
      if (typeof element === 'object') this.#readFraction(element)
      else this.#readElement(element)
    }
    if (this.#value !== '') throw this.#bad('extra text')
    if (this.#half === 'pm' && this.#hour < 12) this.#hour += 12
    if (this.#half === 'am' && this.#hour === 12) this.#hour = 0
    this.#settleDay()
    const zone = this.#zone ?? utc
    const seconds = unixOf(
      {
        year: this.#year,
        month: this.#month,
        day: this.#day,
        hour: this.#hour,
        minute: this.#minute,
        second: this.#second,
      },
      zone,
    )
    return nsOf(seconds, this.#nanos)
  }

  #bad(why: string): BuiltinError {
    return new BuiltinError(`parsing time ${JSON.stringify(this.#whole)}: ${why}`)
  }

  #skip(prefix: string): void {
    let rest = prefix
    while (rest !== '') {
      if (rest.startsWith(' ')) {
        if (this.#value !== '' && !this.#value.startsWith(' ')) throw this.#bad('no space')
        rest = rest.replace(/^ +/, '')
        this.#value = this.#value.replace(/^ +/, '')
      } else {
        if (this.#value === '' || this.#value[0] !== rest[0]) throw this.#bad(`no ${rest[0]}`)
        rest = rest.slice(1)
        this.#value = this.#value.slice(1)
      }
    }
  }

  #take(length: number): string {
    if (this.#value.length < length) throw this.#bad('too short')
    const taken = this.#value.slice(0, length)
    this.#value = this.#value.slice(length)
    return taken
  }

  /** Reads one or two digits, exactly two if `fixed` is true. */
  #number(fixed: boolean, name: string, min: number, max: number): number {
    if (!isDigit(this.#value, 0) || (fixed && !isDigit(this.#value, 1))) throw this.#bad(name)
    const value = Number(this.#take(isDigit(this.#value, 1) ? 2 : 1))
    if (value < min || value > max) throw this.#bad(`${name} out of range`)
    return value
  }

  #word(words: readonly string[]): number {
    const lower = this.#value.toLowerCase()
    const at = words.findIndex((word) => lower.startsWith(word.toLowerCase()))
    if (at === -1) throw this.#bad(`none of ${words[0]}…`)
    this.#take(words[at]!.length)
    return at
  }

  #readElement(element: Exclude<Element, Fraction>): void {
    if (isDate(element)) this.#readDate(element)
    else this.#readTimeOfDay(element)
  }

  #readDate(element: DateElement): void {
    switch (element) {
      case '06': {
        const year = this.#digits(2)
        this.#year = year >= 69 ? 1900 + year : 2000 + year
        break
      }
      case '2006':
        this.#year = this.#digits(4)
        break
      case 'Jan':
        this.#month = this.#word(longMonths.map(short)) + 1
        break
      case 'January':
        this.#month = this.#word(longMonths) + 1
        break
      case '1':
      case '01':
        this.#month = this.#number(element === '01', 'month', 1, 12)
        break
      case 'Mon':
        this.#word(longDays.map(short))
        break
      case 'Monday':
        this.#word(longDays)
        break
      case '2':
      case '_2':
      case '02':
        if (element === '_2' && this.#value.startsWith(' ')) this.#take(1)
        this.#day = this.#number(element === '02', 'day', 0, 99)
        break
      case '__2':
      case '002': {
        for (let i = 0; i < 2 && element === '__2' && this.#value.startsWith(' '); i++)
          this.#take(1)
        let length = 0
        while (length < 3 && isDigit(this.#value, length)) length++
        if (length === 0 || (element === '002' && length !== 3)) throw this.#bad('day of year')
        this.#yearDay = this.#digits(length)
        break
      }
    }
  }

  #readTimeOfDay(element: Exclude<Element, Fraction | DateElement>): void {
    switch (element) {
      case '15':
        this.#hour = this.#number(false, 'hour', 0, 23)
        break
      case '3':
      case '03':
        this.#hour = this.#number(element === '03', 'hour', 0, 12)
        break
      case '4':
      case '04':
        this.#minute = this.#number(element === '04', 'minute', 0, 59)
        break
      case '5':
      case '05':
        this.#second = this.#number(element === '05', 'second', 0, 59)
        this.#readUnasked()
        break
      case 'PM':
      case 'pm': {
        const half = this.#take(2)
        if (half !== element && half !== (element === 'PM' ? 'AM' : 'am')) throw this.#bad('half')
        this.#half = half.toLowerCase() as 'am' | 'pm'
        break
      }
      case 'MST':
        this.#readAbbreviation()
        break
      default:
        this.#readOffset(element)
    }
  }

  #digits(length: number): number {
    const taken = this.#take(length)
    for (let i = 0; i < length; i++) if (!isDigit(taken, i)) throw this.#bad('not a number')
    return Number(taken)
  }

  /** Reads a fraction of a second even if the layout has none, as Go does. */
  #readUnasked(): void {
    if (!/^[.,]/.test(this.#value) || !isDigit(this.#value, 1)) return
    if (typeof nextChunk(this.#layout).element === 'object') return
    let end = 2
    while (isDigit(this.#value, end)) end++
    this.#nanos = this.#nanoseconds(end)
  }

  #readFraction({ digit, count }: Fraction): void {
    if (digit === '0') {
      this.#nanos = this.#nanoseconds(1 + count)
      return
    }
    if (!/^[.,]/.test(this.#value) || !isDigit(this.#value, 1)) return
    let end = 1
    while (isDigit(this.#value, end)) end++
    this.#nanos = this.#nanoseconds(end)
  }

  #nanoseconds(length: number): number {
    const taken = this.#take(length)
    if (!/^[.,][0-9]*$/.test(taken)) throw this.#bad('fractional second')
    return Number(taken.slice(1, 10).padEnd(9, '0'))
  }

  #readOffset(element: string): void {
    if (element.startsWith('Z') && this.#value.startsWith('Z')) {
      this.#take(1)
      this.#zone = utc
      return
    }
    const taken = this.#take(element.length)
    const sign = taken[0]
    const colon = element.includes(':')
    const fields = [taken.slice(1, 3)]
    if (element.length > 3) fields.push(taken.slice(colon ? 4 : 3, colon ? 6 : 5))
    if (element.length > 6) fields.push(taken.slice(colon ? 7 : 5))
    const shape = `${sign}${fields.join(colon ? ':' : '')}`
    if (shape !== taken || !fields.every((field) => /^[0-9]{2}$/.test(field)))
      throw this.#bad('offset')
    const [hour, minute = 0, second = 0] = fields.map(Number)
    if (hour! > 24 || minute > 60 || second > 60 || (sign !== '+' && sign !== '-')) {
      throw this.#bad('offset out of range')
    }
    const seconds = (hour! * 60 + minute) * 60 + second
    this.#zone = fixedZone(sign === '-' ? -seconds : seconds, '')
  }

  /** Reads a zone abbreviation. The offset of an abbreviation other than UTC is unknown; Go then uses UTC. */
  #readAbbreviation(): void {
    const known = /^(?:UTC|ChST|MeST|GMT)/.exec(this.#value)?.[0]
    if (known !== undefined) {
      this.#take(known.length)
      if (known === 'GMT') this.#readHours()
    } else if (/^[+-]/.test(this.#value)) {
      if (!this.#readHours()) throw this.#bad('zone')
    } else {
      const upper = /^[A-Z]{1,6}/.exec(this.#value)?.[0] ?? ''
      const fine =
        upper.length === 3 ||
        (upper.length === 4 && (upper[3] === 'T' || upper === 'WITA')) ||
        (upper.length === 5 && upper[4] === 'T')
      if (!fine) throw this.#bad('zone')
      this.#take(upper.length)
    }
    if (known === 'UTC') this.#zone = utc
  }

  /** Reads hours after `GMT`. @returns True if there were any. */
  #readHours(): boolean {
    const hours = /^[+-]([0-9]+)/.exec(this.#value)
    if (hours === null || Number(hours[1]) > 23) return false
    this.#take(hours[0].length)
    return true
  }

  #settleDay(): void {
    if (this.#yearDay !== -1) {
      const length = daysOf(this.#year + 1, 1, 1) - daysOf(this.#year, 1, 1)
      if (this.#yearDay < 1 || this.#yearDay > length) throw this.#bad('day of year out of range')
      let month = 1
      let day = this.#yearDay
      while (day > daysInMonth(this.#year, month)) day -= daysInMonth(this.#year, month++)
      if (this.#month >= 0 && this.#month !== month) throw this.#bad('day of year, month')
      if (this.#day >= 0 && this.#day !== day) throw this.#bad('day of year, day')
      this.#month = month
      this.#day = day
    }
    if (this.#month < 0) this.#month = 1
    if (this.#day < 0) this.#day = 1
    if (this.#day < 1 || this.#day > daysInMonth(this.#year, this.#month)) {
      throw this.#bad('day out of range')
    }
  }
}
