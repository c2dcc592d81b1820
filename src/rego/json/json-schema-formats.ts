/** The formats of JSON Schema that are checked here. */
import { isIPv4, isIPv6 } from 'node:net'
import { matches } from '../go/regex.ts'
import { parseTime } from '../go/time-layout.ts'
import { BuiltinError } from '../values/operand.ts'

/** Checks whether a text has a format. Formats that are not listed are refused. */
export const formats: Readonly<Record<string, (text: string) => boolean>> = {
  date: (text) => isTime('2006-01-02', text),
  time: (text) => isTime('15:04:05', text) || isTime('15:04:05Z07:00', text),
  'date-time': (text) => isTime('2006-01-02T15:04:05Z07:00', text),
  hostname: (text) =>
    text.length < 256 &&
    /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$/.test(
      text,
    ),
  email: (text) => text.length < 321 && /^[^\s@<>()]+@[^\s@<>()]+$/.test(text),
  ipv4: isIPv4,
  ipv6: (text) => isIPv6(text) && !text.includes('%'),
  uri: (text) => /^[A-Za-z][A-Za-z0-9+.-]*:/.test(text) && !/[\s\\]/.test(text),
  'uri-reference': (text) => !/[\s\\]/.test(text),
  uuid: (text) => /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i.test(text),
  regex: (text) => isPattern(text),
  'json-pointer': (text) => text.length < 10_000 && /^(?:\/(?:[^/~]|~[01])*)*$/.test(text),
}

export function isKnownFormat(format: string): boolean {
  return Object.hasOwn(formats, format)
}

function isTime(layout: string, text: string): boolean {
  try {
    return text.length < 100 && typeof parseTime(layout, text) === 'bigint'
  } catch (error) {
    if (error instanceof BuiltinError) return false
    throw error
  }
}

function isPattern(pattern: string): boolean {
  try {
    matches(pattern, '')
    return true
  } catch (error) {
    if (error instanceof BuiltinError) return false
    throw error
  }
}
