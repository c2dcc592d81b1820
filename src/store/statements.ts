/** The statements that commands run; values always travel as parameters. */
import type pg from 'pg'
import { GateError } from '../errors.ts'
import { plainName } from './connect.ts'

/** The columns that say whom a revocation is for. */
export const predicates = [
  'issuer',
  'subject',
  'session_id',
  'token_id',
  'token_hash',
  'client_id',
  'tenant',
  'group_value',
  'key_thumbprint',
  'client_cert',
  'proof_key',
  'device_id',
  'network',
  'claims',
  'everyone',
] as const

const settable = [
  ...predicates,
  'issued_before',
  'compare',
  'except_session_id',
  'expires_at',
  'event_time',
  'reason',
  'source',
] as const

/**
 * What a command may set of a revocation; the table's CHECKs say what is allowed. Times are texts that PostgreSQL
 * reads; without `issued_before` it is a block.
 */
export type NewRevocation = Partial<
  Record<
    Exclude<(typeof settable)[number], 'everyone' | 'token_hash' | 'claims'>,
    string | undefined
  >
> & {
  readonly everyone?: boolean
  readonly token_hash?: Uint8Array
  readonly claims?: Readonly<Record<string, unknown>>
}

/** As a person reads it: the hash as hex, and what `compare` is only where it is not the usual. */
const shown = ['id', ...settable, 'created_by', 'created_at']
  .map((column) =>
    column === 'token_hash'
      ? "encode(token_hash, 'hex') AS token_hash"
      : column === 'compare'
        ? "nullif(compare, 'iat') AS compare"
        : column,
  )
  .join(', ')

/** @returns the row as stored */
export async function insertRevocation(
  client: pg.Client,
  schema: string,
  revocation: NewRevocation,
): Promise<Record<string, unknown>> {
  const columns = settable.filter((column) => revocation[column] !== undefined)
  const { rows } = await client.query(
    `INSERT INTO ${plainName(schema, 'database.schema')}.revocations (${columns.join(', ')})
     VALUES (${columns.map((_, i) => `$${i + 1}`).join(', ')}) RETURNING ${shown}`,
    columns.map((column) => revocation[column]),
  )
  return rows[0]
}

/**
 * Ends a block and leaves a cutoff at this moment, so that tokens from before stay dead. `forget` deletes the row
 * instead: those tokens live again.
 * @throws GateError ERR_NOT_FOUND
 */
export async function liftRevocation(
  client: pg.Client,
  schema: string,
  id: string,
  forget: boolean,
): Promise<Record<string, unknown>> {
  const table = `${plainName(schema, 'database.schema')}.revocations`
  const { rows } = await client.query(
    forget
      ? `DELETE FROM ${table} WHERE id = $1 RETURNING ${shown}`
      : `UPDATE ${table} SET issued_before = least(issued_before, now()) WHERE id = $1 RETURNING ${shown}`,
    [id],
  )
  const row = rows[0] as Record<string, unknown> | undefined
  if (row === undefined) {
    throw new GateError('ERR_NOT_FOUND', `there is no revocation ${id}`, {
      hint: 'see `dropgate list`',
    })
  }
  return row
}

export async function listRevocations(
  client: pg.Client,
  schema: string,
  limit: number,
): Promise<Record<string, unknown>[]> {
  const { rows } = await client.query(
    `SELECT ${shown} FROM ${plainName(schema, 'database.schema')}.revocations ORDER BY id DESC LIMIT $1`,
    [limit],
  )
  return rows
}
