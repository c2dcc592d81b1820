/**
 * Questions of the commands `list`, `show` and `who`. What stands in words (targets, what was done to a row) comes from
 * the views `active` and `history` of store/sql, so that a reader of SQL and a reader of the commands see the same.
 */
import type pg from 'pg'
import { plainName } from './connect.ts'
import { type NewRevocation, predicates, shown } from './statements.ts'

/** A row as commands show it. Times are of the database. */
export interface ListedRow {
  readonly id: string
  readonly issued_before: Date | null
  readonly expires_at: Date | null
  readonly reason: string | null
  readonly source: string | null
  readonly created_by: string
  readonly created_at: Date
  readonly [column: string]: unknown
  /** `expired`: its end has passed, and it denies nothing. */
  readonly state: 'block' | 'cutoff' | 'expired'
  /** Whom it hits, in words. */
  readonly target: string
  /** True if no gate can match it. */
  readonly unmatched: boolean
}

export interface ListFilter {
  /** Values of columns: a row is listed if it has all of them. */
  readonly target?: NewRevocation
  /** Rows whose end has passed, too. */
  readonly expired?: boolean
  /** Only rows that no gate can match. */
  readonly unmatched?: boolean
  readonly by?: string | undefined
  /** A length of time before now, or a time, as PostgreSQL reads them. */
  readonly since?: { readonly ago: string } | { readonly time: string } | undefined
  readonly limit: number
}

/** Lists revocations, the newest first. */
export async function listRevocations(
  client: pg.Client,
  schema: string,
  filter: ListFilter,
): Promise<ListedRow[]> {
  const name = plainName(schema, 'database.schema')
  const { target = {}, by, since } = filter
  const values: unknown[] = []
  const value = (given: unknown): string => `$${values.push(given)}`
  const conditions = [
    `id NOT IN (SELECT row_id FROM ${name}.canaries)`,
    ...predicates
      .filter((column) => target[column] !== undefined)
      .map((column) => `${column} ${comparison(column)} ${value(target[column])}`),
    ...(filter.expired ? [] : ['(expires_at IS NULL OR expires_at > clock_timestamp())']),
    ...(filter.unmatched ? [`id IN (SELECT a.id FROM ${name}.active a WHERE a.unmatched)`] : []),
    ...(by === undefined ? [] : [`created_by = ${value(by)}`]),
    ...(since === undefined
      ? []
      : 'ago' in since
        ? [`created_at >= now() - ${value(since.ago)}::interval`]
        : [`created_at >= ${value(since.time)}::timestamptz`]),
  ]
  const { rows } = await client.query(
    `SELECT ${shown} FROM ${name}.revocations WHERE ${conditions.join(' AND ')}
     ORDER BY id DESC LIMIT ${value(filter.limit)}`,
    values,
  )
  return await withWords(client, name, rows)
}

/** A network lists the rows that cover it; a claim those that name it, among others. */
function comparison(column: string): string {
  return column === 'network' ? '>>=' : column === 'claims' ? '@>' : '='
}

async function withWords(
  client: pg.Client,
  name: string,
  rows: readonly Record<string, unknown>[],
): Promise<ListedRow[]> {
  const ids = rows.map(({ id }) => id)
  const { rows: active } = await client.query(
    `SELECT id, kind AS state, target, unmatched FROM ${name}.active WHERE id = ANY ($1)`,
    [ids],
  )
  const words = new Map(active.map(({ id, ...rest }) => [id, rest]))
  const expired = ids.filter((id) => !words.has(id))
  if (expired.length > 0) {
    const { rows: past } = await client.query(
      `SELECT DISTINCT ON (row_id) row_id, target FROM ${name}.history WHERE row_id = ANY ($1) ORDER BY row_id, at DESC`,
      [expired],
    )
    for (const { row_id, target } of past)
      words.set(row_id, { state: 'expired', target, unmatched: false })
  }
  return rows.map((row) => ({ ...row, ...words.get(row.id) })) as unknown as ListedRow[]
}

/** One thing that was done to a row. */
export interface HistoryEvent {
  readonly at: Date
  readonly by: string
  /** In words: `inserted a block`, `lifted`, `deleted`. */
  readonly action: string
  readonly row_id: string | null
  readonly target: string | null
  readonly kind: string | null
  readonly issued_before: Date | null
  readonly until: Date | null
  readonly reason: string | null
  readonly source: string | null
}

const eventColumns = 'at, by, action, row_id, target, kind, issued_before, until, reason, source'

export interface FoundRow {
  /** Undefined when it is not in the table any more. */
  readonly row: ListedRow | undefined
  /** What was done to it, oldest first. */
  readonly history: readonly HistoryEvent[]
  /** It is a canary, which revokes nothing. */
  readonly canary: boolean
}

export async function findRow(client: pg.Client, schema: string, id: string): Promise<FoundRow> {
  const name = plainName(schema, 'database.schema')
  const { rows: canaries } = await client.query(
    `SELECT row_id FROM ${name}.canaries WHERE row_id = $1`,
    [id],
  )
  if (canaries.length > 0) return { row: undefined, history: [], canary: true }
  const { rows } = await client.query(`SELECT ${shown} FROM ${name}.revocations WHERE id = $1`, [
    id,
  ])
  const { rows: history } = await client.query(
    `SELECT ${eventColumns} FROM ${name}.history WHERE row_id = $1 ORDER BY at`,
    [id],
  )
  const [row] = await withWords(client, name, rows)
  return { row, history, canary: false }
}

