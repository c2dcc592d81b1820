/**
 * What depends most on the version of PostgreSQL, on the oldest that is promised; all other tests run on the newest. That
 * all of the feed's and the store's tests pass on each: test/soak/versions.soak.ts.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { majors, nativeOf } from '../harness/versions.ts'

// Read by test/harness/postgres.ts when a cluster is started.
process.env.POSTGRES_NATIVE = nativeOf(15)

t.setTimeout(400_000)
// The tables and their statements, roles, an upgrade; then ticks, notifications, loads, anchors.
await import('./store.test.ts')
await import('./roles.test.ts')
await import('./upgrade.test.ts')
await import('../feed/feed.test.ts')

t.test('the documents promise the versions that are tested', async (t) => {
  const promised = new RegExp(`\\b${majors[0]} to ${majors.at(-1)}\\b`)
  for (const file of ['README.md', 'docs/runbook.md', 'src/embedded/binaries.ts'])
    t.match(readFileSync(file, 'utf8'), promised, file)
})

t.test('the server is PostgreSQL 15', async (t) => {
  const { startPostgres } = await import('../harness/postgres.ts')
  const cluster = await startPostgres()
  t.teardown(() => cluster.close())
  const { rows } = await (await cluster.client('url')).query('SHOW server_version')
  t.match(rows[0].server_version, /^15\./)
})
