/** Every setting that a database or a role may have, each with its extremes, from the server's own list. */
import type pg from 'pg'

export interface Setting {
  readonly name: string
  /** As SQL writes it after TO. */
  readonly value: string
}

interface Listed {
  readonly name: string
  readonly vartype: 'bool' | 'enum' | 'integer' | 'real' | 'string'
  readonly min_val: string
  readonly max_val: string
  readonly enumvals: string[] | null
  readonly reset_val: string
}

/** Values of settings that are texts: those that change most, and those that name nothing. */
const texts: Readonly<Record<string, readonly string[]>> = {
  DateStyle: ["'German, DMY'", "'SQL, YMD'", "'Postgres, DMY'"],
  TimeZone: ["'Asia/Kathmandu'", "'America/St_Johns'", "'XYZ+13:59:59'"],
  timezone_abbreviations: ["'Australia'", "'India'"],
  client_encoding: ["'SQL_ASCII'", "'LATIN1'", "'SJIS'"],
  search_path: ["''", 'hostile, pg_catalog', 'hostile, pg_temp, pg_catalog, dropgate'],
  application_name: [`'o''x \\ "'`],
  createrole_self_grant: ["'set, inherit'"],
  default_table_access_method: ["'heap'"],
  default_tablespace: ["'pg_default'"],
  default_text_search_config: ["'pg_catalog.simple'"],
  dynamic_library_path: ["'/nowhere'"],
  extension_control_path: ["'/nowhere'"],
  backtrace_functions: ["'errfinish'"],
  lc_messages: ["'POSIX'"],
  log_connections: ["'all'"],
  'plpgsql.extra_errors': ["'all'"],
  'plpgsql.extra_warnings': ["'all'"],
  restrict_nonsystem_relation_kind: ["'view'", "'view, foreign-table'"],
  session_preload_libraries: ["'nowhere'"],
  local_preload_libraries: ["'nowhere'"],
  temp_tablespaces: ["'pg_default'"],
  wal_consistency_checking: ["'all'"],
}

/** Not in pg_settings: they decide the rights of a session. */
const rights: readonly Setting[] = [{ name: 'role', value: 'pg_monitor' }]

/** What other software may set, under names that this project uses. */
const own: readonly Setting[] = [
  { name: 'dropgate.payloads', value: "'16'" },
  { name: 'dropgate.payloads', value: "'x'" },
  { name: 'dropgate.payloads', value: "'-1'" },
]

export async function everySetting(client: pg.Client): Promise<Setting[]> {
  // The settings of PL/pgSQL are there once its library is.
  await client.query('DO $$ BEGIN END $$')
  const { rows } = await client.query(
    `SELECT name, vartype, min_val, max_val, enumvals, reset_val FROM pg_settings
     WHERE context IN ('user', 'superuser', 'backend', 'superuser-backend') ORDER BY name`,
  )
  const listed = rows as Listed[]
  return [
    ...listed.flatMap((each) => valuesOf(each).map((value) => ({ name: each.name, value }))),
    ...rights,
    ...own,
  ]
}

function valuesOf(setting: Listed): readonly string[] {
  const { name, vartype, min_val, max_val, enumvals, reset_val } = setting
  if (vartype === 'string') return texts[name] ?? ["''", "'C'"]
  const all =
    vartype === 'bool'
      ? ['on', 'off']
      : vartype === 'enum'
        ? (enumvals ?? [])
        : // Zero or less often means "never"; the smallest that means something comes after it.
          [
            min_val,
            ...(vartype === 'integer' && Number(min_val) <= 0 && Number(max_val) > 0 ? ['1'] : []),
            max_val,
          ]
  return [...new Set(all)].filter((value) => value !== reset_val).map((value) => `'${value}'`)
}
