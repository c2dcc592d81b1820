/**
 * Rego strings consist of bytes, JavaScript strings do not. A byte that is not UTF-8 is represented by a lone
 * surrogate U+DC80 to U+DCFF (like `surrogateescape` of Python), so that decoding, hashing and encoding work on the
 * same bytes.
 */
import { isUtf8 } from 'node:buffer'

const loneLow = /[\udc80-\udcff]/

export function bytesOf(text: string): Buffer {
  if (!loneLow.test(text) || text.isWellFormed()) return Buffer.from(text, 'utf8')
  const parts: Buffer[] = []
  for (const char of text) {
    const code = char.codePointAt(0)!
    parts.push(code >= 0xdc80 && code <= 0xdcff ? Buffer.of(code - 0xdc00) : Buffer.from(char))
  }
  return Buffer.concat(parts)
}

/** A text with one character for each byte. */
export function latin(of: string): string {
  return bytesOf(of).toString('latin1')
}

export function textOf(bytes: Buffer): string {
  if (isUtf8(bytes)) return bytes.toString('utf8')
  let out = ''
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceLength(bytes[at]!)
    const sequence = bytes.subarray(at, at + length)
    if (length > 0 && sequence.length === length && isUtf8(sequence)) {
      out += sequence.toString('utf8')
      at += length
    } else {
      out += String.fromCharCode(0xdc00 + bytes[at]!)
      at++
    }
  }
  return out
}

function sequenceLength(first: number): number {
  if (first < 0x80) return 1
  return first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 0
}
