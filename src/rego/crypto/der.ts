/**
 * Parses Distinguished Encoding Rules (X.690), one element at a time. Every length is checked against the enclosing
 * element.
 */
import { BuiltinError } from '../values/operand.ts'

export const tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  objectId: 0x06,
  utf8String: 0x0c,
  sequence: 0x30,
  set: 0x31,
  bmpString: 0x1e,
  utcTime: 0x17,
  generalizedTime: 0x18,
} as const

export interface Element {
  readonly tag: number
  readonly content: Buffer
  /** The bytes of the element, with tag and length. */
  readonly whole: Buffer
}

function malformed(): BuiltinError {
  return new BuiltinError('x509: malformed certificate')
}

/** @throws BuiltinError */
export function readElements(bytes: Buffer): Element[] {
  const out: Element[] = []
  for (let at = 0; at < bytes.length; ) {
    const element = readElement(bytes.subarray(at))
    out.push(element)
    at += element.whole.length
  }
  return out
}

function readElement(bytes: Buffer): Element {
  const [kind, first] = bytes
  if (kind === undefined || first === undefined || (kind & 0x1f) === 0x1f) throw malformed()
  let [length, header] = [first, 2]
  if (first >= 0x80) {
    const count = first & 0x7f
    if (count === 0 || count > 4 || bytes.length < 2 + count) throw malformed()
    length = bytes.readUIntBE(2, count)
    header += count
  }
  if (length > bytes.length - header) throw malformed()
  return {
    tag: kind,
    content: bytes.subarray(header, header + length),
    whole: bytes.subarray(0, header + length),
  }
}

/** Returns the elements inside an element, which must have the given tag. @throws BuiltinError */
export function within(element: Element | undefined, kind: number): Element[] {
  return readElements(contentOf(element, kind))
}

/** @throws BuiltinError */
export function contentOf(element: Element | undefined, kind: number): Buffer {
  if (element?.tag !== kind) throw malformed()
  return element.content
}

/** @throws BuiltinError */
export function readObjectId(element: Element | undefined): number[] {
  const bytes = contentOf(element, tag.objectId)
  const parts: number[] = []
  let value = 0
  for (const byte of bytes) {
    value = value * 128 + (byte & 0x7f)
    if (value > Number.MAX_SAFE_INTEGER) throw malformed()
    if (byte >= 0x80) continue
    if (parts.length === 0) {
      const top = Math.min(Math.floor(value / 40), 2)
      parts.push(top, value - top * 40)
    } else parts.push(value)
    value = 0
  }
  return parts
}

/** @throws BuiltinError */
export function readInteger(element: Element | undefined): bigint {
  const bytes = contentOf(element, tag.integer)
  if (bytes.length === 0) throw malformed()
  return BigInt.asIntN(bytes.length * 8, BigInt(`0x${bytes.toString('hex')}`))
}

/** Returns the bytes of a bit string, which must consist of whole bytes. @throws BuiltinError */
export function readBits(element: Element | undefined): Buffer {
  const bytes = contentOf(element, tag.bitString)
  if (bytes.length === 0 || bytes[0]! > 7) throw malformed()
  return bytes.subarray(1)
}

/** Returns seconds since 1970. @throws BuiltinError */
export function readTime(element: Element | undefined): number {
  const text = element?.content.toString('latin1') ?? ''
  const short = element?.tag === tag.utcTime && /^[0-9]{12}Z$/.test(text)
  if (!short && !(element?.tag === tag.generalizedTime && /^[0-9]{14}Z$/.test(text))) {
    throw malformed()
  }
  // A year of two digits means 1950 to 2049 (RFC 5280 section 4.1.2.5.1).
  const full = short ? (text < '5' ? '20' : '19') + text : text
  const [year, month, day, hour, minute, second] = [0, 4, 6, 8, 10, 12].map((at) =>
    Number(full.slice(at, at === 0 ? 4 : at + 2)),
  ) as [number, number, number, number, number, number]
  return Date.UTC(year, month - 1, day, hour, minute, second) / 1000
}

/** Returns the text of an element that has one of the string types. */
export function readText({ tag: kind, content }: Element): string {
  if (kind === tag.utf8String) return content.toString('utf8')
  return kind === tag.bmpString
    ? Buffer.from(content.subarray(0, content.length & ~1))
        .swap16()
        .toString('utf16le')
    : content.toString('latin1')
}
