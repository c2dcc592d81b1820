/**
 * Parses the fields of an X.509 certificate (RFC 5280); node:crypto holds its key and checks signatures.
 */
import { X509Certificate } from 'node:crypto'
import { BuiltinError, refuseWork } from '../values/operand.ts'
import {
  contentOf,
  type Element,
  readBits,
  readElements,
  readInteger,
  readObjectId,
  readText,
  readTime,
  tag,
  within,
} from './der.ts'

export interface NamePart {
  readonly type: readonly number[]
  readonly value: string
}

export interface Extension {
  readonly id: readonly number[]
  readonly critical: boolean
  readonly value: Buffer
}

export interface Certificate {
  readonly x509: X509Certificate
  readonly raw: Buffer
  readonly rawTbs: Buffer
  readonly rawKey: Buffer
  readonly rawIssuer: Buffer
  readonly rawSubject: Buffer
  readonly signature: Buffer
  readonly signatureAlgorithm: string
  readonly version: number
  readonly serial: bigint
  readonly issuer: readonly NamePart[]
  readonly subject: readonly NamePart[]
  /** Time in seconds since 1970. */
  readonly notBefore: number
  readonly notAfter: number
  readonly extensions: readonly Extension[]
  /** Bits of RFC 5280 section 4.2.1.3, the first one is the lowest; undefined without the extension. */
  readonly keyUsage: number | undefined
  readonly extKeyUsage: readonly string[] | undefined
  readonly isAuthority: boolean | undefined
  /** Most intermediate certificates that may follow below this one. */
  readonly maxPath: number | undefined
  readonly subjectKeyId: Buffer | undefined
  readonly authorityKeyId: Buffer | undefined
  readonly dnsNames: readonly string[]
  readonly emails: readonly string[]
  readonly addresses: readonly Buffer[]
  readonly uris: readonly string[]
}

const maxCertificates = 32

/** Reads PEM, or base64 of PEM or DER, with one certificate after the other. @throws BuiltinError */
export function readCertificates(text: string): Certificate[] {
  const pem = text.startsWith('-----BEGIN') ? text : fromBase64(text)
  const der =
    typeof pem === 'string'
      ? Buffer.concat(pemBlocks(pem))
      : pem.toString('latin1', 0, 10) === '-----BEGIN'
        ? Buffer.concat(pemBlocks(pem.toString('latin1')))
        : pem
  const elements = readElements(der)
  if (elements.length > maxCertificates) refuseWork(`more than ${maxCertificates} certificates`)
  return elements.map(readCertificate)
}

/** @throws BuiltinError */
function fromBase64(text: string): Buffer {
  const digits = text.replace(/[\r\n]/g, '')
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(digits) || digits.length % 4 !== 0) {
    throw new BuiltinError('illegal base64 data')
  }
  return Buffer.from(digits, 'base64')
}

function pemBlocks(pem: string): Buffer[] {
  const out: Buffer[] = []
  const end = '-----END CERTIFICATE-----'
  for (let at = pem.indexOf('-----BEGIN '); at !== -1; at = pem.indexOf('-----BEGIN ', at)) {
    const begin = '-----BEGIN CERTIFICATE-----'
    if (!pem.startsWith(begin, at)) throw new BuiltinError('a PEM block is not a certificate')
    const stop = pem.indexOf(end, at)
    if (stop === -1) break
    out.push(fromBase64(pem.slice(at + begin.length, stop).replace(/[ \t]/g, '')))
    at = stop + end.length
  }
  return out
}

