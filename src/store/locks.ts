/** Who holds up a session that waits for a lock: read from `pg_locks`, which every login may read. */
import { GateError } from '../errors.ts'

/** Runs a statement on a session that is not in the middle of another one. */
type Ask = (text: string) => Promise<{ rows: Record<string, unknown>[] }>

/** Modes that hold up a gate or command: these only read (ACCESS SHARE) and change rows (ROW EXCLUSIVE). */
const modes = "'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'"

/**
 * A session that still waits for such a lock holds up those behind it, so it is listed too, with the session that it waits
 * for. Of sessions of other logins PostgreSQL shows `state` and `query_start` only to members of pg_read_all_stats.
 */
const holders = `
  SELECT DISTINCT ON (l.pid) l.pid, l.mode, l.granted, n.nspname || '.' || c.relname AS relation,
    a.usename, a.application_name, a.state, to_char(a.query_start, 'YYYY-MM-DD HH24:MI:SS TZ') AS query_start,
    CASE WHEN NOT l.granted THEN array_to_string(pg_blocking_pids(l.pid), ', ') END AS behind
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'relation' AND l.mode IN (${modes}) AND c.relkind IN ('r', 'v')
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND c.relnamespace IN (SELECT relnamespace FROM pg_class WHERE relname = 'revocations')
  ORDER BY l.pid, l.granted DESC, c.relname LIMIT 5`

export const lockNotAvailable = '55P03'

/** @returns the error that names who holds the lock, or undefined when no session does that this login can see */
export async function whoLocks(ask: Ask, cause: unknown): Promise<GateError | undefined> {
  const { rows } = await ask(holders)
  if (rows.length === 0) return undefined
  const [first] = rows
  return new GateError(
    'ERR_DATABASE_REFUSED',
    `a statement waited too long for a lock: ${rows.map(sentenceOf).join('; ')}`,
    {
      cause,
      hint:
        first!.pid === null
          ? 'a prepared transaction holds it: see pg_prepared_xacts, and end it with ROLLBACK PREPARED'
          : `see what it does: SELECT * FROM pg_stat_activity WHERE pid = ${first!.pid}; end it, as its login or a superuser: SELECT pg_terminate_backend(${first!.pid})`,
    },
  )
}

function sentenceOf(row: Record<string, unknown>): string {
  const { pid, mode, granted, relation, usename, application_name: application, behind } = row
  if (pid === null) return `a prepared transaction holds ${mode} on ${relation}`
  const facts = [
    usename === null ? undefined : `login ${usename}`,
    application === null || application === '' ? undefined : `application "${application}"`,
    row.state === null ? undefined : `state ${row.state}`,
    row.query_start === null ? undefined : `query since ${row.query_start}`,
  ].filter((fact) => fact !== undefined)
  const does = granted === true ? 'holds' : `waits behind process ${behind} for`
  return `process ${pid} (${facts.join(', ')}) ${does} ${mode} on ${relation}`
}
