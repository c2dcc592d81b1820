/**
 * Signatures of JWS (RFC 7515) with node:crypto, synchronously: a decision awaits nothing, and jose works only with
 * promises. A key must fit the algorithm by type and curve, so that a public key is never used as a shared secret.
 */
import {
  constants,
  createHmac,
  createPrivateKey,
  createPublicKey,
  createSecretKey,
  type JsonWebKey,
  type KeyObject,
  sign,
  timingSafeEqual,
  verify,
  X509Certificate,
} from 'node:crypto'
import { readJson } from '../json/json-text.ts'
import { BuiltinError } from '../values/operand.ts'
import { isArray, RegoObject, toJson, type Value } from '../values/value.ts'

interface Algorithm {
  readonly kind: 'hmac' | 'rsa' | 'pss' | 'ecdsa' | 'eddsa'
  readonly hash: string
  readonly curve?: string
}

export const algorithms: ReadonlyMap<string, Algorithm> = new Map([
  ['HS256', { kind: 'hmac', hash: 'sha256' }],
  ['HS384', { kind: 'hmac', hash: 'sha384' }],
  ['HS512', { kind: 'hmac', hash: 'sha512' }],
  ['RS256', { kind: 'rsa', hash: 'sha256' }],
  ['RS384', { kind: 'rsa', hash: 'sha384' }],
  ['RS512', { kind: 'rsa', hash: 'sha512' }],
  ['PS256', { kind: 'pss', hash: 'sha256' }],
  ['PS384', { kind: 'pss', hash: 'sha384' }],
  ['PS512', { kind: 'pss', hash: 'sha512' }],
  ['ES256', { kind: 'ecdsa', hash: 'sha256', curve: 'prime256v1' }],
  ['ES384', { kind: 'ecdsa', hash: 'sha384', curve: 'secp384r1' }],
  ['ES512', { kind: 'ecdsa', hash: 'sha512', curve: 'secp521r1' }],
  ['EdDSA', { kind: 'eddsa', hash: '' }],
])

export interface VerificationKey {
  /** Algorithm of the key; '' if the key names none. */
  readonly alg: string
  readonly kid: string
  readonly key: KeyObject
}

function fits({ kind, curve }: Algorithm, key: KeyObject): boolean {
  switch (kind) {
    case 'hmac':
      return key.type === 'secret'
    case 'rsa':
    case 'pss':
      return key.asymmetricKeyType === 'rsa'
    case 'ecdsa':
      return key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === curve
    case 'eddsa':
      return key.asymmetricKeyType === 'ed25519'
  }
}

/** Returns false for an unknown algorithm, a key that does not fit it, or a wrong signature. */
export function verifySignature(
  name: string,
  key: KeyObject,
  content: string,
  signature: Buffer,
): boolean {
  const algorithm = algorithms.get(name)
  if (algorithm === undefined || key.type === 'private' || !fits(algorithm, key)) return false
  const bytes = Buffer.from(content)
  switch (algorithm.kind) {
    case 'hmac': {
      const mac = createHmac(algorithm.hash, key).update(bytes).digest()
      return mac.length === signature.length && timingSafeEqual(mac, signature)
    }
    case 'rsa':
      return verify(algorithm.hash, bytes, key, signature)
    case 'pss':
      return verify(
        algorithm.hash,
        bytes,
        {
          key,
          padding: constants.RSA_PKCS1_PSS_PADDING,
          saltLength: constants.RSA_PSS_SALTLEN_AUTO,
        },
        signature,
      )
    case 'ecdsa':
      return verify(algorithm.hash, bytes, { key, dsaEncoding: 'ieee-p1363' }, signature)
    case 'eddsa':
      return verify(null, bytes, key, signature)
  }
}

