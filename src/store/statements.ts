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

export interface InsertOptions {
  /** Also where no gate can match the row. */
  readonly force: boolean
  /** The gates are to confirm the row, see `receiptsOf`. */
  readonly wait: boolean
  /** Name of the pepper that the token's hash was made with. */
  readonly pepper: string | undefined
}

/** @returns the row as stored. @throws GateError ERR_UNMATCHED */
export async function insertRevocation(
  client: pg.Client,
  schema: string,
  revocation: NewRevocation,
  options: InsertOptions,
): Promise<Record<string, unknown>> {
  const name = plainName(schema, 'database.schema')
  const columns = settable.filter((column) => revocation[column] !== undefined)
  if (!options.force) await checkMatched(client, name, revocation, options.pepper)
  await client.query('BEGIN')
  try {
    const { rows } = await client.query(
      `INSERT INTO ${name}.revocations (${columns.join(', ')})
       VALUES (${columns.map((_, i) => `$${i + 1}`).join(', ')}) RETURNING ${shown}`,
      columns.map((column) => revocation[column]),
    )
    const [{ expires_at: expires, created_at: created }] = rows
    if (expires !== null && expires <= created) {
      throw new GateError('ERR_USAGE', `it would have ended already: ${expires.toISOString()}`, {
        hint: 'without an end a revocation lasts until it is lifted or no token can be hit by it',
      })
    }
    if (options.wait) await client.query(`SELECT ${name}.expect_receipts($1)`, [rows[0].id])
    await client.query('COMMIT')
    return rows[0]
  } catch (error) {
    await client.query('ROLLBACK')
    throw error
  }
}

async function checkMatched(
  client: pg.Client,
  name: string,
  { issuer, everyone: _everyone, ...revocation }: NewRevocation,
  pepper: string | undefined,
): Promise<void> {
  const demands = (Object.keys(demanding) as (keyof typeof demanding)[]).filter(
    (column) => revocation[column] !== undefined,
  )
  const { rows } = await client.query(
    `SELECT ${name}.can_match($1, $2) AS matched, $3::text IS NULL OR ${name}.knows_pepper($3) AS hashed`,
    [issuer ?? null, demands, pepper ?? null],
  )
  const { matched, hashed } = rows[0]
  if (matched && hashed) return
  throw new GateError(
    'ERR_UNMATCHED',
    hashed
      ? `no gate can match ${demands.map((column) => demanding[column].option).join(' and ') || 'anything'}${issuer === undefined ? '' : ` of issuer ${issuer}`}`
      : 'no gate has the pepper that this token was hashed with',
    {
      hint: hashed
        ? `set ${demands.map((column) => demanding[column].setting).join(' and ') || 'issuers'} on the gates, correct it, or insert it all the same with --force`
        : 'revocation.pepper_file must be the same here and on the gates; --force inserts it all the same',
    },
  )
}

/** Columns that a gate must be set up for, see `demands()` in store/sql: what `revoke` calls them, and where that is. */
const demanding = {
  token_hash: { option: '--token -', setting: 'revocation.pepper_file' },
  tenant: { option: '--tenant', setting: 'issuers[].claims.tenant' },
  group_value: { option: '--group', setting: 'issuers[].claims.groups' },
  client_cert: { option: '--client-cert', setting: 'listen[].tls.client_ca' },
  device_id: { option: '--device', setting: 'issuers[].claims.device' },
} as const

/** One gate that may be serving, and whether it has a row in force. */
export interface Receipt {
  readonly gate: string
  readonly host: string
  readonly pid: number
  /** From the insert to being in force there; null until it says so. */
  readonly ms: number | null
  /** Open exchanges that it ended because of the row. */
  readonly cuts: number | null
  /** Without a receipt: when it stops allowing at the latest, whatever has happened to it. */
  readonly may_allow_until: Date | null
}

export async function receiptsOf(
  client: pg.Client,
  schema: string,
  id: unknown,
): Promise<Receipt[]> {
  const { rows } = await client.query(
    `SELECT gate, host, pid, ms, cuts, may_allow_until
     FROM ${plainName(schema, 'database.schema')}.receipts_of($1)`,
    [id],
  )
  return rows
}

/** The gates that may be serving. */
export async function listFleet(
  client: pg.Client,
  schema: string,
): Promise<Record<string, unknown>[]> {
  const { rows } = await client.query(
    `SELECT id, host, pid, version, started_at, seen_at, heard, ready, rows,
       round(extract(epoch FROM seen_at - fresh_at) * 1000)::int AS age_ms
     FROM ${plainName(schema, 'database.schema')}.fleet ORDER BY host, pid, id`,
  )
  return rows
}

export interface Purged {
  revocations: number
  tombs: number
}

/** One batch of what is provably dead, see `purge()` in store/sql. */
export async function purgeBatch(
  client: pg.Client,
  schema: string,
  batch: number,
): Promise<Purged> {
  const { rows } = await client.query(
    `SELECT revocations, tombs FROM ${plainName(schema, 'database.schema')}.purge($1)`,
    [batch],
  )
  return { revocations: Number(rows[0].revocations), tombs: Number(rows[0].tombs) }
}

export interface Lifted {
  readonly row: Readonly<Record<string, unknown>>
  /** Otherwise there was nothing to end. */
  readonly wasBlock: boolean
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
): Promise<Lifted> {
  const table = `${plainName(schema, 'database.schema')}.revocations`
  const before = await client.query(`SELECT issued_before FROM ${table} WHERE id = $1`, [id])
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
  return { row, wasBlock: before.rows[0]?.issued_before === null }
}

/** The newest first; `unmatched` marks what no gate can match. */
export async function listRevocations(
  client: pg.Client,
  schema: string,
  limit: number,
): Promise<Record<string, unknown>[]> {
  const name = plainName(schema, 'database.schema')
  const { rows } = await client.query(
    `SELECT ${shown} FROM ${name}.revocations ORDER BY id DESC LIMIT $1`,
    [limit],
  )
  const { rows: unmatched } = await client.query(`SELECT * FROM ${name}.unmatched_of($1) AS id`, [
    rows.map(({ id }) => id),
  ])
  const ids = new Set(unmatched.map(({ id }) => id))
  return rows.map((row) => ({ ...row, unmatched: ids.has(row.id) }))
}
