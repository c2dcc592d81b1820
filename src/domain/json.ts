/** Helpers for JSON text that is passed on: no digit may get lost, and no text may abort an evaluation. */
import { isUtf8 } from 'node:buffer'

const surrogateEscape =
  /\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\[\s\S]/g

/** Replaces lone surrogates in JSON text by U+FFFD: they would abort an evaluation. */
export function wellFormedJson(text: string): string {
  if (!/\\u[dD][89a-fA-F]/.test(text)) return text
  return text.replace(surrogateEscape, (found) => (found.length === 6 ? '\\ufffd' : found))
}

const needsEscape = /[^\x20\x21\x23-\x5b\x5d-\x7e]/

/** Writes a JSON string. Most texts need no escape; for those this takes half the time of `JSON.stringify`. */
export function quote(text: string): string {
  return needsEscape.test(text) ? JSON.stringify(text) : `"${text}"`
}

/** As `quote`, for the value of a header with one character for each byte. */
export function quoteBytes(bytes: string): string {
  return needsEscape.test(bytes) ? JSON.stringify(textOfBytes(bytes)) : `"${bytes}"`
}

/** The text that these bytes are in UTF-8; where they are none, each is a character of ISO 8859-1. */
export function textOfBytes(bytes: string): string {
  const buffer = Buffer.from(bytes, 'latin1')
  return isUtf8(buffer) ? buffer.toString() : bytes
}

/**
 * Characters that change how a line is shown and not what it says: C1 controls, which terminals obey, directions (Unicode
 * Bidi_Control), and line separators, at which some readers of logs split.
 */
const misleading = /[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** JSON text with these characters as escapes: it means the same, and is shown as it is. */
export function withoutMisleading(json: string): string {
  return json.replace(
    misleading,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** Matches JSON text with a number that a double may not hold exactly; also some texts that have only a string of that form. */
const doubtfulNumber = /[[:,]\s*-?\d*(?:\d{16}|\d[.eE])/

export function holdsDoubtfulNumber(text: string): boolean {
  return doubtfulNumber.test(text)
}

/** Parses valid JSON; a number that a double cannot hold exactly keeps its digits. The test saves most texts the reviver. */
export function parseKeepingDigits(text: string): unknown {
  return holdsDoubtfulNumber(text) ? JSON.parse(text, keepDigits) : JSON.parse(text)
}

/** Reviver for JSON.parse: a number that a double cannot hold exactly keeps its digits. */
function keepDigits(_key: string, value: unknown, context?: { source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value
  return context?.source === undefined ? value : JSON.rawJSON(context.source)
}
