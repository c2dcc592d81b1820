/**
 * Invariant: at every moment the ledger holds exactly what was visible in the feed's cursor. What happens when things
 * go wrong is in faults.test.ts.
 */
import t from 'tap'
import { compare, follow, settled, storm } from '../harness/follower.ts'
import { PostgresProxy, startPostgres } from '../harness/postgres.ts'
import { pause, seedOf, until } from '../harness/wait.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const seed = seedOf()
t.comment(`SEED=${seed}`)

t.test('commits out of order from 12 connections: no row missed, none too many', async (t) => {
  const followed = await follow(cluster.url)
  const { comparisons, wrong } = await storm(followed, cluster, { seed, rows: 3000 })
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.ok(followed.ledger.rows > 1000)
  t.equal(followed.feed.status().loads, 1)
  await followed.feed.close()
})

t.test('a row written while the connection is down is there after reconnecting', async (t) => {
  const proxy = new PostgresProxy()
  const followed = await follow(await proxy.open(cluster.url))
  const revoker = await cluster.client('cli_url')
  proxy.refusing = true
  proxy.cut()
  await until('lost', () => followed.feed.status().state === 'connecting')
  const { rows } = await revoker.query(
    "INSERT INTO dropgate.revocations (subject) VALUES ('down') RETURNING id",
  )
  await pause(200)
  const holds = (): boolean =>
    [...followed.ledger.entries()].some(({ id }) => id === Number(rows[0].id))
  t.notOk(holds())
  proxy.refusing = false
  await until('the row', holds)
  t.pass()
  await followed.feed.close()
  proxy.close()
})

t.test('a connection that falls silent is given up and freshness ages meanwhile', async (t) => {
  const proxy = new PostgresProxy()
  const followed = await follow(await proxy.open(cluster.url))
  const { reconnects } = followed.feed.status()
  proxy.silent = true
  await until('given up', () => followed.feed.status().reconnects > reconnects)
  const age = followed.ledger.ageMs(Number(process.hrtime.bigint() / 1000n), Date.now())
  t.ok(age > 500, `age ${age} ms`)
  proxy.silent = false
  proxy.cut()
  await until('follows again', () => followed.feed.status().state === 'following')
  await followed.feed.close()
  proxy.close()
})

t.test('truncating makes every gate load anew', async (t) => {
  const followed = await follow(cluster.url)
  t.ok(followed.ledger.rows > 0)
  const owner = await cluster.client('migrate_url')
  await owner.query('TRUNCATE dropgate.revocations')
  await until('loaded anew', () => followed.feed.status().loads === 2 && followed.ledger.rows === 0)
  await owner.query("INSERT INTO dropgate.revocations (subject) VALUES ('after')")
  await until('follows', () => followed.ledger.rows === 1)
  t.pass()
  await followed.feed.close()
})

t.test('a ledger that fills up grows while it serves', async (t) => {
  const followed = await follow(cluster.url)
  const owner = await cluster.client('migrate_url')
  await owner.query(
    "INSERT INTO dropgate.revocations (subject) SELECT 'f' || i FROM generate_series(1, 9000) i",
  )
  await until('all of them', () => followed.ledger.rows === 9001)
  t.ok(followed.ledger.growths > 1, `${followed.ledger.growths} tables`)
  t.equal(followed.feed.status().loads, 1)
  t.same(followed.problems, [])
  await followed.feed.close()
})

t.test('a row that nothing can match makes the ledger unusable until it is gone', async (t) => {
  const owner = await cluster.client('migrate_url')
  const followed = await follow(cluster.url)
  // Only a newer release could write such a row; here its trigger is switched off.
  await owner.query('ALTER TABLE dropgate.revocations DISABLE TRIGGER a_prepare')
  const { rows } = await owner.query(
    `INSERT INTO dropgate.revocations (subject, keys, key_version, chg_xid, chg_seq)
     VALUES ('x', '\\x6300000000000000000000000000000000', 1, pg_current_xact_id(), 1) RETURNING id`,
  )
  await until('broken', () => followed.ledger.broken)
  t.equal(followed.feed.status().unmatchable_rows, 1)
  const late = await follow(cluster.url)
  t.ok(late.ledger.broken, 'also for a gate that starts later')
  await owner.query('ALTER TABLE dropgate.revocations ENABLE ALWAYS TRIGGER a_prepare')
  await owner.query('DELETE FROM dropgate.revocations WHERE id = $1', [rows[0].id])
  await until('usable', () => !followed.ledger.broken && !late.ledger.broken)
  t.pass()
  await followed.feed.close()
  await late.feed.close()
})

