/**
 * Token hash: how a token is named without being shown. A JWT is hashed without its signature: several signatures, in
 * several spellings, are valid for the same content, and each of them must be hit. An opaque token is hashed whole.
 */
import { createHmac } from 'node:crypto'

/** HMAC-SHA-256 of the token under a pepper, `revocations.token_hash`. */
export function tokenHash(pepper: Uint8Array, token: string): Buffer {
  const parts = token.split('.')
  const signed = parts.length === 3 ? `${parts[0]}.${parts[1]}` : token
  return createHmac('sha256', pepper).update(signed).digest()
}

/** Names a pepper without giving it away, so that a command can tell whether the gates have the same one. */
export function pepperId(pepper: Uint8Array): string {
  return createHmac('sha256', pepper).update('dropgate pepper id').digest('hex').slice(0, 16)
}
