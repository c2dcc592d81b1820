/**
 * `io.jwt.*`: decodes tokens, verifies them against constraints, and signs them (RFC 7519, in OPA's interpretation).
 */
import { createSecretKey } from 'node:crypto'
import type { Builtin, BuiltinContext, BuiltinTable } from '../builtin.ts'
import { readJson, writeJson } from '../json/json-text.ts'
import { bytesOf, textOf } from '../values/bytes.ts'
import { type Args, BuiltinError, object, text } from '../values/operand.ts'
import { compare, isArray, RegoNumber, RegoObject, type Value } from '../values/value.ts'
import {
  algorithms,
  readJwks,
  readKeys,
  signContent,
  type VerificationKey,
  verifySignature,
} from './jws.ts'

interface Token {
  readonly header: RegoObject
  /** The signed part of the token: its first two sections, unchanged. */
  readonly signed: string
  readonly payload: () => Buffer
  readonly signature: () => Buffer
}

/** Decodes base64url like Go, with or without padding; line ends are skipped. @throws BuiltinError */
function decodeSection(section: string): Buffer {
  const digits = section.replace(/[\r\n]/g, '')
  const bare = digits.replace(/={1,2}$/, '')
  if (!/^[A-Za-z0-9_-]*$/.test(bare) || bare.length % 4 === 1) {
    throw new BuiltinError('a section of the token is not base64url')
  }
  if (bare !== digits && digits.length % 4 !== 0)
    throw new BuiltinError('a section of the token has wrong base64 padding')
  return Buffer.from(bare, 'base64url')
}

function readObject(bytes: Buffer): RegoObject {
  const value = readJson(bytes.toString('utf8'))
  if (!(value instanceof RegoObject))
    throw new BuiltinError('a section of the token is not a JSON object')
  return value
}

/** @throws BuiltinError */
function readToken(compact: string): Token {
  const sections = compact.split('.', 4)
  if (sections.length !== 3) throw new BuiltinError('encoded JWT must have 3 sections')
  const [header, payload, signature] = sections as [string, string, string]
  const fields = readObject(decodeSection(header))
  if (fields.has('enc')) throw new BuiltinError('JWT is a JWE object, which is not supported')
  return {
    header: fields,
    signed: `${header}.${payload}`,
    payload: () => decodeSection(payload),
    signature: () => decodeSection(signature),
  }
}

/** Most levels of tokens inside tokens; each inner token is shorter than the outer one. */
const maxNested = 16

function decode(args: Args): Value {
  let compact = text(args, 0)
  for (let depth = 0; depth < maxNested; depth++) {
    const token = readToken(compact)
    const payload = token.payload()
    if (headerText(token.header, 'cty') !== 'JWT') {
      return [token.header, readObject(payload), token.signature().toString('hex')]
    }
    compact = unquoted(textOf(payload))
  }
  throw new BuiltinError('tokens are nested too deeply')
}

/** Removes quotes from both ends. A regular expression would try each run of quotes from each of its positions. */
function unquoted(text: string): string {
  let [from, to] = [0, text.length]
  while (from < to && `"'`.includes(text[from]!)) from++
  while (to > from && `"'`.includes(text[to - 1]!)) to--
  return text.slice(from, to)
}

/** Returns a header parameter, '' if it is missing. @throws BuiltinError when it is not a text. */
function headerText(header: RegoObject, name: string): string {
  const value = header.get(name) ?? ''
  if (typeof value !== 'string') throw new BuiltinError(`${name}: must be a string`)
  return value
}

interface Header {
  readonly alg: string
  readonly kid: string
  readonly cty: string
  /** False if the header lacks `alg` or has a `crit` extension that is not supported. */
  readonly valid: boolean
}

function readHeader(fields: RegoObject): Header {
  headerText(fields, 'typ')
  const alg = headerText(fields, 'alg')
  const critical = fields.get('crit')
  const names = critical === undefined ? [] : critical
  if (!isArray(names) || (critical !== undefined && !names.some((one) => typeof one === 'string')))
    throw new BuiltinError('crit: must be a nonempty list of strings')
  const understood = ['alg', 'kid', 'typ', 'cty', 'crit']
  const unknown = names.some((name) => !understood.includes(String(name)) && fields.has(name))
  return {
    alg,
    kid: headerText(fields, 'kid'),
    cty: headerText(fields, 'cty'),
    valid: alg !== '' && !unknown,
  }
}

/** Tries only the key that the token names, or else all keys that are not for another algorithm. */
function verifiedByAny(
  keys: readonly VerificationKey[],
  { kid, alg }: Header,
  verified: (key: VerificationKey) => boolean,
): boolean {
  const named = kid === '' ? undefined : keys.find((key) => key.kid === kid)
  if (named !== undefined) return verified(named)
  return keys.some((key) => (key.alg === '' || key.alg === alg) && verified(key))
}

function verifyByKeys(algorithm: string): Builtin {
  return {
    call: (args) => {
      const token = readToken(text(args, 0))
      const keys = readKeys(text(args, 1))
      const signature = token.signature()
      return verifiedByAny(keys, readHeader(token.header), ({ key }) =>
        verifySignature(algorithm, key, token.signed, signature),
      )
    },
  }
}

function verifyBySecret(algorithm: string): Builtin {
  return {
    call: (args) => {
      const token = readToken(text(args, 0))
      const secret = createSecretKey(bytesOf(text(args, 1)))
      return verifySignature(algorithm, secret, token.signed, token.signature())
    },
  }
}

