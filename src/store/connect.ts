/**
 * Room: store. In: URLs and statements. Out: rows, or a GateError that tells an operator what to do. Never does:
 * decide, keep state beyond a connection. Only this room and `feed` talk to PostgreSQL.
 */
import type { Socket } from 'node:net'
import pg from 'pg'
import { GateError } from '../errors.ts'
import { pinSettings } from './settings.ts'

const connectTimeoutMs = 3000

/**
 * Pattern of schema and role names. They are the only values that are pasted into SQL text, so they must need no
 * quoting.
 */
const identifier = /^[a-z_][a-z0-9_]{0,50}$/

export interface ConnectOptions {
  readonly url: string
  /** Name of the connection, shown in `pg_stat_activity`. */
  readonly name: string
}

/**
 * Opens a connection; the caller closes it.
 * @throws GateError ERR_DATABASE_UNREACHABLE
 */
export async function connect({ url, name }: ConnectOptions): Promise<pg.Client> {
  let client: pg.Client
  try {
    client = new pg.Client({
      connectionString: url,
      application_name: name,
      connectionTimeoutMillis: connectTimeoutMs,
      keepAlive: true,
    })
  } catch (error) {
    throw new GateError('ERR_DATABASE_UNREACHABLE', 'the database URL is malformed', {
      cause: error,
      hint: 'a database URL looks like postgres://login:password@host:5432/database',
    })
  }
  // Without a listener, an error between two queries (the server went away) would end the process. The next query
  // reports it.
  let lost: Error | undefined
  client.on('error', (error) => {
    lost ??= error
  })
  try {
    await client.connect()
    await pinSettings(client, connectTimeoutMs)
  } catch (error) {
    destroyClient(client)
    throw unreachable(lost ?? error, url)
  }
  return client
}

/** The socket of a session, which pg's types omit. Only destroying it ends a session whose server does not answer. */
export function socketOf(client: pg.Client): Socket {
  return (client as unknown as { connection: { stream: Socket } }).connection.stream
}

/** Ends a session without waiting for its server. */
export function destroyClient(client: pg.Client): void {
  const socket = socketOf(client)
  client.end().catch(() => {})
  socket.destroy()
}

/** Runs `use` with a connection that is closed afterwards. */
export async function withClient<T>(
  options: ConnectOptions,
  use: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = await connect(options)
  try {
    return await use(client)
  } catch (error) {
    throw toDatabaseError(error)
  } finally {
    await client.end().catch(() => {})
  }
}

/** @throws GateError ERR_CONFIG_VALUE when the name is not a short lower-case identifier. */
export function plainName(name: string, what: string): string {
  if (identifier.test(name)) return name
  throw new GateError('ERR_CONFIG_VALUE', `${what}: ${JSON.stringify(name)} is not a valid name`, {
    hint: 'use lower-case letters, digits and underscores, at most 51 characters',
  })
}

interface PostgresError extends Error {
  readonly code?: string
  readonly hint?: string
  readonly constraint?: string
}

const setForIt =
  'that is set for the database, the role of the login or the server: `SELECT * FROM pg_db_role_setting` and pg_settings show it, and ALTER DATABASE or ALTER ROLE … RESET takes it back'
const libraryMissing = `install the library, or correct the setting ${setForIt}`
const tooShort = `raise the timeout ${setForIt}`
const times = "write a time like 2026-12-31, '2026-12-31 18:00+01' or tomorrow"
/** Hints for operators, by SQLSTATE. */
const adviceByCode: Readonly<Record<string, string>> = {
  '42501':
    'the database login lacks the role for this command; see the table of roles in the README',
  '3F000': 'run `dropgate migrate` first',
  '42P01': 'run `dropgate migrate` first',
  '42883': 'run `dropgate migrate` first',
  '42703': 'check the name; where it is right, run `dropgate migrate` first',
  '22007': times,
  '22008': times,
  '58P01': libraryMissing,
}
/** The same where no session can be opened. */
const connectAdviceByCode: Readonly<Record<string, string>> = {
  '28P01': 'check the login and password in the database URL',
  '28000': 'check the login and password in the database URL',
  '3D000': 'create the database first',
  '58P01': libraryMissing,
  '57014': tooShort,
  '57P05': tooShort,
  '25P03': tooShort,
  '25P04': tooShort,
}

/** Returns the message and hint for a violated CHECK constraint of the table `revocations`. */
function violated(constraint: string): { message: string; hint: string } | undefined {
  if (constraint === 'revocations_predicate') {
    const hint = 'set at least one target column: subject, session_id, token_id, …'
    return { message: 'the revocation has no target column set', hint }
  }
  if (constraint === 'revocations_times') {
    return {
      message: 'a time of the revocation is out of range',
      hint: 'use times from the year 2000 to 2200',
    }
  }
  const [, column] = /^revocations_(\w+)_check$/.exec(constraint) ?? []
  if (column === undefined) return undefined
  const hint =
    'names must have 1 to 1024 bytes, thumbprints must be SHA-256 in base64url; see docs/revocation.md'
  return { message: `the value of ${column} has a form that no gate can match`, hint }
}

/** Turns an error of PostgreSQL into a GateError; a network failure becomes ERR_DATABASE_UNREACHABLE. */
export function toDatabaseError(error: unknown): GateError {
  if (error instanceof GateError) return error
  const { code, message, hint, constraint = '' } = error as PostgresError
  if (
    code === undefined ||
    !/^[0-9A-Z]{5}$/.test(code) ||
    code.startsWith('08') ||
    code.startsWith('57P')
  ) {
    return new GateError('ERR_DATABASE_UNREACHABLE', `the database connection failed: ${message}`, {
      cause: error,
      hint: 'check that PostgreSQL runs and that the URL is right',
    })
  }
  const violation = violated(constraint)
  const advice = hint ?? violation?.hint ?? adviceByCode[code]
  return new GateError(
    'ERR_DATABASE_REFUSED',
    `PostgreSQL refused the statement: ${violation?.message ?? message} (${code})`,
    advice === undefined ? { cause: error } : { cause: error, hint: advice },
  )
}

function unreachable(error: unknown, url: string): GateError {
  const { code, message } = error as PostgresError
  const where = placeOf(url)
  const hint =
    connectAdviceByCode[code ?? ''] ?? 'check that PostgreSQL runs and that the URL is right'
  // Show the host instead of the URL, which may contain a password. The message of pg contains none.
  return new GateError(
    'ERR_DATABASE_UNREACHABLE',
    `cannot connect to ${where}: ${message || code}`,
    {
      cause: error,
      hint,
    },
  )
}

/** Returns host, port and database name of a URL, without its credentials. */
function placeOf(url: string): string {
  try {
    const { host, pathname } = new URL(url)
    return `${host}${pathname}`
  } catch {
    return 'the database'
  }
}
