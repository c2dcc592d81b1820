/**
 * `crypto.x509.*`: shows certificates like OPA, with the fields that policies read, and verifies chains like Go: the
 * first certificate is the root, the last one the leaf. A chain with name constraints, or with a critical extension
 * that is not supported here, is invalid.
 */

import type { BuiltinContext, BuiltinTable } from '../builtin.ts'
import { nsOf, utc } from '../go/calendar.ts'
import { formatTime } from '../go/time-layout.ts'
import { type Args, BuiltinError, bigInt, object, text, texts } from '../values/operand.ts'
import { isArray, RegoNumber, RegoObject, RegoSet, type Value } from '../values/value.ts'
import { type Certificate, type NamePart, readCertificates } from './certificate.ts'

/** Attribute types of a name, by the field that holds them. */
const listFields: Readonly<Record<string, string>> = {
  '2.5.4.6': 'Country',
  '2.5.4.10': 'Organization',
  '2.5.4.11': 'OrganizationalUnit',
  '2.5.4.7': 'Locality',
  '2.5.4.8': 'Province',
  '2.5.4.9': 'StreetAddress',
  '2.5.4.17': 'PostalCode',
}

function nameTree(parts: readonly NamePart[]): Value {
  const out = new RegoObject()
  for (const field of Object.values(listFields)) {
    const values = parts.filter(({ type }) => listFields[type.join('.')] === field)
    out.set(field, orNull(values.map(({ value }) => value)))
  }
  const last = (id: string): string =>
    parts.findLast(({ type }) => type.join('.') === id)?.value ?? ''
  out.set('CommonName', last('2.5.4.3'))
  out.set('SerialNumber', last('2.5.4.5'))
  const names = parts.map(
    ({ type, value }) =>
      new RegoObject([
        ['Type', idTree(type)],
        ['Value', value],
      ] as const),
  )
  out.set('Names', orNull(names))
  out.set('ExtraNames', null)
  return out
}

function idTree(id: readonly number[]): Value {
  return id.map((part) => new RegoNumber(part))
}

/** Go writes an empty (nil) list as null. */
function orNull(values: readonly Value[]): Value {
  return values.length === 0 ? null : values
}

function base64(bytes: Buffer | undefined): Value {
  return bytes === undefined ? null : bytes.toString('base64')
}

/** Numbers of Go for extended key usages. */
const usages: Readonly<Record<string, number>> = {
  '2.5.29.37.0': 0,
  '1.3.6.1.5.5.7.3.1': 1,
  '1.3.6.1.5.5.7.3.2': 2,
  '1.3.6.1.5.5.7.3.3': 3,
  '1.3.6.1.5.5.7.3.4': 4,
  '1.3.6.1.5.5.7.3.5': 5,
  '1.3.6.1.5.5.7.3.6': 6,
  '1.3.6.1.5.5.7.3.7': 7,
  '1.3.6.1.5.5.7.3.8': 8,
  '1.3.6.1.5.5.7.3.9': 9,
}

/** Numbers of Go for signature algorithms; older algorithms are not supported. */
const signatures: Readonly<Record<string, number>> = {
  '1.2.840.113549.1.1.11': 4,
  '1.2.840.113549.1.1.12': 5,
  '1.2.840.113549.1.1.13': 6,
  '1.2.840.10045.4.3.2': 10,
  '1.2.840.10045.4.3.3': 11,
  '1.2.840.10045.4.3.4': 12,
  '1.3.101.112': 16,
}

function timeText(unixS: number): string {
  return formatTime(nsOf(unixS, 0), utc, '2006-01-02T15:04:05Z07:00')
}

function addressText(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join('.')
  const groups = bytes.toString('hex').match(/..../g) ?? []
  // The URL class writes an IPv6 address in its short form.
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1)
}