interface Constraints {
  readonly keys: readonly VerificationKey[] | undefined
  readonly secret: string
  readonly alg: string
  readonly iss: string
  readonly aud: string
  /** Time to check against, in nanoseconds since 1970. */
  readonly time: number
}

function readConstraints(given: RegoObject, context: BuiltinContext): Constraints {
  const texts = new Map<string, string>()
  let time = Number(context.nowNs)
  for (const [name, value] of given) {
    if (name === 'time') {
      const ns = value instanceof RegoNumber ? Number(value.text) : Number.NaN
      if (!Number.isFinite(ns) || ns < 0) {
        throw new BuiltinError('token time constraint: must be a non-negative number')
      }
      time = ns
    } else if (['cert', 'secret', 'alg', 'iss', 'aud'].includes(String(name))) {
      if (typeof value !== 'string') throw new BuiltinError(`${name} constraint: must be a string`)
      texts.set(String(name), value)
    } else throw new BuiltinError(`unknown token validation constraint: ${String(name)}`)
  }
  const cert = texts.get('cert')
  const secret = texts.get('secret') ?? ''
  if ((cert === undefined) === (secret === ''))
    throw new BuiltinError('exactly one of cert and secret is needed')
  return {
    keys: cert === undefined ? undefined : readKeys(cert),
    secret,
    alg: texts.get('alg') ?? '',
    iss: texts.get('iss') ?? '',
    aud: texts.get('aud') ?? '',
    time,
  }
}

function decodeVerify(args: Args, context: BuiltinContext): Value {
  const unverified: Value = [false, new RegoObject(), new RegoObject()]
  const constraints = readConstraints(object(args, 1), context)
  let compact = text(args, 0)
  for (let depth = 0; depth < maxNested; depth++) {
    const token = readToken(compact)
    const header = readHeader(token.header)
    if (!header.valid) return unverified
    if (constraints.alg !== '' && constraints.alg !== header.alg) return unverified
    if (!verifiedBy(constraints, header, token)) return unverified
    const payload = token.payload()
    if (header.cty.toUpperCase() === 'JWT') {
      compact = textOf(payload)
      continue
    }
    const claims = readObject(payload)
    return claimsHold(claims, constraints) ? [true, token.header, claims] : unverified
  }
  throw new BuiltinError('tokens are nested too deeply')
}

function verifiedBy({ keys, secret }: Constraints, header: Header, token: Token): boolean {
  const signature = token.signature()
  if (keys === undefined) {
    const key = createSecretKey(bytesOf(secret))
    return verifySignature(header.alg, key, token.signed, signature)
  }
  return verifiedByAny(keys, header, ({ key }) =>
    verifySignature(header.alg, key, token.signed, signature),
  )
}

function claimsHold(claims: RegoObject, { iss, aud, time }: Constraints): boolean {
  if (iss !== '' && claims.get('iss') !== iss) return false
  const audience = claims.get('aud')
  // A token with an audience is refused if the policy names no audience.
  if (audience === undefined ? aud !== '' : !isFor(audience, aud)) return false
  const now = new RegoNumber(time / 1e9)
  const expires = claimedTime(claims, 'exp')
  if (expires !== undefined && compare(now, expires) >= 0) return false
  const begins = claimedTime(claims, 'nbf')
  return begins === undefined || compare(now, begins) >= 0
}

function isFor(audience: Value, aud: string): boolean {
  return isArray(audience) ? audience.includes(aud) : audience === aud
}

function claimedTime(claims: RegoObject, name: string): RegoNumber | undefined {
  const value = claims.get(name)
  if (value === undefined || value instanceof RegoNumber) return value
  throw new BuiltinError(`${name} value must be a number`)
}

/** @param headers, payload Texts that are signed without changes. */
function encodeSign(headers: string, payload: string, jwk: Value): string {
  const [first] = readJwks(jwk)
  if (first === undefined) throw new BuiltinError('no keys found in JWK set')
  const fields = readJson(headers)
  if (!(fields instanceof RegoObject)) throw new BuiltinError('the headers are not an object')
  const alg = fields.get('alg')
  if (typeof alg !== 'string') throw new BuiltinError('missing or invalid alg header')
  if (!algorithms.has(alg)) throw new BuiltinError(`unknown JWS algorithm: ${alg}`)
  const typ = fields.get('typ')
  if (typeof typ !== 'string' || typ === 'JWT') readJson(payload)
  const signed = [headers, payload].map((part) => bytesOf(part).toString('base64url')).join('.')
  return `${signed}.${signContent(alg, first.key, signed).toString('base64url')}`
}

export const jwtBuiltins: BuiltinTable = {
  'io.jwt.decode': { call: decode },
  'io.jwt.decode_verify': { call: decodeVerify },
  ...Object.fromEntries(
    [...algorithms.keys()].map((name) => [
      `io.jwt.verify_${name.toLowerCase()}`,
      name.startsWith('HS') ? verifyBySecret(name) : verifyByKeys(name),
    ]),
  ),
  // Not recorded in the decision log: the arguments contain a private key.
  'io.jwt.encode_sign': {
    call: ([headers, payload, key]) => encodeSign(writeJson(headers!), writeJson(payload!), key!),
    pinned: 'unrecorded',
  },
  'io.jwt.encode_sign_raw': {
    call: (args) => encodeSign(text(args, 0), text(args, 1), readJson(text(args, 2))),
    pinned: 'unrecorded',
  },
}
