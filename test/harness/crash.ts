/** A PostgreSQL that loses what it has not flushed: transaction ids that were given before come again. */
import type pg from 'pg'
import type { Cluster } from './postgres.ts'
import { until } from './wait.ts'

/** From now on only a commit that waits for it flushes the log; what gates say of themselves does not. */
export async function flushLate(cluster: Cluster): Promise<void> {
  const owner = await cluster.client('migrate_url')
  await owner.query("ALTER SYSTEM SET wal_writer_delay = '10s'")
  await owner.query('ALTER ROLE gate SET synchronous_commit = off')
  await owner.query('SELECT pg_reload_conf()')
  await owner.end()
}

/** The id that the next transaction gets. */
export async function nextId(client: pg.Client): Promise<bigint> {
  const { rows } = await client.query('SELECT pg_snapshot_xmax(pg_current_snapshot()) AS id')
  return BigInt(rows[0].id)
}

/** Takes an id and leaves nothing in the log that would be flushed. */
export async function burn(client: pg.Client): Promise<void> {
  await client.query('BEGIN; SELECT pg_current_xact_id(); ROLLBACK')
}

/** Takes ids until the next one is this. */
export async function burnUpTo(client: pg.Client, id: bigint): Promise<void> {
  while ((await nextId(client)) < id) await burn(client)
}

/** One process of the server is killed: it ends all others and recovers from its log. */
export async function crash(cluster: Cluster): Promise<void> {
  const victim = await cluster.client('migrate_url')
  const witness = await cluster.client('migrate_url')
  let ended = false
  witness.once('end', () => {
    ended = true
  })
  const { rows } = await victim.query('SELECT pg_backend_pid() AS pid')
  process.kill(rows[0].pid, 'SIGKILL')
  // Before that a new session would still be let in, and ended with the others.
  await until('every session is ended', () => ended)
  await until('the server answers again', () =>
    cluster.client('migrate_url').then(
      () => true,
      () => false,
    ),
  )
}
