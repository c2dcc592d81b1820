/**
 * SQL statements of the commands. Values are always passed as parameters, never in the SQL text.
 */
import type pg from 'pg'
import { GateError } from '../errors.ts'
import { plainName } from './connect.ts'

/** Columns that name the target of a revocation. */
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
 * Columns of a revocation that a command may set; CHECK constraints of the table define the allowed values. Times are
 * texts that PostgreSQL parses. A row without `issued_before` is a block: it revokes tokens whenever they were
 * issued.
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

/**
 * Columns in the order and form in which they are shown: the hash as hex, `compare` only where it is not the default.
 */
export const shown = ['id', ...settable, 'created_by', 'created_at']
  .map((column) =>
    column === 'token_hash'
      ? "encode(token_hash, 'hex') AS token_hash"
      : column === 'compare'
        ? "nullif(compare, 'iat') AS compare"
        : column,
  )
  .join(', ')

export interface InsertOptions {
  /** Insert the row even if no gate can match it. */
  readonly force: boolean
  /** Ask the gates to confirm the row, see `receiptsOf`. */
  readonly wait: boolean
  /** Name of the pepper that was used to hash the token. */
  readonly pepper: string | undefined
}

/** @returns The row as stored. @throws GateError ERR_UNMATCHED */
export async function insertRevocation(
  client: pg.Client,
  schema: string,
  revocation: NewRevocation,
  options: InsertOptions,
): Promise<Record<string, unknown>> {
  const name = plainName(schema, 'database.schema')
  const columns = settable.filter((column) => revocation[column] !== undefined)
  refuseTokens(columns.map((column) => JSON.stringify(revocation[column])))
  if (!options.force) await checkMatched(client, name, revocation, options.pepper)
  await checkEnd(client, revocation.expires_at)
  await client.query('BEGIN')
  try {
    const { rows } = await client.query(
      `INSERT INTO ${name}.revocations (${columns.join(', ')})
       VALUES (${columns.map((_, i) => `$${i + 1}`).join(', ')}) RETURNING ${shown}`,
      columns.map((column) => revocation[column]),
    )
    if (options.wait) await expectReceipts(client, schema, rows[0].id)
    await client.query('COMMIT')
    return rows[0]
  } catch (error) {
    await client.query('ROLLBACK')
    throw error
  }
}

/** As has_token() in store/sql. */
const jwt = /eyJ[A-Za-z0-9_-]{8,}[.][A-Za-z0-9_-]*[.]/

/**
 * The database refuses rows with tokens too, but then the statement may stand in the log of its server.
 * @throws GateError ERR_USAGE, which does not repeat the token
 */
export function refuseTokens(texts: readonly string[]): void {
  if (!texts.some((text) => jwt.test(text))) return
  throw new GateError(
    'ERR_USAGE',
    'a value looks like a whole token, which must not be sent to the database or stored there',
    {
      hint: 'use `dropgate revoke --token -`, which reads the token from standard input and sends only its hash',
    },
  )
}

async function checkEnd(client: pg.Client, expires: string | undefined): Promise<void> {
  if (expires === undefined) return
  const { rows } = await client.query(
    'SELECT $1::timestamptz AS at, $1::timestamptz <= now() AS ended',
    [expires],
  )
  const { at, ended } = rows[0]
  if (!ended) return
  // Of -infinity the driver makes a number.
  const shown = at instanceof Date ? at.toISOString() : at
  throw new GateError('ERR_USAGE', `the revocation would already have expired at ${shown}`, {
    hint: 'omit --expires to keep the revocation until it is lifted, or until every token that it could match has expired',
  })
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
    `SELECT ${name}.can_match($1, $2) AS matched, $3::text IS NULL OR ${name}.knows_pepper($3) AS hashed,
       ${name}.nearest_issuer($1) AS nearest`,
    [issuer ?? null, demands, pepper ?? null],
  )
  const { matched, hashed, nearest } = rows[0]
  if (matched && hashed) return
  throw new GateError(
    'ERR_UNMATCHED',
    hashed
      ? `no gate can match ${demands.map((column) => demanding[column].option).join(' and ') || 'anything'}${issuer === undefined ? '' : ` of issuer ${issuer}`}`
      : 'no gate has the pepper that was used to hash this token',
    {
      hint: hashed
        ? `${nearest === null ? '' : `the nearest issuer that a gate knows is ${nearest}: `}set ${demands.map((column) => demanding[column].setting).join(' and ') || 'issuers'} in the configuration of the gates, correct the command, or insert the row anyway with --force`
        : 'revocation.pepper_file must be the same here and on the gates; --force inserts the row anyway',
    },
  )
}

