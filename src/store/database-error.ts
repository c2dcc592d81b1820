/** Turns what PostgreSQL, the driver or the network says into a GateError that tells an operator what to do. */
import { GateError } from '../errors.ts'

interface PostgresError extends Error {
  readonly code?: string
  readonly detail?: string
  readonly hint?: string
  /** Where in the statement, in characters from 1. */
  readonly position?: string
}

const times = "write a time like 2026-12-31, '2026-12-31 18:00+01' or tomorrow"
const migrateFirst = 'run `dropgate migrate` first'
const waitForServer =
  'the server starts, stops or recovers: wait; where it stays like this, read the log of the server'
const noRoom =
  'PostgreSQL runs and has no free connection: end sessions that are not needed (SELECT pid, usename, application_name, state FROM pg_stat_activity), or raise max_connections, or the CONNECTION LIMIT of the login or database'
const wrongLogin = 'check the login and password in the database URL'
/** Hints for operators, by SQLSTATE (PostgreSQL documentation, "Appendix A") or code of Node. */
const adviceByCode: Readonly<Record<string, string>> = {
  '08P01':
    'the server, or a pooler before it, does not accept how the session was opened: check its log',
  '25006': 'point the URL at the primary, e.g. with target_session_attrs=read-write',
  '25P03': 'idle_in_transaction_session_timeout ended the session: raise it for this login',
  '25P04': 'transaction_timeout ended the session: raise it for this login',
  '28000':
    'check that the login in the database URL exists, may log in, and that pg_hba.conf of the server admits it from this address',
  '28P01': wrongLogin,
  '3D000': 'create the database first, or correct its name in the URL',
  '3F000': migrateFirst,
  '42501':
    'the database login lacks the role for this command: a revoker inserts rows, a lifter may delete them and change issued_before, expires_at and reason, and for another target a new row is inserted; docs/revocation.md has the table of roles',
  '42601':
    'check how the statement is written there, and the names of the columns (the one for a user is subject); one statement is run at a time',
  '42703': 'check the name; where it is right, run `dropgate migrate` first',
  '42883': migrateFirst,
  '42P01': migrateFirst,
  '22007': times,
  '22008': times,
  '22P02':
    'write the value as its type wants it: network = \'10.0.0.0/8\', claims = \'{"/role": "admin"}\', everyone = true',
  '53000': 'the server lacks resources: read its log',
  '53100': 'the disk of the database server is full: free space there',
  '53200': 'the database server has no memory left: read its log',
  '53300': noRoom,
  '53400': 'a limit in the configuration of the database server is reached: read its log',
  '55P03':
    'a session holds a lock that this statement needs: SELECT * FROM pg_locks, and pg_stat_activity for its pid',
  '57014':
    'statement_timeout, or an operator with pg_cancel_backend, ended the statement: check ALTER ROLE … SET statement_timeout of this login and database',
  '57P01':
    'an administrator ended the session, or the server shuts down: where it stays like this, check that PostgreSQL runs',
  '57P02': waitForServer,
  '57P03': waitForServer,
  '57P04': 'the database was dropped: create it again, or correct its name in the URL',
  '57P05': 'idle_session_timeout ended the session: raise it for this login',
  '58P01':
    'install the library, or correct the setting that names it: SELECT * FROM pg_db_role_setting, and pg_settings, show where it is set',
  ENOTFOUND: 'check the host in the database URL: its name has no address',
  EAI_AGAIN: 'check the DNS of this machine: it did not find the address of the database host',
}
const unknownCause = 'check that PostgreSQL runs and that the URL is right'

/**
 * True where the session is gone, or was never made: classes 08 (connection), 28 (login), 3D (database), 53 (resources),
 * 57P (the server ends) and 25P (a timeout of the session), and whatever has no SQLSTATE, such as errors of the network.
 */
function endsSession(code: string | undefined): boolean {
  return (
    code === undefined || !/^[0-9A-Z]{5}$/.test(code) || /^(?:08|28|3D|53|57P|25P0[34])/.test(code)
  )
}

/** Turns an error of PostgreSQL into a GateError; a session that is gone becomes ERR_DATABASE_UNREACHABLE. */
export function toDatabaseError(error: unknown): GateError {
  if (error instanceof GateError) return error
  const { code, message, detail, hint, position } = error as PostgresError
  if (endsSession(code)) {
    return new GateError(
      'ERR_DATABASE_UNREACHABLE',
      `the database connection failed: ${sentenceOf(error)}`,
      { cause: error, hint: hint ?? adviceByCode[code ?? ''] ?? unknownCause },
    )
  }
  // Only of values that have no such type: of others it may show a whole row.
  const why = code!.startsWith('22') && detail !== undefined ? `: ${detail.replace(/\.$/, '')}` : ''
  const where = position === undefined ? '' : ` at character ${position}`
  const advice = hint ?? adviceByCode[code!]
  return new GateError(
    'ERR_DATABASE_REFUSED',
    `PostgreSQL refused the statement: ${message}${why}${where} (${code})`,
    advice === undefined ? { cause: error } : { cause: error, hint: advice },
  )
}

/** @param place Host, port and database, without credentials. */
export function unreachable(error: unknown, place: string): GateError {
  const { code, hint } = error as PostgresError
  // Show the place instead of the URL, which may contain a password. The message of pg contains none.
  return new GateError(
    'ERR_DATABASE_UNREACHABLE',
    `cannot connect to ${place}: ${sentenceOf(error)}`,
    { cause: error, hint: hint ?? adviceByCode[code ?? ''] ?? unknownCause },
  )
}

/** An error of several addresses of one host has no message of its own. */
function sentenceOf(error: unknown): string {
  const { message, code } = error as PostgresError
  return message || code || 'the connection was closed'
}