/** @throws BuiltinError when the key does not fit the algorithm. */
export function signContent(name: string, key: KeyObject, content: string): Buffer {
  const algorithm = algorithms.get(name)
  if (algorithm === undefined) throw new BuiltinError(`unknown JWS algorithm: ${name}`)
  if (key.type === 'public' || !fits(algorithm, key)) {
    throw new BuiltinError(`the key does not fit the algorithm ${name}`)
  }
  const bytes = Buffer.from(content)
  try {
    switch (algorithm.kind) {
      case 'hmac':
        return createHmac(algorithm.hash, key).update(bytes).digest()
      case 'rsa':
        return sign(algorithm.hash, bytes, key)
      case 'pss':
        return sign(algorithm.hash, bytes, {
          key,
          padding: constants.RSA_PKCS1_PSS_PADDING,
          saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
        })
      case 'ecdsa':
        return sign(algorithm.hash, bytes, { key, dsaEncoding: 'ieee-p1363' })
      case 'eddsa':
        return sign(null, bytes, key)
    }
  } catch (error) {
    throw new BuiltinError(`cannot sign: ${(error as Error).message}`)
  }
}

/** Returns the key of a JWK, or all keys of a JWK set. @throws BuiltinError */
export function readJwks(json: Value): VerificationKey[] {
  if (!(json instanceof RegoObject)) throw new BuiltinError('the value is not a JWK')
  const keys = json.get('keys')
  if (keys === undefined) return [keyOfJwk(json)]
  if (!isArray(keys)) throw new BuiltinError('the value is not a JWK set')
  return keys.map((each) => keyOfJwk(each))
}

function keyOfJwk(jwk: Value): VerificationKey {
  if (!(jwk instanceof RegoObject)) throw new BuiltinError('the value is not a JWK')
  const field = (name: string): string => {
    const value = jwk.get(name)
    return typeof value === 'string' ? value : ''
  }
  return { alg: field('alg'), kid: field('kid'), key: importJwk(jwk, field) }
}

function importJwk(jwk: RegoObject, field: (name: string) => string): KeyObject {
  try {
    if (field('kty') === 'oct') return createSecretKey(Buffer.from(field('k'), 'base64url'))
    const key = JSON.parse(toJson(jwk)) as JsonWebKey
    return jwk.has('d')
      ? createPrivateKey({ key, format: 'jwk' })
      : createPublicKey({ key, format: 'jwk' })
  } catch (error) {
    throw new BuiltinError(`the value is not a JWK: ${(error as Error).message}`)
  }
}

const cachedKeys = new Map<string, readonly VerificationKey[]>()
/** Most cached key texts, the same number as in OPA. */
const maxCachedKeys = 100

/** Reads the key of a PEM certificate or public key, or JWKs. @throws BuiltinError */
export function readKeys(text: string): readonly VerificationKey[] {
  const cached = cachedKeys.get(text)
  if (cached !== undefined) return cached
  const pem = readPem(text)
  // Keys of unsupported algorithms are skipped.
  const keys =
    pem === undefined
      ? readJwks(readJson(text)).filter(({ alg }) => alg === '' || algorithms.has(alg))
      : [{ alg: '', kid: '', key: pem }]
  if (cachedKeys.size >= maxCachedKeys) cachedKeys.delete(cachedKeys.keys().next().value!)
  cachedKeys.set(text, keys)
  return keys
}

function readPem(text: string): KeyObject | undefined {
  // Look for PEM at the start of a line only: a JWK may contain a certificate inside a string.
  const begin = text.startsWith('-----BEGIN ') ? 0 : text.indexOf('\n-----BEGIN ') + 1
  if (!text.startsWith('-----BEGIN ', begin)) return undefined
  const type = text.slice(begin + 11, text.indexOf('-----', begin + 11))
  const end = `-----END ${type}-----`
  const stop = text.indexOf(end, begin)
  if (stop === -1) return undefined
  const block = text.slice(begin, stop + end.length)
  if (!/^\r?\n?$/.test(text.slice(stop + end.length))) {
    throw new BuiltinError('extra data after a PEM certificate block')
  }
  try {
    if (type === 'CERTIFICATE') return new X509Certificate(block).publicKey
    if (type === 'PUBLIC KEY') return createPublicKey(block)
  } catch (error) {
    throw new BuiltinError(`failed to parse a PEM block: ${(error as Error).message}`)
  }
  throw new BuiltinError('failed to extract a key from the PEM certificate')
}
