/**
 * One tick's rows -> the ledger. The invariant, at every moment and for every reader: a row that is in force is
 * in the ledger. So what a tick brings is written before what it takes away is removed.
 */
import type { RevocationRow } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import type { Ledger } from '../revocation/ledger.ts'
import type { Ident } from './state.ts'

/** The result of `changes()` in pg's array mode, all as text but `keys`. */
export type ChangeRow = readonly [
  op: string,
  id: string | null,
  keys: Buffer | null,
  cutoffUs: string | null,
  exact: boolean | null,
  authTime: boolean | null,
  expiresS: string | null,
  meta: string | null,
]

export interface Changes {
  readonly ident: Ident
  readonly tombs: readonly { readonly id: number; readonly keys: Buffer }[]
  readonly rows: readonly RevocationRow[]
}

export function readChanges(result: readonly ChangeRow[]): Changes {
  const tombs: { id: number; keys: Buffer }[] = []
  const rows: RevocationRow[] = []
  let ident: Ident | undefined
  for (const [op, id, keys, cutoffUs, exact, authTime, expiresS, meta] of result) {
    if (op === 'm') ident = JSON.parse(meta!) as Ident
    else if (op === 't') tombs.push({ id: Number(id), keys: keys! })
    else if (op === 'r') {
      rows.push({
        id: Number(id),
        keys: keys!,
        cutoffUs: cutoffUs === null ? null : Number(cutoffUs),
        exact: exact === true,
        authTime: authTime === true,
        expiresAtS: expiresS === null ? null : Number(expiresS),
      })
    } else throw new GateError('ERR_DATABASE_SCHEMA', `changes() has a row of kind ${op}`)
  }
  if (ident === undefined) throw new GateError('ERR_DATABASE_SCHEMA', 'changes() has no meta row')
  return { ident, tombs, rows }
}

/** Rows between two looks at the clock. */
const stride = 256
const sliceMs = 5

/**
 * Writes the changes in slices of at most 5 ms. Removals come last; a row that was updated under the same keys was
 * replaced in one store and is not removed.
 * @param onUnmatchable Told of each row that this release cannot hold.
 * @throws GateError ERR_LEDGER_FULL
 */
export async function apply(
  ledger: Ledger,
  changes: Pick<Changes, 'rows' | 'tombs'>,
  onUnmatchable: (row: RevocationRow, error: GateError) => void,
): Promise<void> {
  const present = new Map<number, Uint8Array>()
  let since = performance.now()
  let done = 0
  const breathe = async (): Promise<void> => {
    if (performance.now() - since < sliceMs) return
    ledger.publish()
    await new Promise((resolve) => setImmediate(resolve))
    since = performance.now()
  }
  for (const row of changes.rows) {
    present.set(row.id, row.keys)
    try {
      ledger.upsert(row)
    } catch (error) {
      if (!(error instanceof GateError) || error.code !== 'ERR_LEDGER_UNMATCHABLE') throw error
      onUnmatchable(row, error)
    }
    if (++done % stride === 0) await breathe()
  }
  for (const { id, keys } of changes.tombs) {
    const now = present.get(id)
    if (now === undefined || Buffer.compare(now, keys) !== 0) ledger.remove(id, keys)
    if (++done % stride === 0) await breathe()
  }
}
