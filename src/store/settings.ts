/**
 * The settings that every session of a gate gets: what the database, a role or the server's configuration sets must not
 * change what is read, written or waited for. Rights are not among them: `role` decides those alone. No I/O.
 */

/** How values are written as text, and read from it; and which messages come with an answer. */
export const formats = {
  bytea_output: 'hex',
  client_encoding: 'UTF8',
  client_min_messages: 'notice',
  datestyle: 'ISO, MDY',
  extra_float_digits: '1',
  intervalstyle: 'postgres',
  standard_conforming_strings: 'on',
  // Times without a zone that a command gets are UTC.
  timezone: 'UTC',
} as const

/** The formats, and what else a session can only have that is its own. */
export const settings = {
  ...formats,
  // What statements mean.
  backslash_quote: 'safe_encoding',
  search_path: 'pg_catalog, pg_temp',
  transform_null_equals: 'off',
  // Sessions may read views, and transactions may write.
  default_transaction_deferrable: 'off',
  default_transaction_isolation: 'read committed',
  default_transaction_read_only: 'off',
  restrict_nonsystem_relation_kind: '',
  row_security: 'on',
  // No error ends the session.
  exit_on_error: 'off',
  // What ends a session. connect.ts sets what ends a statement.
  idle_in_transaction_session_timeout: '0',
  idle_session_timeout: '0',
  transaction_timeout: '0',
  // Compiling the short statements of a tick takes many times as long as running them.
  jit: 'off',
} as const