function certificateTree(of: Certificate): Value {
  const number = (value: number | bigint): Value => new RegoNumber(value)
  const kinds: Readonly<Record<string, number>> = { rsa: 1, dsa: 2, ec: 3, ed25519: 4 }
  return new RegoObject([
    ['Raw', base64(of.raw)],
    ['RawTBSCertificate', base64(of.rawTbs)],
    ['RawSubjectPublicKeyInfo', base64(of.rawKey)],
    ['RawSubject', base64(of.rawSubject)],
    ['RawIssuer', base64(of.rawIssuer)],
    ['Signature', base64(of.signature)],
    ['SignatureAlgorithm', number(signatures[of.signatureAlgorithm] ?? 0)],
    ['PublicKeyAlgorithm', number(kinds[of.x509.publicKey.asymmetricKeyType ?? ''] ?? 0)],
    ['Version', number(of.version)],
    ['SerialNumber', number(of.serial)],
    ['Issuer', nameTree(of.issuer)],
    ['Subject', nameTree(of.subject)],
    ['NotBefore', timeText(of.notBefore)],
    ['NotAfter', timeText(of.notAfter)],
    ['KeyUsage', number(of.keyUsage ?? 0)],
    [
      'Extensions',
      orNull(
        of.extensions.map(
          ({ id, critical, value }) =>
            new RegoObject([
              ['Id', idTree(id)],
              ['Critical', critical],
              ['Value', base64(value)],
            ] as const),
        ),
      ),
    ],
    [
      'ExtKeyUsage',
      orNull((of.extKeyUsage ?? []).flatMap((id) => (id in usages ? [number(usages[id]!)] : []))),
    ],
    ['BasicConstraintsValid', of.isAuthority !== undefined],
    ['IsCA', of.isAuthority === true],
    ['MaxPathLen', number(of.isAuthority === undefined ? 0 : (of.maxPath ?? -1))],
    ['MaxPathLenZero', of.maxPath === 0],
    ['SubjectKeyId', base64(of.subjectKeyId)],
    ['AuthorityKeyId', base64(of.authorityKeyId)],
    ['DNSNames', orNull(of.dnsNames)],
    ['EmailAddresses', orNull(of.emails)],
    ['IPAddresses', orNull(of.addresses.map(addressText))],
    ['URIStrings', orNull(of.uris)],
  ])
}

interface Options {
  readonly nowS: number
  readonly dnsName: string | undefined
  /** Object identifiers of key usages; every certificate must allow one of them. */
  readonly wanted: readonly string[]
}

const serverAuth = '1.3.6.1.5.5.7.3.1'
const anyUsage = '2.5.29.37.0'

/** Extensions that the checks below handle, or that restrict nothing. */
const understood = new Set([
  '2.5.29.15',
  '2.5.29.37',
  '2.5.29.19',
  '2.5.29.17',
  '2.5.29.14',
  '2.5.29.35',
])
const nameConstraints = '2.5.29.30'

/** Returns a chain from the leaf to a root; undefined if there is none. */
function chainOf(
  certificates: readonly Certificate[],
  options: Options,
): Certificate[] | undefined {
  if (certificates.length < 2) return undefined
  const root = certificates[0]!
  const leaf = certificates.at(-1)!
  const between = certificates.slice(1, -1)
  if (!isFine(leaf, options)) return undefined
  if (
    options.dnsName !== undefined &&
    leaf.x509.checkHost(options.dnsName, { subject: 'never' }) === undefined
  ) {
    return undefined
  }
  if (leaf.raw.equals(root.raw)) return allowing([leaf], options.wanted)
  // Each certificate is used once in a chain, so the search ends. This also limits the number of checked signatures.
  let left = 100
  const extend = (chain: Certificate[]): Certificate[] | undefined => {
    const last = chain.at(-1)!
    for (const issuer of [root, ...between]) {
      if (chain.includes(issuer) || !issuer.rawSubject.equals(last.rawIssuer)) continue
      if (left-- <= 0) return undefined
      if (!isFine(issuer, options) || !mayIssue(issuer, chain.length - 1, issuer === root)) continue
      if (!isSignedBy(last, issuer)) continue
      const longer = [...chain, issuer]
      const found = issuer === root ? allowing(longer, options.wanted) : extend(longer)
      if (found !== undefined) return found
    }
    return undefined
  }
  return extend([leaf])
}

function isFine(of: Certificate, { nowS }: Options): boolean {
  if (nowS < of.notBefore || nowS > of.notAfter) return false
  for (const { id, critical } of of.extensions) {
    const name = id.join('.')
    if (name === nameConstraints || (critical && !understood.has(name))) return false
  }
  return true
}

