/**
 * Which keys of a published set are taken: public ones for signatures, of a strength that is worth checking. Others
 * are left out, not an error: issuers publish encryption keys in the same set.
 */
import { createPublicKey } from 'node:crypto'
import { GateError } from '../errors.ts'

export type Jwk = Readonly<Record<string, unknown>>

const maxKeys = 100
const curves: Readonly<Record<string, readonly string[]>> = {
  EC: ['P-256', 'P-384', 'P-521'],
  OKP: ['Ed25519'],
}
/** Everything else in a key (certificates, private parts) stays behind. */
const kept = ['kty', 'n', 'e', 'crv', 'x', 'y', 'kid', 'alg'] as const

/**
 * @param text A JWK set (RFC 7517 section 5).
 * @param name Of the set, for whoever has to repair it.
 * @throws GateError ERR_OUTBOUND when it is none or holds no usable key.
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
    throw new GateError('ERR_OUTBOUND', `${name} is not a list of at most ${maxKeys} keys`)
  }
  const admitted = keys.filter((key) => isAdmissible(key, algorithms)).map(publicPart)
  // Two keys under one name: neither can be meant.
  const unique = admitted.filter(
    (key) => admitted.filter(({ kid }) => kid === key.kid).length === 1,
  )
  if (unique.length === 0)
    throw new GateError('ERR_OUTBOUND', `${name} holds no usable signature key`, {
      hint: 'public keys for signatures are taken, of the algorithms in issuers[].algorithms',
    })
  return unique
}

function isAdmissible(key: unknown, algorithms: readonly string[]): key is Jwk {
  if (typeof key !== 'object' || key === null) return false
  const { kty, crv, d, use, key_ops, alg, kid } = key as Jwk
  // A published private key is nobody's proof of anything.
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