/**
 * Whom a row hits, in words; also of a row that is gone. Undefined where the database does not tell it, such as one that is
 * not migrated yet: what a command has done stands, and is reported without the words.
 */
export async function targetOf(
  client: pg.Client,
  schema: string,
  id: unknown,
): Promise<string | undefined> {
  const name = plainName(schema, 'database.schema')
  try {
    const { rows } = await client.query(
      `SELECT target FROM ${name}.history WHERE row_id = $1 ORDER BY at DESC LIMIT 1`,
      [id],
    )
    return rows[0]?.target
  } catch {
    return undefined
  }
}

/** A row in force that names a caller, a whole issuer or everyone. */
export interface ConcerningRow {
  readonly id: string
  readonly kind: 'block' | 'cutoff'
  readonly target: string
  readonly issued_before: Date | null
  readonly compare: string
  readonly since: Date
  readonly until: Date | null
  readonly reason: string | null
  readonly created_by: string
  readonly unmatched: boolean
  /** Column -> value. */
  readonly predicates: Readonly<Record<string, unknown>>
}

const activeColumns =
  'a.id, a.kind, a.target, a.issued_before, a.compare, a.since, a.until, a.reason, a.created_by, a.unmatched, a.predicates'

/** Columns of which a row that concerns everyone, or a whole issuer, has none. */
const narrowing = predicates.filter((column) => column !== 'issuer' && column !== 'everyone')

/** The row that stands for the cutoffs that were purged (store/sql): it hits only tokens that have expired. */
const ofPurge =
  "r.everyone AND r.issued_before IS NOT NULL AND coalesce(r.source, '') = 'dropgate purge'"

/** @param issuer Undefined for any. */
export async function rowsOnSubject(
  client: pg.Client,
  schema: string,
  subject: string,
  issuer: string | undefined,
): Promise<{
  readonly rows: readonly ConcerningRow[]
  /** Number of other rows in force, by the columns that they name. */
  readonly others: Readonly<Record<string, number>>
}> {
  const name = plainName(schema, 'database.schema')
  const ofIssuer = '($2::text IS NULL OR r.issuer IS NULL OR r.issuer = $2)'
  const { rows } = await client.query(
    `SELECT ${activeColumns} FROM ${name}.active a JOIN ${name}.revocations r USING (id)
     WHERE (r.subject = $1 OR num_nonnulls(${narrowing.map((column) => `r.${column}`)}) = 0) AND ${ofIssuer}
       AND NOT (${ofPurge})
     ORDER BY a.id DESC`,
    [subject, issuer ?? null],
  )
  const { rows: others } = await client.query(
    `SELECT array_to_string(array_remove(ARRAY[${narrowing.map((column) => `CASE WHEN r.${column} IS NOT NULL THEN '${column}' END`)}], NULL), ' and ') AS names,
       count(*)::int AS rows
     FROM ${name}.revocations r
     WHERE r.subject IS NULL AND num_nonnulls(${narrowing.map((column) => `r.${column}`)}) > 0
       AND (r.expires_at IS NULL OR r.expires_at > clock_timestamp())
       AND ($1::text IS NULL OR r.issuer IS NULL OR r.issuer = $1)
     GROUP BY 1 ORDER BY 1`,
    [issuer ?? null],
  )
  return { rows, others: Object.fromEntries(others.map(({ names, rows }) => [names, rows])) }
}

/** What was done to rows that name this subject, oldest first. */
export async function historyOfSubject(
  client: pg.Client,
  schema: string,
  subject: string,
  issuer: string | undefined,
): Promise<readonly HistoryEvent[]> {
  const { rows } = await client.query(
    `SELECT ${eventColumns} FROM ${plainName(schema, 'database.schema')}.history
     WHERE predicates->>'subject' = $1 AND ($2::text IS NULL OR coalesce(predicates->>'issuer', $2) = $2)
     ORDER BY at, row_id`,
    [subject, issuer ?? null],
  )
  return rows
}

/** A row with the columns by which a token is compared with it. */
export type ComparableRow = ConcerningRow & {
  readonly event_time: Date | null
  /** The cutoff in µs since 1970, rounded as the gates do. */
  readonly cutoff_us: string | null
  readonly expires_s: string | null
}

/** Columns whose value, where a row has one, stands as a text in each token that the row can match. */
const fromToken = ['issuer', 'subject', 'session_id', 'token_id', 'client_id', 'tenant', 'group_value', 'device_id', 'proof_key'] as const // biome-ignore format: a line

/**
 * The rows in force that may match a token with these texts, and the clock of the database. The caller compares them:
 * they are more than those that do.
 */
export async function rowsOnTexts(
  client: pg.Client,
  schema: string,
  texts: readonly string[],
): Promise<{ readonly rows: readonly ComparableRow[]; readonly now: Date }> {
  const name = plainName(schema, 'database.schema')
  const { rows } = await client.query(
    `SELECT ${activeColumns}, r.event_time, ceil(extract(epoch FROM r.issued_before) * 1000000)::bigint AS cutoff_us,
       ceil(extract(epoch FROM r.expires_at))::bigint AS expires_s
     FROM ${name}.active a JOIN ${name}.revocations r USING (id)
     WHERE ${fromToken.map((column) => `(r.${column} IS NULL OR r.${column} = ANY ($1))`).join(' AND ')}
     ORDER BY a.id DESC`,
    [texts],
  )
  const clock = await client.query('SELECT clock_timestamp() AS now')
  return { rows, now: clock.rows[0].now }
}
