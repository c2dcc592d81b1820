/**
 * Points in time like Go's `time.Time`: nanoseconds since 1970 and a zone, with dates of the proleptic Gregorian
 * calendar. Zones come from the time zone data of Node, not from the machine.
 */
import { BuiltinError } from '../values/operand.ts'

const secondNs = 1_000_000_000n

export interface Zone {
  /** Name of the zone; '' for a zone that is only an offset. */
  readonly name: string
  /** Returns the offset in seconds east of Greenwich at a given time, and the zone's abbreviation at that time. */
  readonly at: (unixS: number) => { readonly offsetS: number; readonly abbreviation: string }
}

export const utc: Zone = { name: 'UTC', at: () => ({ offsetS: 0, abbreviation: 'UTC' }) }

export function fixedZone(offsetS: number, abbreviation: string): Zone {
  return { name: '', at: () => ({ offsetS, abbreviation }) }
}

export interface DateParts {
  readonly year: number
  /** Month from 1 to 12. */
  readonly month: number
  readonly day: number
  readonly hour: number
  readonly minute: number
  readonly second: number
}

const minNs = -(1n << 63n)
const maxNs = (1n << 63n) - 1n

/** @throws BuiltinError for a time that does not fit into 64 bits of nanoseconds. */
export function checkedNs(ns: bigint): bigint {
  if (ns < minNs || ns > maxNs) throw new BuiltinError('time outside of valid range')
  return ns
}

/** Splits nanoseconds into whole seconds and the remaining nanoseconds. */
export function splitNs(ns: bigint): { unixS: number; nanos: number } {
  const nanos = ((ns % secondNs) + secondNs) % secondNs
  return { unixS: Number((ns - nanos) / secondNs), nanos: Number(nanos) }
}

export function nsOf(unixS: number, nanos: number): bigint {
  return BigInt(unixS) * secondNs + BigInt(nanos)
}

/** Returns days since 1970-01-01. Months and days outside their range carry over. */
export function daysOf(year: number, month: number, day: number): number {
  const months = year * 12 + (month - 1)
  const y = Math.floor(months / 12)
  const m = months - y * 12 + 1
  // Years start in March here, so that the leap day is the last day of a year (Howard Hinnant, "chrono-compatible date
  // algorithms").
  const shifted = m <= 2 ? y - 1 : y
  const era = Math.floor(shifted / 400)
  const yearOfEra = shifted - era * 400
  const dayOfYear = Math.floor((153 * (m + (m > 2 ? -3 : 9)) + 2) / 5)
  const dayOfEra =
    yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear
  return era * 146097 + dayOfEra - 719468 + (day - 1)
}

export function dateOf(days: number): { year: number; month: number; day: number } {
  const z = days + 719468
  const era = Math.floor(z / 146097)
  const dayOfEra = z - era * 146097
  const yearOfEra = Math.floor(
    (dayOfEra -
      Math.floor(dayOfEra / 1460) +
      Math.floor(dayOfEra / 36524) -
      Math.floor(dayOfEra / 146096)) /
      365,
  )
  const dayOfYear =
    dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const mp = Math.floor((5 * dayOfYear + 2) / 153)
  const month = mp < 10 ? mp + 3 : mp - 9
  return {
    year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0),
    month,
    day: dayOfYear - Math.floor((153 * mp + 2) / 5) + 1,
  }
}

export function daysInMonth(year: number, month: number): number {
  return daysOf(year, month + 1, 1) - daysOf(year, month, 1)
}

/** Returns date and time that the wall clock of a zone shows. */
export function partsOf(unixS: number, zone: Zone): DateParts & { readonly days: number } {
  const local = unixS + zone.at(unixS).offsetS
  const days = Math.floor(local / 86400)
  const rest = local - days * 86400
  return {
    ...dateOf(days),
    days,
    hour: Math.floor(rest / 3600),
    minute: Math.floor(rest / 60) % 60,
    second: rest % 60,
  }
}

/**
 * Returns seconds since 1970 for a wall clock time in a zone. A time that a change of offset skips is moved forward.
 */
export function unixOf(parts: DateParts, zone: Zone): number {
  const { year, month, day, hour, minute, second } = parts
  const local = daysOf(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
  const offset = zone.at(local).offsetS
  if (offset === 0) return local
  return local - zone.at(local - offset).offsetS
}

const zones = new Map<string, Zone>()
/** Most cached zones; each has some kilobytes of formatters. */
const maxZones = 1000

/** @throws BuiltinError */
export function zoneOf(name: string): Zone {
  if (name === '' || name === 'UTC') return utc
  // The zone of the machine would make a decision depend on where it is made, so `Local` means UTC.
  if (name === 'Local') return utc
  const cached = zones.get(name)
  if (cached !== undefined) return cached
  // Intl also accepts offsets and any letter case, which the time zone database does not.
  if (/^[+-]/.test(name)) throw unknownZone(name)
  let clock: Intl.DateTimeFormat
  try {
    clock = new Intl.DateTimeFormat('en-US-u-ca-iso8601', {
      timeZone: name,
      hourCycle: 'h23',
      year: 'numeric',
      era: 'short',
      month: '2-digit',
      day: '2-digit',
      hour: '2-digit',
      minute: '2-digit',
      second: '2-digit',
    })
  } catch {
    throw unknownZone(name)
  }
  const short = new Intl.DateTimeFormat('en-US', { timeZone: name, timeZoneName: 'short' })
  const british = new Intl.DateTimeFormat('en-GB', { timeZone: name, timeZoneName: 'short' })
  const zone: Zone = {
    name,
    at: (unixS) => {
      const at = new Date(unixS * 1000)
      if (Number.isNaN(at.getTime())) throw new BuiltinError('time outside of valid range')
      const offsetS = offsetBy(clock, at)
      return {
        offsetS,
        get abbreviation() {
          const names = [short, british].map((format) => abbreviationBy(format, at))
          return names.find((each) => /^[A-Z]{3,5}$/.test(each)) ?? numericAbbreviation(offsetS)
        },
      }
    },
  }
  if (zones.size >= maxZones) zones.clear()
  zones.set(name, zone)
  return zone
}

function unknownZone(name: string): BuiltinError {
  return new BuiltinError(`unknown time zone ${name}`)
}

function offsetBy(clock: Intl.DateTimeFormat, at: Date): number {
  const part: Record<string, string> = {}
  for (const { type, value } of clock.formatToParts(at)) part[type] = value
  const year = part.era?.startsWith('B') ? 1 - Number(part.year) : Number(part.year)
  const days = daysOf(year, Number(part.month), Number(part.day))
  const local =
    days * 86400 + Number(part.hour) * 3600 + Number(part.minute) * 60 + Number(part.second)
  return local - Math.floor(at.getTime() / 1000)
}

function abbreviationBy(format: Intl.DateTimeFormat, at: Date): string {
  return format.formatToParts(at).find(({ type }) => type === 'timeZoneName')?.value ?? ''
}

/** Returns the abbreviation that the time zone database uses for zones without letters: `+03`, `-0330`. */
function numericAbbreviation(offsetS: number): string {
  const minutes = Math.floor(Math.abs(offsetS) / 60)
  const [hour, minute] = [Math.floor(minutes / 60), minutes % 60].map((n) =>
    String(n).padStart(2, '0'),
  )
  return `${offsetS < 0 ? '-' : '+'}${hour}${minute === '00' ? '' : minute}`
}
