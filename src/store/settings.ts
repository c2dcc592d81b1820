/**
 * The settings of every session, the gate's and the commands': what the database, a role or the server's configuration
 * sets must not change what is read, written or waited for. Rights are not among them: `role` decides those alone.
 */
import type pg from 'pg'

const settings = {
  // How values are written as text, and read from it.
  bytea_output: 'hex',
  client_encoding: 'UTF8',
  datestyle: 'ISO, MDY',
  extra_float_digits: '1',
  intervalstyle: 'postgres',
  // Times without a zone that a command gets are UTC.
  timezone: 'UTC',
  // What statements mean.
  backslash_quote: 'safe_encoding',
  search_path: 'pg_catalog, pg_temp',
  standard_conforming_strings: 'on',
  transform_null_equals: 'off',
  // Sessions may read views, and transactions may write.
  default_transaction_deferrable: 'off',
  default_transaction_isolation: 'read committed',
  default_transaction_read_only: 'off',
  restrict_nonsystem_relation_kind: '',
  row_security: 'on',
  // Warnings come to the commands, and no error ends the session.
  client_min_messages: 'notice',
  exit_on_error: 'off',
  // What ends a statement or a session. A gate has deadlines of its own.
  idle_in_transaction_session_timeout: '0',
  idle_session_timeout: '0',
  lock_timeout: '0',
  statement_timeout: '0',
  tcp_user_timeout: '0',
  transaction_timeout: '0',
  // Compiling the short statements of a tick takes many times as long as running them.
  jit: 'off',
} as const

/** A release of PostgreSQL that does not know a setting has nothing to pin. No literal means different things here. */
const pins = `SELECT ${Object.entries(settings)
  .map(
    ([name, value]) =>
      `CASE WHEN pg_catalog.current_setting('${name}', true) IS NOT NULL THEN pg_catalog.set_config('${name}', '${value}', false) END`,
  )
  .join(', ')}`

/** Pins the settings of a new session. Not as startup parameters: poolers refuse those that they do not know. */
export async function pinSettings(client: pg.Client, timeoutMs: number): Promise<void> {
  const query: pg.QueryConfig & { query_timeout: number } = { text: pins, query_timeout: timeoutMs }
  await client.query(query)
}
