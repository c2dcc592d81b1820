/** What a JWS is checked by (RFC 7515 section 5.2): one function for tokens and proofs. */
import { createPublicKey, hash, type webcrypto } from 'node:crypto'
import { familyOf, type Jwk } from './admit.ts'

type VerifyParameters = Parameters<typeof crypto.subtle.verify>[0]

/** What an algorithm of RFC 7518 section 3.1 is called by WebCrypto. Nothing in a token or a key can choose anything else. */
const parametersOf: ReadonlyMap<string, VerifyParameters> = new Map(
  ['256', '384', '512'].flatMap((bits): [string, VerifyParameters][] => [
    [`ES${bits}`, { name: 'ECDSA', hash: `SHA-${bits}` }],
    [`RS${bits}`, { name: 'RSASSA-PKCS1-v1_5', hash: `SHA-${bits}` }],
    [`PS${bits}`, { name: 'RSA-PSS', hash: `SHA-${bits}`, saltLength: Number(bits) / 8 }],
  ]),
).set('EdDSA', { name: 'Ed25519' })

/** A public key for one algorithm. */
export interface VerifyingKey {
  readonly parameters: VerifyParameters
  readonly key: webcrypto.CryptoKey
}

/** @param jwk A public key that is for this algorithm (`isKeyFor`). @throws Error when it is malformed */
export function verifyingKey(jwk: Jwk, alg: string): VerifyingKey {
  const family = familyOf(alg)
  const { crv } = jwk
  const parameters = parametersOf.get(family)!
  const imported = { ...(parameters as object), ...(crv === undefined ? {} : { namedCurve: crv }) }
  const key = createPublicKey({ key: jwk, format: 'jwk' })
  return { parameters, key: key.toCryptoKey(imported as never, true, ['verify']) }
}

/**
 * On a thread of the pool: with some keys this takes milliseconds, in which the worker could cut nothing.
 * @param jws In compact form, with base64url in its one spelling.
 */
export async function isSignedBy(jws: string, { parameters, key }: VerifyingKey): Promise<boolean> {
  const dot = jws.lastIndexOf('.')
  const signature = Buffer.from(jws.slice(dot + 1), 'base64url')
  try {
    return await crypto.subtle.verify(parameters, key, signature, Buffer.from(jws.slice(0, dot)))
  } catch {
    // A signature that has not even the form of one.
    return false
  }
}

/** RFC 7638: the required members in the order of their names. */
export function thumbprintOf({ kty, crv, x, y, n, e }: Jwk): string {
  const members =
    kty === 'RSA' ? { e, kty, n } : kty === 'EC' ? { crv, kty, x, y } : { crv, kty, x }
  return hash('sha256', JSON.stringify(members), 'base64url')
}