function readCertificate({ whole }: Element): Certificate {
  let x509: X509Certificate
  try {
    x509 = new X509Certificate(whole)
  } catch {
    throw new BuiltinError('x509: malformed certificate')
  }
  const [tbs, , signature] = within(readElements(whole)[0], tag.sequence)
  const fields = within(tbs, tag.sequence)
  const version =
    fields[0]?.tag === 0xa0 ? Number(readInteger(readElements(fields.shift()!.content)[0])) + 1 : 1
  const [serial, algorithm, issuer, validity, subject, key, ...optional] = fields
  const [notBefore, notAfter] = within(validity, tag.sequence)
  const listed = optional.find((element) => element.tag === 0xa3)
  const extensions = listed === undefined ? [] : readExtensions(listed)
  return {
    x509,
    raw: whole,
    rawTbs: tbs!.whole,
    rawKey: key!.whole,
    rawIssuer: issuer!.whole,
    rawSubject: subject!.whole,
    signature: readBits(signature),
    signatureAlgorithm: readObjectId(within(algorithm, tag.sequence)[0]).join('.'),
    version,
    serial: readInteger(serial),
    issuer: readName(issuer),
    subject: readName(subject),
    notBefore: readTime(notBefore),
    notAfter: readTime(notAfter),
    extensions,
    ...readExtensionFields(extensions),
  }
}

function readName(element: Element | undefined): NamePart[] {
  return within(element, tag.sequence).flatMap((set) =>
    within(set, tag.set).map((pair) => {
      const [type, value] = within(pair, tag.sequence)
      if (value === undefined) throw new BuiltinError('x509: malformed name')
      return { type: readObjectId(type), value: readText(value) }
    }),
  )
}

function readExtensions({ content }: Element): Extension[] {
  return within(readElements(content)[0], tag.sequence).map((element) => {
    const parts = within(element, tag.sequence)
    const critical = parts[1]?.tag === tag.boolean && parts[1].content[0] === 0xff
    return { id: readObjectId(parts[0]), critical, value: contentOf(parts.at(-1), tag.octetString) }
  })
}

type ExtensionFields = Pick<
  Certificate,
  | 'keyUsage'
  | 'extKeyUsage'
  | 'isAuthority'
  | 'maxPath'
  | 'subjectKeyId'
  | 'authorityKeyId'
  | 'dnsNames'
  | 'emails'
  | 'addresses'
  | 'uris'
>

function readExtensionFields(extensions: readonly Extension[]): ExtensionFields {
  const value = (id: string): Element | undefined => {
    const found = extensions.find((extension) => extension.id.join('.') === id)
    return found && readElements(found.value)[0]
  }
  const [usage, extended, constraints] = [
    value('2.5.29.15'),
    value('2.5.29.37'),
    value('2.5.29.19'),
  ]
  const basic = constraints && within(constraints, tag.sequence)
  const limit = basic?.find((element) => element.tag === tag.integer)
  const own = value('2.5.29.14')
  const authority = value('2.5.29.35')
  const alternative = value('2.5.29.17')
  const names = alternative === undefined ? [] : within(alternative, tag.sequence)
  const named = (context: number): Buffer[] =>
    names.filter((name) => name.tag === (0x80 | context)).map(({ content }) => content)
  const texts = (context: number): string[] => named(context).map((name) => name.toString('latin1'))
  return {
    keyUsage: usage && bitsOf(readBits(usage)),
    extKeyUsage: extended && within(extended, tag.sequence).map((id) => readObjectId(id).join('.')),
    isAuthority: basic && basic[0]?.tag === tag.boolean && basic[0].content[0] === 0xff,
    maxPath: limit && Number(readInteger(limit)),
    subjectKeyId: own && contentOf(own, tag.octetString),
    authorityKeyId:
      authority && within(authority, tag.sequence).find((part) => part.tag === 0x80)?.content,
    dnsNames: texts(2),
    emails: texts(1),
    addresses: named(7),
    uris: texts(6),
  }
}

/** Returns a bit string as a number; its first bit is the lowest bit of the number. */
function bitsOf(bytes: Buffer): number {
  let value = 0
  for (let bit = 0; bit < Math.min(bytes.length * 8, 9); bit++) {
    if ((bytes[bit >> 3]! & (0x80 >> (bit & 7))) !== 0) value |= 1 << bit
  }
  return value
}
