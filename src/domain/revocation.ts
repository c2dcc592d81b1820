/**
 * Revocation: one row, the AND of its predicates. It is a *cutoff* when `cutoffUs` is set (tokens issued before it
 * are revoked, new sign-ins are valid), and a *block* when it is null (it applies until lifted). Not: ban, blacklist
 * entry.
 *
 * A predicate is stored as a key: one kind byte and the first 16 bytes of
 * SHA-256( kind byte ‖ uint32be(byte length of issuer) ‖ issuer ‖ uint32be(byte length of value) ‖ value )
 * in UTF-8, with an empty issuer if the row names none. Postgres computes it for rows (store/sql), `keyOf` for
 * principals; `test/store/store.test.ts` compares the two. Two kinds differ: the value of a claim is uint32be(byte
 * length of pointer) ‖ pointer ‖ type letter ‖ text; the value of a network is prefix length ‖ address, and the last
 * byte of its digest is replaced by its `prefixCode`.
 */
import { hash } from 'node:crypto'

/** Kind bytes of equality predicates. The keys of a row have the order of `prepare_revocation()` in store/sql. */
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

/** Bit of a kind byte: the principal must *not* have this key. Such keys are last in `keys`, never first. */
export const negatedBit = 0x80

/** Negated kinds that this release can match. */
export const negatedKinds = { except_session_id: negatedBit | kinds.session_id } as const

/** Kinds that belong to the exchange, not to its token. A row with such a predicate is filed under it. */
export const peerKinds: ReadonlySet<number> = new Set([kinds.client_cert, kinds.network])

/** Bytes of one key in `revocations.keys`: the kind and 16 bytes of digest. */
export const keyBytes = 17

/** One revocation in the form in which the feed passes it to the ledger. */
export interface RevocationRow {
  /** `revocations.id`; below 2^53. */
  readonly id: number
  /** `revocations.keys`: `keyBytes` per predicate, most selective first. */
  readonly keys: Uint8Array
  /** `issued_before` in µs since 1970, null for a block. */
  readonly cutoffUs: number | null
  /** True if the row has an `event_time`: the cutoff is then in the clock of the issuer, and no skew is added. */
  readonly exact: boolean
  /**
   * True for `compare = 'auth_time'`: the cutoff is compared with the last sign-in, not with the issue time of the
   * token.
   */
  readonly authTime: boolean
  /** `expires_at` in whole seconds since 1970, rounded up; null for never. */
  readonly expiresAtS: number | null
}

/** The columns of `live` in store/sql, as the driver gives them: bigints as text. */
export interface StoredRow {
  readonly id: string
  readonly keys: Uint8Array
  readonly cutoff_us: string | null
  readonly exact: boolean | null
  readonly auth_time: boolean | null
  readonly expires_s: string | null
}

export function fromStored(stored: StoredRow): RevocationRow {
  const { id, keys, cutoff_us: cutoffUs, exact, auth_time: authTime, expires_s: expiresS } = stored
  return {
    id: Number(id),
    keys,
    cutoffUs: cutoffUs === null ? null : Number(cutoffUs),
    exact: exact === true,
    authTime: authTime === true,
    expiresAtS: expiresS === null ? null : Number(expiresS),
  }
}

export function sameRow(a: RevocationRow, b: RevocationRow): boolean {
  return (
    a.id === b.id &&
    a.cutoffUs === b.cutoffUs &&
    a.exact === b.exact &&
    a.authTime === b.authTime &&
    a.expiresAtS === b.expiresAtS &&
    Buffer.compare(a.keys, b.keys) === 0
  )
}

/** Returns the 16 bytes of the key of a predicate. */
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
  // As text and back: a third of the time that `hash` takes to make a buffer itself.
  return Buffer.from(hash('sha256', bytes, 'binary').slice(0, 16), 'latin1')
}

/** Keys that many tokens share: of clients, groups, tenants, signing keys and issuers. */
const sharedKeys = new Map<string, Buffer>()
const maxSharedKeys = 4096
const maxSharedLength = 256

