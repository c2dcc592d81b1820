/** What happens to the server itself: restarts, standbys, promotions, poolers, a queue with a listener that does not read. */
import t from 'tap'
import { compare, follow, settled, storm } from '../harness/follower.ts'
import { TransactionPooler } from '../harness/pooler.ts'
import { PostgresProxy, startPostgres, startStandby } from '../harness/postgres.ts'
import { pause, seedOf, until } from '../harness/wait.ts'

const seed = seedOf()
t.comment(`SEED=${seed}`)
const cluster = await startPostgres()
t.teardown(() => cluster.close())

t.test('a pooler in transaction mode is refused, with what to do', async (t) => {
  const pooler = new TransactionPooler()
  const followed = await follow(await pooler.open(cluster.url), { attempt: true })
  t.match(followed.feed.status(), {
    state: 'connecting',
    code: 'ERR_DATABASE_REFUSED',
    message: /receives no notifications: its LISTEN is lost/,
    hint: /directly, or use a pooler in session mode/,
  })
  t.notOk(followed.ledger.loaded)
  await followed.feed.close()
  pooler.close()
})

t.test('while a stuck listener fills the queue revoking goes on and ticks deliver', async (t) => {
  const owner = await cluster.client('migrate_url')
  const { rows } = await owner.query("SELECT current_setting('server_version_num')::int AS n")
  // Before 17 the queue holds 8 GB and cannot be made smaller.
  if (rows[0].n < 170_000) return
  await owner.query('ALTER SYSTEM SET max_notify_queue_pages = 64')
  await cluster.stop()
  await cluster.start()
  const followed = await follow(cluster.url)
  const stuck = await cluster.client('cli_url')
  await stuck.query('LISTEN anything')
  await stuck.query('BEGIN')
  await stuck.query('SELECT 1')
  const noise = await cluster.client('cli_url')
  let refused = ''
  while (refused === '') {
    await noise
      .query("SELECT pg_notify('anything', repeat('x', 7900) || gen_random_uuid())")
      .catch((error) => {
        refused = error.code
      })
  }
  t.equal(refused, '54000', 'the queue is full')
  const revoker = await cluster.client('cli_url')
  const gate = await cluster.client('url')
  for (let i = 0; i < 50; i++) {
    await revoker.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [`q${i}`])
    t.same(await compare(followed, gate), [])
  }
  await settled(followed, gate)
  t.match(followed.problems, [/notification queue of the database server is filling up/])
  t.equal(followed.counted.get('dropgate_feed_payloads_total rows'), undefined)
  await stuck.query('ROLLBACK')
  await until('notifications again', async () => {
    await revoker.query("INSERT INTO dropgate.revocations (subject) VALUES ('again')")
    return followed.counted.has('dropgate_feed_payloads_total rows')
  })
  await settled(followed, gate)
  t.same(await compare(followed, gate), [])
  t.equal(followed.feed.status().loads, 1)
  await followed.feed.close()
})

t.test('a load during which the server restarts is completed', async (t) => {
  const owner = await cluster.client('migrate_url')
  const { rows: held } = await owner.query('SELECT count(*)::int AS n FROM dropgate.live')
  const rows = held[0].n as number
  await owner.query(
    "INSERT INTO dropgate.revocations (subject) SELECT 'r' || i FROM generate_series(1, 40000) i",
  )
  const proxy = new PostgresProxy()
  // The rows of the first load do not arrive.
  proxy.admits = (data) => {
    if (data.includes('COPY (')) proxy.holding = 'answers'
    return true
  }
  const starting = follow(await proxy.open(cluster.url), { attempt: true })
  await until('a load is under way', () => proxy.held > 0)
  proxy.admits = () => true
  await cluster.stop()
  await cluster.start()
  proxy.release()
  proxy.lead(cluster.url)
  const followed = await starting
  await until('loaded', () => followed.ledger.loaded, 30_000)
  t.equal(followed.ledger.rows, rows + 40_000)
  // What is left is small enough to be compared fifty times.
  const again = await cluster.client('migrate_url')
  await again.query("DELETE FROM dropgate.revocations WHERE subject LIKE 'r%'")
  const { wrong, comparisons } = await storm(followed, cluster, { seed, rows: 300, writers: 4 })
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.equal(followed.feed.status().loads, 1, 'half a load is none')
  await followed.feed.close()
  proxy.close()
})

t.test('a standby is refused; its promotion with a lost tail loads everything anew', async (t) => {
  const standby = await startStandby(cluster)
  const refused = await follow(standby.url('url'), { attempt: true })
  t.match(refused.feed.status(), {
    code: 'ERR_DATABASE_SCHEMA',
    message: /standby/,
    hint: /primary/,
  })
  await refused.feed.close()

  const proxy = new PostgresProxy()
  const followed = await follow(await proxy.open(cluster.url))
  const revoker = await cluster.client('cli_url')
  // More than the promoted server will have written when the gate comes to it: its transactions go back in time.
  for (let i = 0; i < 40; i++) {
    await revoker.query("INSERT INTO dropgate.revocations (subject) VALUES ('the lost tail')")
  }
  const before = await cluster.client('url')
  await settled(followed, before)
  const rows = followed.ledger.rows
  await cluster.stop()
  await standby.promote()
  proxy.lead(standby.url('url'))
  await until('followed there', () => followed.feed.status().loads === 2, 30_000)
  const { default: pg } = await import('pg')
  const gate = new pg.Client(standby.url('url'))
  const writer = new pg.Client(standby.url('cli_url'))
  await Promise.all([gate.connect(), writer.connect()])
  await settled(followed, gate)
  t.equal(followed.ledger.rows, rows - 40)
  for (let i = 0; i < 50; i++) {
    await writer.query("INSERT INTO dropgate.revocations (subject) VALUES ('after')")
    t.same(await compare(followed, gate), [])
  }
  await settled(followed, gate)
  t.same(await compare(followed, gate), [])
  await Promise.all([gate.end(), writer.end()])
  await followed.feed.close()
  proxy.close()
  standby.close()
  await pause(200)
  await cluster.start()
})
