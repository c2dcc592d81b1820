/**
 * The keys of a row of `revocations`, computed from its columns as `prepare_revocation()` in store/sql does, for
 * commands: their login may not read the keys. test/store/row-keys.test.ts holds the two against each other.
 */
import { addressBytes } from './address.ts'
import {
  claimKeys,
  everyoneKey,
  type Kind,
  keyOf,
  kinds,
  negatedKinds,
  networkKey,
} from './revocation.ts'

/** Column -> value, without those that are not set. The hash is in hex. */
export type Predicates = Readonly<Record<string, unknown>>

/** The columns in the order of their keys; those of the exchange come first. */
const ofExchange = ['client_cert', 'network'] as const
const ofToken = ['token_id', 'token_hash', 'session_id', 'proof_key', 'device_id', 'subject', 'claims', 'client_id', 'group_value', 'tenant', 'key_thumbprint'] as const // biome-ignore format: a line

export function keysOfRow(predicates: Predicates): Uint8Array {
  const issuer = (predicates.issuer ?? '') as string
  const { except_session_id: except } = predicates
  const outer = ofExchange.flatMap((column) => keysOfColumn(column, '', predicates[column]))
  const inner = ofToken.flatMap((column) => keysOfColumn(column, issuer, predicates[column]))
  if (inner.length === 0 && issuer !== '')
    inner.push(withKind(kinds.issuer, keyOf('issuer', issuer, '')))
  if (outer.length + inner.length === 0) inner.push(withKind(kinds.everyone, everyoneKey))
  if (except !== undefined) {
    const key = keyOf('session_id', issuer, except as string)
    inner.push(withKind(negatedKinds.except_session_id, key))
  }
  return Buffer.concat([...outer, ...inner])
}

function keysOfColumn(
  column: (typeof ofExchange | typeof ofToken)[number],
  issuer: string,
  value: unknown,
): Buffer[] {
  if (value === undefined || value === null) return []
  if (column === 'claims') {
    // A database with another collation may order the claims otherwise, which makes no difference to what they match.
    return Object.entries(value as object)
      .sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
      .map(([pointer, each]) => withKind(kinds.claim, claimKeys(issuer, pointer, each)[0]!))
  }
  const kind: Kind = column
  const text = value as string
  if (column !== 'network') {
    const named = column === 'token_hash' ? Buffer.from(text, 'hex') : text
    return [withKind(kinds[kind], keyOf(kind, issuer, named))]
  }
  const [address = '', prefix] = text.split('/')
  return [withKind(kinds.network, networkKey(addressBytes(address)!, Number(prefix)))]
}

function withKind(kind: number, key: Uint8Array): Buffer {
  return Buffer.concat([Buffer.of(kind), key])
}