/** Returns the chain if all of its certificates allow one of the wanted usages. */
function allowing(chain: Certificate[], wanted: readonly string[]): Certificate[] | undefined {
  const allows = ({ extKeyUsage }: Certificate, usage: string): boolean =>
    extKeyUsage === undefined || extKeyUsage.includes(anyUsage) || extKeyUsage.includes(usage)
  const isAllowed = wanted.some(
    (usage) => usage === anyUsage || chain.every((each) => allows(each, usage)),
  )
  return isAllowed ? chain : undefined
}

/**
 * Returns true if a certificate may issue the one below it. @param below Number of intermediates between it and the
 * leaf.
 */
function mayIssue(of: Certificate, below: number, isRoot: boolean): boolean {
  if (of.isAuthority !== true && !(isRoot && of.version < 3 && of.isAuthority === undefined))
    return false
  if (of.maxPath !== undefined && below > of.maxPath) return false
  const certSign = 1 << 5
  return of.keyUsage === undefined || (of.keyUsage & certSign) !== 0
}

function isSignedBy(of: Certificate, issuer: Certificate): boolean {
  return of.signatureAlgorithm in signatures && of.x509.verify(issuer.x509.publicKey)
}

/** @param options Read after the certificates, as in OPA: wrong ones are undefined only beside good certificates. */
function verified(args: Args, options: () => Options): Value {
  const none: Value = [false, []]
  const given = text(args, 0)
  let certificates: Certificate[]
  try {
    certificates = readCertificates(given)
  } catch (error) {
    if (!(error instanceof BuiltinError)) throw error
    return none
  }
  const wanted = options()
  let chain: Certificate[] | undefined
  try {
    chain = chainOf(certificates, wanted)
  } catch (error) {
    if (!(error instanceof BuiltinError)) throw error
    return none
  }
  return chain === undefined ? none : [true, chain.map(certificateTree)]
}

const usageNames: Readonly<Record<string, string>> = {
  KeyUsageAny: anyUsage,
  KeyUsageServerAuth: serverAuth,
  KeyUsageClientAuth: '1.3.6.1.5.5.7.3.2',
  KeyUsageCodeSigning: '1.3.6.1.5.5.7.3.3',
  KeyUsageEmailProtection: '1.3.6.1.5.5.7.3.4',
  KeyUsageIPSECEndSystem: '1.3.6.1.5.5.7.3.5',
  KeyUsageIPSECTunnel: '1.3.6.1.5.5.7.3.6',
  KeyUsageIPSECUser: '1.3.6.1.5.5.7.3.7',
  KeyUsageTimeStamping: '1.3.6.1.5.5.7.3.8',
  KeyUsageOCSPSigning: '1.3.6.1.5.5.7.3.9',
}

function readOptions(given: RegoObject, nowS: number): Options {
  let [at, dnsName, wanted]: [number, string | undefined, string[]] = [
    nowS,
    undefined,
    [serverAuth],
  ]
  for (const [key, value] of given) {
    if (typeof key !== 'string') continue
    if (key === 'DNSName') dnsName = text([value], 0)
    else if (key === 'CurrentTime') at = Number(bigInt([value], 0) / 1_000_000_000n)
    else if (key === 'MaxConstraintComparisons') bigInt([value], 0)
    else if (key === 'KeyUsages' && (isArray(value) || value instanceof RegoSet)) {
      wanted = texts([value], 0).map((name) => {
        const id = Object.hasOwn(usageNames, name) ? usageNames[name] : undefined
        if (id === undefined) throw new BuiltinError(`invalid entry for 'KeyUsages': ${name}`)
        return id
      })
      if (wanted.length === 0) wanted = [serverAuth]
    } else throw new BuiltinError('invalid key option')
  }
  return { nowS: at, dnsName, wanted }
}

function now({ nowNs }: BuiltinContext): number {
  return Number(nowNs / 1_000_000_000n)
}

export const x509Builtins: BuiltinTable = {
  'crypto.x509.parse_certificates': {
    call: (args) => readCertificates(text(args, 0)).map(certificateTree),
  },
  'crypto.x509.parse_and_verify_certificates': {
    call: (args, context) => verified(args, () => readOptions(new RegoObject(), now(context))),
  },
  'crypto.x509.parse_and_verify_certificates_with_options': {
    call: (args, context) => {
      const options = object(args, 1)
      return verified(args, () => readOptions(options, now(context)))
    },
  },
}
