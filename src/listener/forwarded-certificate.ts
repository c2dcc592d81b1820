/**
 * Reads the certificate of a client whose TLS connection ends at a trusted proxy, from the header in which the proxy passes
 * it on. Only `resolvePeer` calls this, and only for a trusted proxy: from anybody else such a header is a claim without
 * proof, and upstream/headers.ts removes it.
 *
 * A value that is not exactly of the configured form is refused: it shows that the proxy is set up in another way than the
 * gate believes, and perhaps passes on what clients write.
 */
import { hash, X509Certificate } from 'node:crypto'
import { GateError } from '../errors.ts'

/** How the proxy writes the certificate; `xfcc` is Envoy's header, `aws` that of Application Load Balancers. */
export type CertificateForm = 'client-cert' | 'nginx' | 'xfcc' | 'aws' | 'aws-passthrough'

export interface CertificateHeader {
  readonly form: CertificateForm
  /** In lower case. */
  readonly name: string
}

/** The header of each form; that of nginx has any name that its configuration gives it. */
export const certificateHeaders: Readonly<Record<CertificateForm, string>> = {
  'client-cert': 'client-cert',
  nginx: 'x-ssl-client-cert',
  xfcc: 'x-forwarded-client-cert',
  aws: 'x-amzn-mtls-clientcert-leaf',
  'aws-passthrough': 'x-amzn-mtls-clientcert',
}

/** Thumbprints by form and header value: a client sends the same certificate with every request. */
const remembered = new Map<string, string>()
const maxRemembered = 1024

/**
 * @param pairs Flat list of header names and values.
 * @returns SHA-256 of the certificate, base64url; undefined when the proxy passes on none
 * @throws GateError ERR_HEADER_REPEATED, ERR_HEADER_MALFORMED
 */
export function forwardedCertificate(
  pairs: readonly string[],
  { form, name }: CertificateHeader,
): string | undefined {
  let value: string | undefined
  for (let i = 0; i < pairs.length; i += 2) {
    if (pairs[i] !== name) continue
    // One of the two may have been written by the client.
    if (value !== undefined) throw new GateError('ERR_HEADER_REPEATED')
    value = pairs[i + 1]!
  }
  if (value === undefined || value === '') return undefined
  const known = remembered.get(form + value)
  if (known !== undefined) return known
  const thumbprint = readers[form](value)
  if (remembered.size >= maxRemembered) remembered.clear()
  remembered.set(form + value, thumbprint)
  return thumbprint
}

const readers: Readonly<Record<CertificateForm, (value: string) => string>> = {
  'client-cert': readByteSequence,
  nginx: (value) => thumbprintOfPem(value, 'alone'),
  xfcc: readXfcc,
  aws: (value) => thumbprintOfPem(value, 'alone'),
  'aws-passthrough': (value) => thumbprintOfPem(value, 'first'),
}

/** RFC 9440 section 2.1: a Byte Sequence of RFC 8941, here without parameters. */
function readByteSequence(value: string): string {
  const base64 = /^:([^:]+):$/.exec(value)?.[1]
  if (base64 === undefined) throw malformed('it is not a byte sequence between colons')
  return thumbprintOf(bytesOf(base64))
}

const begin = '-----BEGIN CERTIFICATE-----'
const end = '-----END CERTIFICATE-----'

/** @param which Whether the certificate is all there is, or the first of a chain, as the client sent it. */
function thumbprintOfPem(value: string, which: 'alone' | 'first'): string {
  let pem: string
  try {
    // A plus stays a plus: AWS leaves it as it is, the others escape it.
    pem = decodeURIComponent(value)
  } catch {
    throw malformed('it is not percent-encoded UTF-8')
  }
  const close = pem.indexOf(end)
  if (!pem.startsWith(begin) || close === -1) throw malformed('it is not a PEM certificate')
  const rest = pem.slice(close + end.length).trimStart()
  if (rest !== '' && (which === 'alone' || !rest.startsWith(begin)))
    throw malformed('something follows the certificate')
  // Proxies differ in where they break lines (RFC 7468).
  return thumbprintOf(bytesOf(pem.slice(begin.length, close).replace(/\s/g, '')))
}

/** A key, and its value without quotes or between them, with escapes; then what ends the pair. */
const xfccPair = /([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;\\]*))(;|,|$)/y

/**
 * Envoy's X-Forwarded-Client-Cert: elements between commas, pairs between semicolons, values plain or quoted. Envoy writes
 * names of the client's certificate without escaping them, so a client with a strange certificate could add a pair or an
 * element of its own. Therefore a second Hash or Cert, and a second element, is refused; a proxy that writes one element for
 * its own client (SANITIZE_SET) writes none of these.
 */
function readXfcc(value: string): string {
  const found: { hash?: string; cert?: string } = {}
  xfccPair.lastIndex = 0
  for (let ended = ';'; ended !== ''; ) {
    const [, name = '', quoted, plain = '', ending] = xfccPair.exec(value) ?? []
    if (ending === undefined) throw malformed('it is not of the form Key=Value;…')
    if (ending === ',') throw malformed('it has more than one element')
    const key = name.toLowerCase()
    if (key === 'hash' || key === 'cert') {
      if (found[key] !== undefined) throw malformed(`it has two of ${name}`)
      found[key] = quoted?.replace(/\\(.)/g, '$1') ?? plain
    }
    ended = ending
  }
  return thumbprintOfXfcc(found)
}

function thumbprintOfXfcc({ hash: hex, cert }: { hash?: string; cert?: string }): string {
  const certified = cert === undefined ? undefined : thumbprintOfPem(cert, 'alone')
  if (hex === undefined) {
    if (certified === undefined) throw malformed('it has neither Hash nor Cert')
    return certified
  }
  if (!/^[0-9a-f]{64}$/i.test(hex)) throw malformed('its Hash is not a SHA-256 in hexadecimal')
  const hashed = Buffer.from(hex, 'hex').toString('base64url')
  if (certified !== undefined && certified !== hashed)
    throw malformed('its Hash is not that of its Cert')
  return hashed
}

/** @throws GateError when the text has another spelling than the one of its bytes (RFC 4648 section 3.5) */
function bytesOf(base64: string): Buffer {
  const bytes = Buffer.from(base64, 'base64')
  if (bytes.toString('base64') !== base64) throw malformed('it is not strict base64')
  return bytes
}

function thumbprintOf(der: Buffer): string {
  let raw: Buffer
  try {
    ;({ raw } = new X509Certificate(der))
  } catch {
    throw malformed('it is not a certificate')
  }
  if (!raw.equals(der)) throw malformed('something follows the certificate')
  return hash('sha256', der, 'base64url')
}

function malformed(why: string): GateError {
  const cause = `the header with the certificate of the client: ${why}`
  return new GateError('ERR_HEADER_MALFORMED', undefined, { cause })
}
