/**
 * Rows that have just come into force -> under which keys the exchanges they may concern are filed (response/live).
 * Whether a row does concern one is asked of the ledger; here nothing may be missed, and too much costs only time.
 */
import { keyBytes, kinds, peerKinds, type RevocationRow } from '../domain/revocation.ts'

/** More rows than this are not looked up one by one: whatever is open is asked. */
const maxRows = 10_000

/**
 * Kinds whose keys a principal holds from the beginning. Not so claims, which it holds once a row has named them, nor
 * what belongs to the exchange (`peerKinds`): a row of nothing else may concern anybody.
 */
const filed = new Set<number>(
  Object.values(kinds).filter((kind) => kind !== kinds.claim && !peerKinds.has(kind)),
)

/** @returns `keyBytes` for each row; undefined when everybody is to be asked. */
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
