/**
 * Token hash: names a token without revealing it. A JWT is hashed without its signature: the same content can have
 * several valid signatures in several spellings, and a revocation must match all of them. An opaque token is hashed
 * whole.
 */
import { createHmac, hash } from 'node:crypto'

/** Returns the HMAC-SHA-256 of the token under a pepper, for `revocations.token_hash`. */
export function tokenHash(pepper: Uint8Array, token: string): Buffer {
  const parts = token.split('.')
  return hmac(pepper, parts.length === 3 ? `${parts[0]}.${parts[1]}` : token)
}

const blockBytes = 64
const digestBytes = 32

/**
 * HMAC-SHA-256 (RFC 2104) by two hashes of one call each: every new token needs one, and `createHmac` takes five times
 * as long for so short a text.
 */
function hmac(key: Uint8Array, text: string): Buffer {
  const short = key.length > blockBytes ? hash('sha256', key, 'buffer') : key
  const inner = Buffer.alloc(blockBytes + Buffer.byteLength(text), 0x36)
  const outer = Buffer.alloc(blockBytes + digestBytes, 0x5c)
  for (const [i, byte] of short.entries()) {
    inner[i] = byte ^ 0x36
    outer[i] = byte ^ 0x5c
  }
  inner.write(text, blockBytes)
  outer.write(hash('sha256', inner, 'binary'), blockBytes, 'latin1')
  return Buffer.from(hash('sha256', outer, 'binary'), 'latin1')
}

/** Names a pepper without revealing it, so that a command can compare its pepper with those of the gates. */
export function pepperId(pepper: Uint8Array): string {
  return createHmac('sha256', pepper).update('dropgate pepper id').digest('hex').slice(0, 16)
}
