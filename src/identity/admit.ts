/**
 * Decides which keys of an issuer's published key set are used: public keys for signatures, of sufficient strength.
 * Other keys are left out without an error, since issuers publish encryption keys in the same set; each with the reason,
 * for the log.
 */
import { createPublicKey } from 'node:crypto'
import { GateError } from '../errors.ts'
import { weaknessOf } from './weak-keys.ts'

export type Jwk = Readonly<Record<string, unknown>>

export interface Admitted {
  readonly keys: readonly Jwk[]
  /** One sentence part for each key that is not used: `key "a": it is for encryption`. */
  readonly left: readonly string[]
}

const maxKeys = 100
/** Most keys of one type and `alg` that may share a `kid`, or have none: a token could then be meant for each of them. */
export const maxCandidates = 4
const curves: Readonly<Record<string, readonly string[]>> = {
  EC: ['P-256', 'P-384', 'P-521'],
  OKP: ['Ed25519'],
}
/** Members that are copied from a key; certificates and private parts are not. `issuer` is an addition of Entra. */
const kept = ['kty', 'n', 'e', 'crv', 'x', 'y', 'kid', 'alg', 'issuer'] as const

/**
 * @param text A JWK set (RFC 7517 section 5).
 * @param name Name of the key set in error messages.
 * @throws GateError ERR_OUTBOUND when the text is not a key set, or holds no usable key.
 */
export function admitKeys(
  text: string,
  algorithms: readonly string[],
  name = 'the key set',
): Admitted {
  let published: unknown
  try {
    published = (JSON.parse(text) as { keys?: unknown } | null)?.keys
  } catch (error) {
    throw new GateError('ERR_OUTBOUND', `${name} is not JSON`, { cause: error })
  }
  if (!Array.isArray(published) || published.length > maxKeys) {
    throw new GateError('ERR_OUTBOUND', `${name} is not a JWK set of at most ${maxKeys} keys`)
  }
  const keys: Jwk[] = []
  const left: string[] = []
  for (const key of published) {
    const why = objectionTo(key, algorithms) ?? crowd(keys, publicPart(key as Jwk))
    if (why === undefined) keys.push(publicPart(key as Jwk))
    else if (why !== same) left.push(`${nameOf(key)}: ${why}`)
  }
  if (keys.length === 0)
    throw new GateError('ERR_OUTBOUND', `${name} holds no usable signature key${reasons(left)}`, {
      hint: 'publish a public signature key for one of the algorithms in issuers[].algorithms',
    })
  return { keys, left }
}

function reasons(left: readonly string[]): string {
  return left.length === 0 ? '' : `: ${left.slice(0, 5).join('; ')}`
}

function nameOf(key: unknown): string {
  const { kid } = (key ?? {}) as Jwk
  return typeof kid === 'string' ? `key ${JSON.stringify(kid.slice(0, 100))}` : 'a key without kid'
}

/** Members of private keys (RFC 7518 section 6). */
const privateMembers = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth'] as const

/** Why a key cannot be used; undefined when it can. */
function objectionTo(key: unknown, algorithms: readonly string[]): string | undefined {
  return formProblem(key, algorithms) ?? weaknessOfKey(key as Jwk)
}

/** What can be said against a key without looking at its numbers; undefined when there is nothing. */
export function formProblem(key: unknown, algorithms: readonly string[]): string | undefined {
  if (typeof key !== 'object' || key === null) return 'it is not an object'
  const { kty, crv, use, key_ops, alg, kid } = key as Jwk
  // A private key that is published proves nothing: anyone can sign with it.
  if (privateMembers.some((name) => (key as Jwk)[name] !== undefined))
    return 'its private part is published'
  if (use !== undefined && use !== 'sig') return 'its use is not sig'
  if (kid !== undefined && (typeof kid !== 'string' || kid.length > 256))
    return 'its kid is not a text of at most 256 characters'
  if (key_ops !== undefined && !(Array.isArray(key_ops) && key_ops.includes('verify')))
    return 'its key_ops do not include verify'
  if (alg !== undefined && !(typeof alg === 'string' && algorithms.includes(familyOf(alg))))
    return 'its alg is not one of issuers[].algorithms'
  if (kty !== 'RSA' && !(typeof kty === 'string' && curves[kty]?.includes(crv as string)))
    return 'its kty or crv is not supported'
  if (alg !== undefined && !isKeyFor(key as Jwk, familyOf(alg)))
    return 'its alg is for keys of another kty or crv'
  return undefined
}

/** RFC 9864 gives EdDSA with this curve a name of its own; both mean the same signature. */
export function familyOf(alg: string): string {
  return alg === 'Ed25519' ? 'EdDSA' : alg
}

/** True if a key of this type can verify this algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1). */
export function isKeyFor({ kty, crv }: Jwk, alg: string): boolean {
  switch (alg) {
    case 'ES256':
      return kty === 'EC' && crv === 'P-256'
    case 'ES384':
      return kty === 'EC' && crv === 'P-384'
    case 'ES512':
      return kty === 'EC' && crv === 'P-521'
    case 'EdDSA':
      return kty === 'OKP' && crv === 'Ed25519'
    default:
      return kty === 'RSA'
  }
}

/** Why a key is too weak or malformed; undefined when it is neither. It may take milliseconds for an RSA key. */
export function weaknessOfKey(key: Jwk): string | undefined {
  let details: ReturnType<typeof createPublicKey>['asymmetricKeyDetails']
  try {
    details = createPublicKey({ key: publicPart(key), format: 'jwk' }).asymmetricKeyDetails
  } catch {
    return 'it is malformed'
  }
  if (key.kty !== 'RSA') return undefined
  const { modulusLength = 0, publicExponent = 0n } = details ?? {}
  if (modulusLength < 2048 || modulusLength > 8192) return 'its size is not from 2048 to 8192 bits'
  if (publicExponent < 65537n || publicExponent % 2n === 0n)
    return 'its exponent is not an odd number from 65537'
  return weaknessOf(BigInt(`0x${Buffer.from(key.n as string, 'base64url').toString('hex')}`))
}

/** The answer of `crowd` for a key that is there already, about which nothing needs to be said. */
const same = 'it is there twice'

function crowd(keys: readonly Jwk[], key: Jwk): string | undefined {
  const alike = keys.filter(
    ({ kid, kty, crv, alg, issuer }) =>
      kid === key.kid &&
      kty === key.kty &&
      crv === key.crv &&
      alg === key.alg &&
      issuer === key.issuer,
  )
  if (alike.some((one) => JSON.stringify(one) === JSON.stringify(key))) return same
  return alike.length < maxCandidates ? undefined : `more than ${maxCandidates} keys have its kid`
}

export function publicPart(key: Jwk): Jwk {
  return Object.fromEntries(
    kept.filter((name) => key[name] !== undefined).map((name) => [name, key[name]]),
  )
}
