/**
 * Checks the shape of a token before any cryptography: three strict base64url parts, JSON objects, and no header member
 * that would make the library do more than verify a signature.
 */
import { holdsDoubtfulNumber, parseKeepingDigits } from '../domain/json.ts'
import { type StrictJson, strictJson } from '../domain/strict-json.ts'
import { GateError } from '../errors.ts'

export interface Header {
  readonly alg: string
  readonly kid: string | undefined
  /** The header's `typ` in lower case, without `application/`. */
  readonly typ: string | undefined
}

export type Claims = Readonly<Record<string, unknown>>

/** Most characters of a token. */
export const maxTokenLength = 16 * 1024
/**
 * Most members of one object of a token. Issuers that write roles, features or answers of a directory as members have
 * some hundreds; `maxTokenLength` bounds their bytes, and comparing their names costs linear time.
 */
const maxMembers = 1000
const alphabet = /^[A-Za-z0-9_-]+$/

export interface Shape {
  readonly header: Header
  readonly claims: Claims
  /**
   * The claims for the policy, with every number as the issuer wrote it: a double holds only 53 bits. Called once the
   * signature is good: strangers can write tokens whose numbers take as long as ten signature checks.
   */
  readonly written: () => Claims
}

/** @throws GateError ERR_TOKEN_MALFORMED */
export function parseTokenShape(token: string): Shape {
  const { header, claims, written } = readJws(token, maxTokenLength, malformed)
  const { alg, kid, typ } = header
  if (typeof alg !== 'string') throw malformed('its header has no alg')
  if (kid !== undefined && (typeof kid !== 'string' || kid.length > 256))
    throw malformed('its kid is not a text of at most 256 characters')
  if (typ !== undefined && typeof typ !== 'string') throw malformed('its typ is not a text')
  // Keys inside the header of a token are never used.
  return {
    header: { alg, kid, typ: typ?.toLowerCase().replace(/^application\//, '') },
    claims,
    written,
  }
}

type Refuse = (why: string) => GateError

/**
 * Reads a compact JWS whose payload is an object, in the one way that every reader agrees on.
 * @param refuse Makes the error to throw.
 */
export function readJws(
  text: string,
  maxCharacters: number,
  refuse: Refuse,
): { readonly header: Claims; readonly claims: Claims; readonly written: () => Claims } {
  if (text.length > maxCharacters) throw refuse(`it has more than ${maxCharacters} characters`)
  const parts = text.split('.')
  if (parts.length !== 3) throw refuse(`it has ${parts.length} parts, expected 3`)
  if (!parts.every(canonical)) throw refuse('a part of it is not strict base64url')
  const { object: header } = readObject(parts[0]!, 'header', refuse)
  const { object: claims, text: payload } = readObject(parts[1]!, 'payload', refuse)
  const { crit, b64, zip, enc } = header
  // These members change the meaning of the bytes (RFC 8725 section 3.10), so they are refused.
  if (crit !== undefined || b64 !== undefined || zip !== undefined || enc !== undefined)
    throw refuse('its header has crit, b64, zip or enc')
  const written = (): Claims =>
    holdsDoubtfulNumber(payload) ? (parseKeepingDigits(payload) as JsonObject) : claims
  return { header, claims, written }
}

/**
 * Accepts one spelling per value: no padding, no foreign characters, unused trailing bits zero (RFC 4648 section 3.5).
 */
function canonical(part: string): boolean {
  if (!alphabet.test(part)) return false
  const spare = part.length % 4
  if (spare === 0) return true
  if (spare === 1) return false
  const last = sextet(part.charCodeAt(part.length - 1))
  return (last & (spare === 2 ? 0b1111 : 0b11)) === 0
}

function sextet(code: number): number {
  if (code >= 0x61) return code - 0x61 + 26
  if (code === 0x5f) return 63
  if (code >= 0x41) return code - 0x41
  if (code === 0x2d) return 62
  return code - 0x30 + 52
}

/** `ignoreBOM: true` leaves a byte order mark in the text, so that the JSON parser refuses it (RFC 8259 section 8.1). */
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

type JsonObject = Record<string, unknown>

function readObject(
  part: string,
  name: string,
  refuse: Refuse,
): { object: JsonObject; text: string } {
  let text: string
  let value: unknown
  try {
    text = utf8.decode(Buffer.from(part, 'base64url'))
    value = JSON.parse(text)
  } catch {
    throw refuse(`its ${name} is not JSON in UTF-8`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw refuse(`its ${name} is not an object`)
  const plain = strictJson(text, { ...oneReading, refuse })
  return { object: (plain === text ? value : JSON.parse(plain)) as JsonObject, text: plain }
}

/**
 * A name that occurs twice is refused: two readers of the token could use different values (RFC 8259 section 4). Names
 * with escapes are rewritten without them, to work around a bug of V8 (Node 24.21): after `{"a":1,"\\":1}` was parsed
 * once, the name `\n` in `{"a":1,"\n":1}` is read as a backslash. Names that cannot be rewritten are refused.
 */
const oneReading: Omit<StrictJson, 'refuse'> = {
  maxDepth: 16,
  maxMembers,
  escapedNames: 'write-out',
}

function malformed(why: string): GateError {
  return new GateError('ERR_TOKEN_MALFORMED', undefined, { cause: why })
}

/** What was found in a token, for the cause of a refusal: short, since strangers choose it. */
export function shown(value: unknown): string {
  return value === undefined ? 'missing' : JSON.stringify(value).slice(0, 200)
}
