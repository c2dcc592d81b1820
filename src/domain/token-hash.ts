/**
 * Token hash: names a token without revealing it. A JWT is hashed without its signature: the same content can have
 * several valid signatures in several spellings, and a revocation must match all of them. An opaque token is hashed
 * whole.
 */
import { createHmac } from 'node:crypto'

/** Returns the HMAC-SHA-256 of the token under a pepper, for `revocations.token_hash`. */
export function tokenHash(pepper: Uint8Array, token: string): Buffer {
  const parts = token.split('.')
  const signed = parts.length === 3 ? `${parts[0]}.${parts[1]}` : token
  return createHmac('sha256', pepper).update(signed).digest()
}

/** Names a pepper without revealing it, so that a command can compare its pepper with those of the gates. */
export function pepperId(pepper: Uint8Array): string {
  return createHmac('sha256', pepper).update('dropgate pepper id').digest('hex').slice(0, 16)
}
