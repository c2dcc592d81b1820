/**
 * Revocation: one row, the AND of its predicates. A *cutoff* when `cutoffUs` is set (tokens issued before it
 * die, new sign-ins live), a *block* when it is null (stands until lifted). Not: ban, blacklist entry.
 *
 * A predicate travels as a key: one kind byte and the first 16 bytes of
 * SHA-256( kind byte ‖ uint32be(byte length of issuer) ‖ issuer ‖ uint32be(byte length of value) ‖ value ),
 * UTF-8, the issuer empty where the row names none. Postgres computes it for rows (store/sql), `keyOf` for
 * principals; `test/store/store.test.ts` holds the two against each other.
 */
import { hash } from 'node:crypto'

/** Kind bytes of equality predicates, most selective first: the order in which a row's keys are stored. */
export const kinds = {
  token_id: 1,
  session_id: 2,
  subject: 3,
  client_id: 4,
  issuer: 5,
  everyone: 6,
} as const

export type Kind = keyof typeof kinds

/** Bytes of one key in `revocations.keys`: the kind and 16 bytes of digest. */
export const keyBytes = 17

/** One revocation as the feed hands it to the ledger. */
export interface RevocationRow {
  /** `revocations.id`; below 2^53. */
  readonly id: number
  /** `revocations.keys`: `keyBytes` per predicate, most selective first. */
  readonly keys: Uint8Array
  /** `issued_before` in µs since 1970, null for a block. */
  readonly cutoffUs: number | null
  /** True when the row has an `event_time`: the cutoff is then in the issuer's clock and gets no skew. */
  readonly exact: boolean
  /** `expires_at` in whole seconds since 1970, rounded up; null for never. */
  readonly expiresAtS: number | null
}

/** The 16 bytes under which a predicate is filed. */
export function keyOf(kind: Kind, issuer: string, value: string): Buffer {
  const issuerLength = Buffer.byteLength(issuer)
  const valueLength = Buffer.byteLength(value)
  const bytes = Buffer.allocUnsafe(9 + issuerLength + valueLength)
  bytes[0] = kinds[kind]
  bytes.writeUInt32BE(issuerLength, 1)
  bytes.write(issuer, 5)
  bytes.writeUInt32BE(valueLength, 5 + issuerLength)
  bytes.write(value, 9 + issuerLength)
  return hash('sha256', bytes, 'buffer').subarray(0, 16)
}

/**
 * The keys of a principal, four words each, as `Principal.keys` holds them: for every identifier the key that
 * names its issuer and the key of rows that name none.
 */
export function keysOf(identity: {
  readonly issuer: string
  readonly subject: string
  readonly sessionId: string | undefined
  readonly tokenId: string | undefined
  readonly clientId: string | undefined
}): Uint32Array {
  const found: Buffer[] = []
  const both = (kind: Kind, value: string | undefined): void => {
    if (value === undefined) return
    found.push(keyOf(kind, identity.issuer, value), keyOf(kind, '', value))
  }
  both('token_id', identity.tokenId)
  both('session_id', identity.sessionId)
  both('subject', identity.subject)
  both('client_id', identity.clientId)
  found.push(keyOf('issuer', identity.issuer, ''), everyoneKey)
  return wordsOfKeys(found)
}

/** Digests of 16 bytes as `Principal.keys` holds them: four little-endian words each. */
export function wordsOfKeys(keys: readonly Buffer[]): Uint32Array {
  const words = new Uint32Array(keys.length * 4)
  for (const [i, key] of keys.entries()) {
    for (let w = 0; w < 4; w++) words[i * 4 + w] = key.readUInt32LE(w * 4)
  }
  return words
}

/** The key of a row whose only predicate is `everyone`; it has no issuer and no value. */
export const everyoneKey: Buffer = keyOf('everyone', '', '')
