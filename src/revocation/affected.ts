/**
 * Turns rows that have just come into force into the keys under which the open exchanges that they may concern are
 * filed (response/live). The ledger decides whether a row really concerns an exchange. Here no exchange may be
 * missed; finding too many only costs time.
 */
import { keyBytes, kinds, peerKinds, type RevocationRow } from '../domain/revocation.ts'

/** With more new rows than this, all open exchanges are checked instead of looking each row up. */
const maxRows = 10_000

/**
 * Kinds of keys under which an exchange is filed from its start. Claims are not among them, because a principal gets
 * a claim key only after a row has named the claim; nor are the kinds that belong to the exchange itself
 * (`peerKinds`). A row with only such keys may concern every open exchange.
 */
const filed = new Set<number>(
  Object.values(kinds).filter((kind) => kind !== kinds.claim && !peerKinds.has(kind)),
)

/** @returns `keyBytes` for each row; undefined when all open exchanges must be checked. */
export function affectedKeys(rows: readonly RevocationRow[]): Uint8Array | undefined {
  if (rows.length > maxRows) return undefined
  const keys = new Uint8Array(rows.length * keyBytes)
  for (const [i, row] of rows.entries()) {
    let at = 0
    while (at < row.keys.length && !filed.has(row.keys[at]!)) at += keyBytes
    if (at >= row.keys.length) return undefined
    keys.set(row.keys.subarray(at, at + keyBytes), i * keyBytes)
  }
  return keys
}
