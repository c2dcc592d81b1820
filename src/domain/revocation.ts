/**
 * Revocation: one row, the AND of its predicates. A *cutoff* when `cutoffUs` is set (tokens issued before it
 * die, new sign-ins live), a *block* when it is null (stands until lifted). Not: ban, blacklist entry.
 *
 * A predicate travels as a key: one kind byte and the first 16 bytes of
 * SHA-256( kind byte ‖ uint32be(byte length of issuer) ‖ issuer ‖ uint32be(byte length of value) ‖ value ),
 * UTF-8, the issuer empty where the row names none. Postgres computes it for rows (store/sql), `keyOf` for
 * principals; `test/store/store.test.ts` holds the two against each other. Two kinds differ: the value of a claim is
 * uint32be(byte length of pointer) ‖ pointer ‖ type letter ‖ text, that of a network is prefix length ‖ address, and
 * the last byte of a network's digest is replaced by its `prefixCode`.
 */
import { hash } from 'node:crypto'

/** Kind bytes of equality predicates. The order of a row's keys is that of `prepare_revocation()` in store/sql. */
export const kinds = {
  token_id: 1,
  session_id: 2,
  subject: 3,
  client_id: 4,
  issuer: 5,
  everyone: 6,
  token_hash: 7,
  tenant: 8,
  group_value: 9,
  key_thumbprint: 10,
  client_cert: 11,
  proof_key: 12,
  device_id: 13,
  network: 14,
  claim: 15,
} as const

export type Kind = keyof typeof kinds

/** Bit of a kind byte: this key must *not* be among the principal's. Such keys are last in `keys`, never first. */
export const negatedBit = 0x80

/** Negated kinds that this release knows. */
export const negatedKinds = { except_session_id: negatedBit | kinds.session_id } as const

/** Predicates on the exchange, not on its token: a row with one is filed under it. */
export const peerKinds: ReadonlySet<number> = new Set([kinds.client_cert, kinds.network])

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
  /** True for `compare = 'auth_time'`: the cutoff is held against the last sign-in, not the token's issue. */
  readonly authTime: boolean
  /** `expires_at` in whole seconds since 1970, rounded up; null for never. */
  readonly expiresAtS: number | null
}

/** The 16 bytes under which a predicate is filed. */
export function keyOf(kind: Kind, issuer: string, value: string | Uint8Array): Buffer {
  const issuerLength = Buffer.byteLength(issuer)
  const valueLength = typeof value === 'string' ? Buffer.byteLength(value) : value.length
  const bytes = Buffer.allocUnsafe(9 + issuerLength + valueLength)
  bytes[0] = kinds[kind]
  bytes.writeUInt32BE(issuerLength, 1)
  bytes.write(issuer, 5)
  bytes.writeUInt32BE(valueLength, 5 + issuerLength)
  if (typeof value === 'string') bytes.write(value, 9 + issuerLength)
  else bytes.set(value, 9 + issuerLength)
  return hash('sha256', bytes, 'buffer').subarray(0, 16)
}

/** What a verified token says of its bearer, as far as rows can name it. */
export interface Identifiers {
  readonly issuer: string
  readonly subject: string
  /** Subjects of the `act` chain: those on whose behalf nothing may be done any more either. */
  readonly actors?: readonly { readonly issuer: string; readonly subject: string }[]
  readonly sessionId: string | undefined
  readonly tokenId: string | undefined
  readonly clientId: string | undefined
  /** HMACs of the token, one for each pepper. */
  readonly tokenHashes?: readonly Uint8Array[]
  readonly tenant?: string | undefined
  readonly groups?: readonly string[]
  /** RFC 7638 thumbprint of the key that signed it. */
  readonly keyThumbprint?: string | undefined
  /** What the token is bound to: `cnf.x5t#S256`. */
  readonly proofKeys?: readonly string[]
  readonly deviceId?: string | undefined
}

/**
 * The keys of a principal, four words each, as `Principal.keys` holds them: for every identifier the key that
 * names its issuer and the key of rows that name none. Those of claims are added as rows come to name them.
 */
export function keysOf(who: Identifiers): Uint32Array {
  const found: Buffer[] = []
  const both = (kind: Kind, value: string | Uint8Array | undefined): void => {
    if (value === undefined) return
    found.push(keyOf(kind, who.issuer, value), keyOf(kind, '', value))
  }
  both('token_id', who.tokenId)
  for (const each of who.tokenHashes ?? []) both('token_hash', each)
  both('session_id', who.sessionId)
  for (const each of who.proofKeys ?? []) both('proof_key', each)
  both('device_id', who.deviceId)
  both('subject', who.subject)
  for (const { issuer, subject } of who.actors ?? []) {
    found.push(keyOf('subject', issuer, subject), keyOf('subject', '', subject))
  }
  both('client_id', who.clientId)
  for (const each of who.groups ?? []) both('group_value', each)
  both('tenant', who.tenant)
  both('key_thumbprint', who.keyThumbprint)
  found.push(keyOf('issuer', who.issuer, ''), everyoneKey)
  return wordsOfKeys(found)
}

/** The keys of what a pointer finds in a token: of a text, boolean or safe integer, or of each such in a list. */
export function claimKeys(issuer: string, pointer: string, value: unknown): Buffer[] {
  const found: Buffer[] = []
  for (const each of Array.isArray(value) ? value : [value]) {
    const text = typedText(each)
    if (text === undefined) continue
    const pointerLength = Buffer.byteLength(pointer)
    const bytes = Buffer.allocUnsafe(4 + pointerLength + Buffer.byteLength(text))
    bytes.writeUInt32BE(pointerLength)
    bytes.write(pointer, 4)
    bytes.write(text, 4 + pointerLength)
    found.push(keyOf('claim', issuer, bytes), keyOf('claim', '', bytes))
  }
  return found
}

/** A value that a row can name, with its type before it; undefined for any other. */
function typedText(value: unknown): string | undefined {
  if (typeof value === 'string') return value.isWellFormed() ? `s${value}` : undefined
  if (typeof value === 'boolean') return `b${value}`
  return Number.isSafeInteger(value) ? `n${value}` : undefined
}

/** How a network's key says which prefix it has: IPv4 from 0 to 32, IPv6 from 33 to 161. */
export function prefixCode(addressBytes: number, prefix: number): number {
  return addressBytes === 4 ? prefix : prefix + 33
}

export const prefixCodes = 162

/** The key of the network that holds this address: its first `prefix` bits. */
export function networkKey(address: Uint8Array, prefix: number): Buffer {
  const value = Buffer.alloc(1 + address.length)
  value[0] = prefix
  for (let bit = 0, at = 0; bit < prefix; bit += 8, at++) {
    const kept = Math.min(8, prefix - bit)
    value[1 + at] = address[at]! & (0xff00 >> kept)
  }
  const key = Buffer.from(keyOf('network', '', value))
  key[15] = prefixCode(address.length, prefix)
  return key
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