/**
 * Columns that a gate can match only with a certain setting (see `demands()` in store/sql): the option of `revoke`
 * and the setting of the gate.
 */
const demanding = {
  token_hash: { option: '--token -', setting: 'revocation.pepper_file' },
  tenant: { option: '--tenant', setting: 'issuers[].claims.tenant' },
  group_value: { option: '--group', setting: 'issuers[].claims.groups' },
  client_cert: { option: '--client-cert', setting: 'listen[].tls.client_ca' },
  device_id: { option: '--device', setting: 'issuers[].claims.device' },
} as const

/** Asks the gates to confirm this row; see `receiptsOf`. */
export async function expectReceipts(
  client: pg.Client,
  schema: string,
  id: unknown,
): Promise<void> {
  await client.query(`SELECT ${plainName(schema, 'database.schema')}.expect_receipts($1)`, [id])
}

/** Confirmation by one gate that may be serving: whether it applies a row. */
export interface Receipt {
  readonly gate: string
  readonly host: string
  readonly pid: number
  /** Milliseconds from the insert until this gate applied the row; null until it confirms. */
  readonly ms: number | null
  /** Number of open exchanges that this gate ended because of the row. */
  readonly cuts: number | null
  /**
   * If the gate has not confirmed: the latest time until which it may still allow requests, even if it is cut off
   * from the database.
   */
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

/** False when the row was deleted: then no gate confirms it. */
export async function isStored(client: pg.Client, schema: string, id: unknown): Promise<boolean> {
  const { rows } = await client.query(
    `SELECT EXISTS (SELECT FROM ${plainName(schema, 'database.schema')}.revocations WHERE id = $1) AS stored`,
    [id],
  )
  return rows[0].stored
}

/** Lists the gates that may be serving, each with what the canaries of the last hour have measured at it. */
export async function listFleet(
  client: pg.Client,
  schema: string,
): Promise<Record<string, unknown>[]> {
  const name = plainName(schema, 'database.schema')
  const { rows } = await client.query(
    `SELECT id, host, pid, version, policies, started_at, seen_at,
       greatest(0, round(extract(epoch FROM clock_timestamp() - seen_at) * 1000))::int AS seen_ms, heard, ready, rows,
       round(extract(epoch FROM seen_at - fresh_at) * 1000)::int AS age_ms, to_jsonb(t) - 'gate' AS revocation_times
     FROM ${name}.fleet f LEFT JOIN ${name}.revocation_times t ON t.gate = f.id ORDER BY host, pid, id`,
  )
  return rows
}

export interface PurgeCounts {
  revocations: number
  tombs: number
}

/** Deletes one batch of rows that can no longer match any token; see `purge()` in store/sql. */
export async function purgeBatch(
  client: pg.Client,
  schema: string,
  batch: number,
): Promise<PurgeCounts> {
  const { rows } = await client.query(
    `SELECT revocations, tombs FROM ${plainName(schema, 'database.schema')}.purge($1)`,
    [batch],
  )
  return { revocations: Number(rows[0].revocations), tombs: Number(rows[0].tombs) }
}

export interface LiftResult {
  readonly row: Readonly<Record<string, unknown>>
  /** True if the row was a block, which was ended; otherwise there was nothing to end. */
  readonly wasBlock: boolean
}

/**
 * Turns a block into a cutoff at this moment, so that tokens issued before stay revoked. With `forget` the row is
 * deleted instead and those tokens are valid again.
 * @throws GateError ERR_NOT_FOUND
 */
export async function liftRevocation(
  client: pg.Client,
  schema: string,
  id: string,
  forget: boolean,
): Promise<LiftResult> {
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
    throw new GateError('ERR_NOT_FOUND', `there is no revocation with id ${id}`, {
      hint: '`dropgate list` shows the ids of all revocations',
    })
  }
  return { row, wasBlock: before.rows[0]?.issued_before === null }
}
