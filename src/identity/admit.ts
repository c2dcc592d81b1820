/**
 * Decides which keys of an issuer's published key set are used: public keys for signatures, of sufficient strength.
 * Other keys are left out without an error, since issuers publish encryption keys in the same set.
 */
import { createPublicKey } from 'node:crypto'
import { GateError } from '../errors.ts'

export type Jwk = Readonly<Record<string, unknown>>

const maxKeys = 100
const curves: Readonly<Record<string, readonly string[]>> = {
  EC: ['P-256', 'P-384', 'P-521'],
  OKP: ['Ed25519'],
}
/** Members that are copied from a key; certificates and private parts are not. */
const kept = ['kty', 'n', 'e', 'crv', 'x', 'y', 'kid', 'alg'] as const

/**
 * @param text A JWK set (RFC 7517 section 5).
 * @param name Name of the key set in error messages.
 * @throws GateError ERR_OUTBOUND when the text is not a key set, or holds no usable key.
 */
export function admitKeys(
  text: string,
  algorithms: readonly string[],
  name = 'the key set',
): Jwk[] {
  let keys: unknown
  try {
    keys = (JSON.parse(text) as { keys?: unknown } | null)?.keys
  } catch (error) {
    throw new GateError('ERR_OUTBOUND', `${name} is not JSON`, { cause: error })
  }
  if (!Array.isArray(keys) || keys.length > maxKeys) {
    throw new GateError('ERR_OUTBOUND', `${name} is not a JWK set of at most ${maxKeys} keys`)
  }
  const admitted = keys.filter((key) => isAdmissible(key, algorithms)).map(publicPart)
  // Two keys with the same `kid` are both left out: the gate cannot tell which one a token means.
  const unique = admitted.filter(
    (key) => admitted.filter(({ kid }) => kid === key.kid).length === 1,
  )
  if (unique.length === 0)
    throw new GateError('ERR_OUTBOUND', `${name} holds no usable signature key`, {
      hint: 'publish a public signature key for one of the algorithms in issuers[].algorithms',
    })
  return unique
}

function isAdmissible(key: unknown, algorithms: readonly string[]): key is Jwk {
  if (typeof key !== 'object' || key === null) return false
  const { kty, crv, d, use, key_ops, alg, kid } = key as Jwk
  // A private key that is published proves nothing: anyone can sign with it.
  if (d !== undefined || (use !== undefined && use !== 'sig')) return false
  if (kid !== undefined && (typeof kid !== 'string' || kid.length > 256)) return false
  if (key_ops !== undefined && !(Array.isArray(key_ops) && key_ops.includes('verify'))) return false
  if (
    alg !== undefined &&
    !(typeof alg === 'string' && (algorithms.includes(alg) || alg === 'Ed25519'))
  )
    return false
  if (kty !== 'RSA' && !(typeof kty === 'string' && curves[kty]?.includes(crv as string)))
    return false
  try {
    const { asymmetricKeyDetails: details } = createPublicKey({
      key: publicPart(key as Jwk),
      format: 'jwk',
    })
    if (kty !== 'RSA') return true
    const { modulusLength = 0, publicExponent = 0n } = details ?? {}
    return (
      modulusLength >= 2048 &&
      modulusLength <= 8192 &&
      publicExponent >= 65537n &&
      publicExponent % 2n === 1n
    )
  } catch {
    return false
  }
}

function publicPart(key: Jwk): Jwk {
  return Object.fromEntries(
    kept.filter((name) => key[name] !== undefined).map((name) => [name, key[name]]),
  )
}