/** As `keyOf`, for values that come again. */
function sharedKeyOf(kind: Kind, issuer: string, value: string): Buffer {
  if (value.length > maxSharedLength) return keyOf(kind, issuer, value)
  // The length keeps an issuer and a value apart that would look alike side by side.
  const name = `${kind} ${issuer.length} ${issuer}${value}`
  let key = sharedKeys.get(name)
  if (key === undefined) {
    key = keyOf(kind, issuer, value)
    // Made anew in a moment, where it is full.
    if (sharedKeys.size === maxSharedKeys) sharedKeys.clear()
    sharedKeys.set(name, key)
  }
  return key
}

/** Facts about the bearer of a verified token that revocations can name. */
export interface Identifiers {
  readonly issuer: string
  readonly subject: string
  /** Subjects of the `act` chain: a revocation of one of these actors also revokes the token. */
  readonly actors?: readonly { readonly issuer: string; readonly subject: string }[]
  readonly sessionId: string | undefined
  readonly tokenId: string | undefined
  readonly clientId: string | undefined
  /** HMACs of the token, one per pepper. */
  readonly tokenHashes?: readonly Uint8Array[]
  readonly tenant?: string | undefined
  readonly groups?: readonly string[]
  /** RFC 7638 thumbprint of the key that signed the token. */
  readonly keyThumbprint?: string | undefined
  /** What the token is bound to: `cnf.x5t#S256`, `cnf.jkt`. */
  readonly proofKeys?: readonly string[]
  readonly deviceId?: string | undefined
}

/**
 * Returns the keys of a principal, four words each, in the form of `Principal.keys`. Each identifier has one key with
 * its issuer and one for rows that name no issuer. Keys of claims are added later, when rows name the claims.
 */
export function keysOf(who: Identifiers): Uint32Array {
  const found: Buffer[] = []
  const both = (kind: Kind, value: string | Uint8Array | undefined): void => {
    if (value === undefined) return
    found.push(keyOf(kind, who.issuer, value), keyOf(kind, '', value))
  }
  const bothShared = (kind: Kind, value: string | undefined): void => {
    if (value === undefined) return
    found.push(sharedKeyOf(kind, who.issuer, value), sharedKeyOf(kind, '', value))
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
  bothShared('client_id', who.clientId)
  for (const each of who.groups ?? []) bothShared('group_value', each)
  bothShared('tenant', who.tenant)
  bothShared('key_thumbprint', who.keyThumbprint)
  found.push(sharedKeyOf('issuer', who.issuer, ''), everyoneKey)
  return wordsOfKeys(found)
}

/** Returns the keys of a claim value: one for a text, boolean or safe integer, one per such member for a list. */
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

/** Returns a value with its type letter if a row can name it, else undefined. */
function typedText(value: unknown): string | undefined {
  if (typeof value === 'string') return value.isWellFormed() ? `s${value}` : undefined
  if (typeof value === 'boolean') return `b${value}`
  return Number.isSafeInteger(value) ? `n${value}` : undefined
}

/** Returns the code of a prefix in the key of a network: IPv4 from 0 to 32, IPv6 from 33 to 161. */
export function prefixCode(addressBytes: number, prefix: number): number {
  return addressBytes === 4 ? prefix : prefix + 33
}

export const prefixCodes = 162

/** Returns the key of the network that consists of the first `prefix` bits of this address. */
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

/** Returns 16-byte digests in the form of `Principal.keys`: four little-endian words each. */
export function wordsOfKeys(keys: readonly Buffer[]): Uint32Array {
  const words = new Uint32Array(keys.length * 4)
  for (const [i, key] of keys.entries()) {
    for (let w = 0; w < 4; w++) words[i * 4 + w] = key.readUInt32LE(w * 4)
  }
  return words
}

/** Key of a row whose only predicate is `everyone`; it has no issuer and no value. */
export const everyoneKey: Buffer = keyOf('everyone', '', '')