t.test('ids that no number here can tell apart are not held as if they could', async (t) => {
  const owner = await cluster.client('migrate_url')
  const followed = await follow(cluster.url)
  const { rows } = followed.ledger
  for (const id of ['-1', '0', '9007199254740993', '9223372036854775807']) {
    await owner.query(
      `INSERT INTO dropgate.revocations (id, subject) OVERRIDING SYSTEM VALUE VALUES (${id}, 'x')`,
    )
    await until(`broken by ${id}`, () => followed.ledger.broken)
    t.match(followed.feed.status(), { code: 'ERR_LEDGER_UNMATCHABLE', message: /outside/ })
    const late = await follow(cluster.url)
    t.ok(late.ledger.broken, 'also for a gate that starts later')
    await owner.query(`DELETE FROM dropgate.revocations WHERE id = ${id}`)
    await until('usable', () => !followed.ledger.broken && !late.ledger.broken)
    t.same([followed.ledger.rows, late.ledger.rows], [rows, rows])
    await late.feed.close()
  }
  await followed.feed.close()
})

t.test('a database of another release or a wrong login is said, and tried again', async (t) => {
  const owner = await cluster.client('migrate_url')
  await owner.query('UPDATE dropgate.feed SET schema_version = 99')
  const followed = await follow(cluster.url, { attempt: true })
  t.match(followed.feed.status(), { state: 'connecting', code: 'ERR_DATABASE_SCHEMA' })
  await owner.query('UPDATE dropgate.feed SET schema_version = 1')
  await until('follows', () => followed.feed.status().state === 'following')
  await followed.feed.close()
  const wrong = new URL(cluster.url)
  wrong.password = 'wrong'
  const refused = await follow(wrong.href, { attempt: true })
  t.match(refused.feed.status(), { code: 'ERR_DATABASE_UNREACHABLE', hint: /password/ })
  await refused.feed.close()
})

for (const [path, beside] of [
  ['in a tick', 0],
  ['in more changes than a tick may carry', 10_001],
] as const) {
  t.test(
    `what is gone from another table of the feed takes no revocation away, ${path}`,
    async (t) => {
      const owner = await cluster.client('migrate_url')
      const gate = await cluster.client('url')
      await owner.query(
        "INSERT INTO dropgate.revocations (subject) SELECT 'kept-' || i FROM generate_series(1, 5) i",
      )
      const followed = await follow(cluster.url)
      const { bulks } = followed.feed.status()
      await owner.query('BEGIN')
      // As the trigger of a table that a newer release follows would write them: ids are each table's own.
      await owner.query(
        `INSERT INTO dropgate.tomb (row_id, keys, kind)
       SELECT id, keys, 'x' FROM dropgate.revocations WHERE subject LIKE 'kept-%'`,
      )
      await owner.query(
        `INSERT INTO dropgate.tomb (row_id, keys, kind)
       SELECT i, '\\x0300000000000000000000000000000000', 'x' FROM generate_series(1, $1::int) i`,
        [beside],
      )
      // Goes last, behind more tombstones than the cap where there are that many.
      await owner.query("DELETE FROM dropgate.revocations WHERE subject = 'kept-5'")
      await owner.query('COMMIT')
      await settled(followed, gate)
      t.same(await compare(followed, gate), [])
      t.equal(followed.feed.status().bulks - bulks, beside > 0 ? 1 : 0)
      t.same(followed.problems, [])
      await owner.query("DELETE FROM dropgate.revocations WHERE subject LIKE 'kept-%'")
      await followed.feed.close()
    },
  )
}
