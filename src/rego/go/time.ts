/**
 * `time.*`: times are nanoseconds since 1970, alone or as `[ns, zone]` or `[ns, zone, layout]`.
 */

import type { BuiltinTable } from '../builtin.ts'
import { toBigInt } from '../values/decimal.ts'
import { type Args, BuiltinError, integer, number, refuseWork, text } from '../values/operand.ts'
import { isArray, RegoNumber, type Value } from '../values/value.ts'
import {
  checkedNs,
  daysOf,
  nsOf,
  partsOf,
  splitNs,
  unixOf,
  utc,
  type Zone,
  zoneOf,
} from './calendar.ts'
import { parseDuration } from './duration.ts'
import { formatTime, layoutNamed, longDays, parseTime } from './time-layout.ts'

interface Moment {
  readonly ns: bigint
  readonly zone: Zone
  readonly layout: string
}

/** Longest layout and text: parsing takes time in the product of their lengths. */
const maxLength = 1000

function short(args: Args, at: number): string {
  const value = text(args, at)
  if (value.length > maxLength) refuseWork(`a time of more than ${maxLength} characters`)
  return value
}

function moment(args: Args, at: number): Moment {
  const value = args[at]!
  const parts = isArray(value) ? value : [value]
  const ns = toBigInt(number(parts, 0).decimal)
  if (ns === undefined || BigInt.asIntN(64, ns) !== ns) throw new BuiltinError('timestamp too big')
  const zone = parts.length > 1 ? zoneOf(text(parts, 1)) : utc
  return { ns, zone, layout: parts.length > 2 ? layoutNamed(short(parts, 2)) : '' }
}

function partsAt(args: Args): ReturnType<typeof partsOf> {
  const { ns, zone } = moment(args, 0)
  return partsOf(splitNs(ns).unixS, zone)
}

function numbers(...values: number[]): Value {
  return values.map((value) => new RegoNumber(value))
}

function addDate(args: Args): Value {
  const { ns, zone } = moment(args, 0)
  const [years, months, days] = [1, 2, 3].map((at) => integer(args, at)) as [number, number, number]
  const { unixS, nanos } = splitNs(ns)
  const parts = partsOf(unixS, zone)
  const moved = {
    ...parts,
    year: parts.year + years,
    month: parts.month + months,
    day: parts.day + days,
  }
  // This date is far outside the range of nanoseconds, and of what a double holds exactly.
  const reached = daysOf(moved.year, moved.month, moved.day)
  if (!(Math.abs(reached) < 1e6)) throw new BuiltinError('time outside of valid range')
  return new RegoNumber(checkedNs(nsOf(unixOf(moved, zone), nanos)))
}

/**
 * Returns years, months, days, hours, minutes and seconds between two times, in the calendar of the first one's zone.
 */
function difference(args: Args): Value {
  const { ns: a, zone } = moment(args, 0)
  const { ns: b } = moment(args, 1)
  const [from, to] = (a < b ? [a, b] : [b, a]).map((ns) => partsOf(splitNs(ns).unixS, zone))
  let year = to!.year - from!.year
  let month = to!.month - from!.month
  let day = to!.day - from!.day
  let hour = to!.hour - from!.hour
  let minute = to!.minute - from!.minute
  let second = to!.second - from!.second
  if (second < 0) [second, minute] = [second + 60, minute - 1]
  if (minute < 0) [minute, hour] = [minute + 60, hour - 1]
  if (hour < 0) [hour, day] = [hour + 24, day - 1]
  if (day < 0) {
    const length = daysOf(from!.year, from!.month + 1, 1) - daysOf(from!.year, from!.month, 1)
    ;[day, month] = [day + length, month - 1]
  }
  if (month < 0) [month, year] = [month + 12, year - 1]
  return numbers(year, month, day, hour, minute, second)
}

export const timeBuiltins: BuiltinTable = {
  'time.now_ns': { call: (_args, { nowNs }) => new RegoNumber(nowNs), pinned: 'recorded' },
  'time.parse_ns': {
    call: (args) =>
      new RegoNumber(checkedNs(parseTime(layoutNamed(short(args, 0)), short(args, 1)))),
  },
  'time.parse_rfc3339_ns': {
    call: (args) => new RegoNumber(checkedNs(parseTime(layoutNamed('RFC3339'), short(args, 0)))),
  },
  'time.parse_duration_ns': { call: (args) => new RegoNumber(parseDuration(short(args, 0))) },
  'time.format': {
    call: (args) => {
      const { ns, zone, layout } = moment(args, 0)
      return formatTime(ns, zone, layout === '' ? layoutNamed('RFC3339Nano') : layout)
    },
  },
  'time.date': {
    call: (args) => {
      const { year, month, day } = partsAt(args)
      return numbers(year, month, day)
    },
  },
  'time.clock': {
    call: (args) => {
      const { hour, minute, second } = partsAt(args)
      return numbers(hour, minute, second)
    },
  },
  'time.weekday': { call: (args) => longDays[(((partsAt(args).days + 4) % 7) + 7) % 7]! },
  'time.add_date': { call: addDate },
  'time.diff': { call: difference },
}
