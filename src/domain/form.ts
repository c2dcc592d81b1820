/**
 * Reads the pairs of a query or a form (`application/x-www-form-urlencoded`) in one way. The query that a policy sees
 * and the changes that it makes by name both use this file: with two ways of reading, some parameters could not be
 * reached by any name.
 */

/** The name of a pair, still encoded. */
export function encodedName(pair: string): string {
  const split = pair.indexOf('=')
  return split === -1 ? pair : pair.slice(0, split)
}

/** The value of a pair, still encoded; empty without `=`. */
export function encodedValue(pair: string): string {
  const split = pair.indexOf('=')
  return split === -1 ? '' : pair.slice(split + 1)
}

/**
 * Decodes a name or value: `+` is a space, a triplet its byte; a percent sign without two hexadecimal digits stands for
 * itself. Bytes that are not UTF-8 become U+FFFD, as in a policy's answer, so that a policy can name a parameter by the
 * name that it saw.
 */
export function formDecode(text: string): string {
  if (!text.includes('%') && !text.includes('+')) return text
  const spaced = text.replaceAll('+', ' ')
  try {
    return decodeURIComponent(spaced)
  } catch {
    return unescapeBytes(Buffer.from(spaced)).toString()
  }
}

/**
 * As `formDecode`, but undefined for a stray percent sign or bytes that are not UTF-8, which other readers may decode
 * differently.
 */
export function formDecodeStrict(text: string): string | undefined {
  if (!text.includes('%') && !text.includes('+')) return text
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return undefined
  }
}

const percent = 0x25

/** Replaces each triplet by its byte; a percent sign without two hexadecimal digits stays. */
export function unescapeBytes(from: Buffer): Buffer {
  const bytes = Buffer.alloc(from.length)
  let length = 0
  for (let at = 0; at < from.length; at++) {
    const high = from[at] === percent ? hexDigit(from[at + 1]) : -1
    const low = high === -1 ? -1 : hexDigit(from[at + 2])
    if (low === -1) {
      bytes[length++] = from[at]!
    } else {
      bytes[length++] = high * 16 + low
      at += 2
    }
  }
  return bytes.subarray(0, length)
}

function hexDigit(code: number | undefined): number {
  if (code === undefined) return -1
  if (code >= 0x30 && code <= 0x39) return code - 0x30
  const lower = code | 0x20
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1
}
