/** The statements that commands run; values always travel as parameters. */
import type pg from 'pg'
import { GateError } from '../errors.ts'
import { plainName } from './connect.ts'

/** What a command may set of a revocation; the table's CHECKs say what is allowed. */
export interface NewRevocation {
  readonly issuer?: string
  readonly subject?: string
  readonly session_id?: string
  readonly token_id?: string
  readonly client_id?: string
  readonly everyone?: boolean
  /** Text that PostgreSQL reads as a time; absent for a block. */
  readonly issued_before?: string
  readonly expires_at?: string
  readonly reason?: string
  readonly source?: string
}

const shown =
  'id, issuer, subject, session_id, token_id, client_id, everyone, issued_before, expires_at, reason, source, created_by, created_at'
const settable = [
  'issuer',
  'subject',
  'session_id',
  'token_id',
  'client_id',
  'everyone',
  'issued_before',
  'expires_at',
  'reason',
  'source',
] as const

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
