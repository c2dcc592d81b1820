/**
 * Whatever goes wrong between a gate and its database: no row missing, none too many. Every test is named for its fault
 * and ends with the whole ledger against the whole table in one snapshot.
 */
import type pg from 'pg'
import t, { type Test } from 'tap'
import { compare, type Followed, follow, settled, storm } from '../harness/follower.ts'
import { PostgresProxy, startPostgres } from '../harness/postgres.ts'
import { pause, seedOf, until } from '../harness/wait.ts'

const seed = seedOf()
t.comment(`SEED=${seed}`)
const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')
const revoker = await cluster.client('cli_url')
const gate = await cluster.client('url')
const { rows: feeds } = await owner.query('SELECT channel FROM dropgate.feed')
const channel: string = feeds[0].channel

/** So that each test compares what it made itself. */
t.beforeEach(() => owner.query('TRUNCATE dropgate.revocations'))

async function insert(subject: string, client: pg.Client = revoker): Promise<number> {
  const { rows } = await client.query(
    'INSERT INTO dropgate.revocations (subject) VALUES ($1) RETURNING id',
    [subject],
  )
  return Number(rows[0].id)
}

const holds = ({ ledger }: Followed, id: number): boolean =>
  [...ledger.entries()].some((row) => row.id === id)

/** Processes of the server that serve the gate's feed. */
async function backends(): Promise<number[]> {
  const { rows } = await owner.query(
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'dropgate feed'",
  )
  return rows.map(({ pid }) => pid as number)
}

t.test('with every notification dropped the ticks bring every row', async (t) => {
  const proxy = new PostgresProxy()
  const followed = await follow(await proxy.open(cluster.url))
  proxy.dropNotifications = true
  const { comparisons, wrong } = await storm(followed, cluster, { seed, rows: 1500 })
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.ok(proxy.dropped > 50, `${proxy.dropped} notifications dropped`)
  t.equal(followed.feed.status().loads, 1)
  await followed.feed.close()
  proxy.close()
})

t.test('with ticks slowed to one in two seconds notifications alone keep up', async (t) => {
  const followed = await follow(cluster.url, { tickMs: 2000 })
  const { comparisons, wrong } = await storm(followed, cluster, { seed: seed + 1, rows: 1500 })
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.ok(followed.counted.get('dropgate_feed_payloads_total rows')! > 10)
  t.equal(followed.feed.status().loads, 1)
  await until('nothing is provisional', () => followed.feed.status().provisional_rows === 0)
  await followed.feed.close()
})

/** Fifty comparisons more, beside writers, and no load anew. */
async function holdsUnderWrites(t: Test, followed: Followed, from: number): Promise<void> {
  const { loads } = followed.feed.status()
  const { comparisons, wrong } = await storm(followed, cluster, {
    seed: from,
    rows: 100,
    writers: 4,
  })
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.equal(followed.feed.status().loads, loads)
}

t.test('fifteen sessions killed in a row lose no row', async (t) => {
  const followed = await follow(cluster.url)
  let killed = 0
  const { comparisons, wrong } = await storm(followed, cluster, {
    seed: seed + 2,
    rows: 1500,
    during: async () => {
      while (killed < 15) {
        await until('a session', async () => (await backends()).length > 0)
        for (const pid of await backends()) {
          await owner.query('SELECT pg_terminate_backend($1)', [pid])
          killed++
        }
        await pause(150)
      }
    },
  })
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.ok(followed.feed.status().reconnects >= 5, `${followed.feed.status().reconnects} reconnects`)
  t.equal(followed.feed.status().loads, 1, 'the cursor survives: nothing is loaded anew')
  await followed.feed.close()
})

t.test('a frozen backend that sends no FIN is noticed within a second', async (t) => {
  const followed = await follow(cluster.url, { tickMs: 500 })
  let pids: number[] = []
  await until('one backend', async () => {
    pids = await backends()
    return pids.length === 1
  })
  const pid = pids[0]!
  const { reconnects } = followed.feed.status()
  let noticedMs = Number.POSITIVE_INFINITY
  const { comparisons, wrong } = await storm(followed, cluster, {
    seed: seed + 5,
    rows: 300,
    writers: 4,
    during: async () => {
      process.kill(pid, 'SIGSTOP')
      const frozenAt = performance.now()
      try {
        const id = await insert('while frozen')
        await until('given up', () => followed.feed.status().reconnects > reconnects)
        noticedMs = performance.now() - frozenAt
        await until('the row', () => holds(followed, id))
      } finally {
        // Else the server would wait for it, and this for the server.
        process.kill(pid, 'SIGCONT')
      }
    },
  })
  // The bound is a second; a busy machine runs timers late.
  t.ok(noticedMs < 1500, `noticed after ${Math.round(noticedMs)} ms`)
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.equal(followed.feed.status().loads, 1)
  await followed.feed.close()
})

t.test('neither a long transaction elsewhere nor a late commit here hides a row', async (t) => {
  await owner.query('CREATE DATABASE elsewhere')
  const url = new URL(cluster.migrate_url)
  url.pathname = '/elsewhere'
  const { default: pg } = await import('pg')
  const elsewhere = new pg.Client(url.href)
  await elsewhere.connect()
  await elsewhere.query('BEGIN; CREATE TABLE held (a int)')
  const followed = await follow(cluster.url)
  const late = await cluster.client('cli_url')
  await late.query('BEGIN')
  const lateId = await insert('late', late)
  for (let i = 0; i < 50; i++) {
    const id = await insert(`prompt-${i}`)
    await until('a prompt row', () => holds(followed, id), 2000)
    t.same(await compare(followed, gate), [])
  }
  t.notOk(holds(followed, lateId))
  await late.query('COMMIT')
  await until('the late row', () => holds(followed, lateId), 2000)
  t.same(await compare(followed, gate), [])
  await elsewhere.query('ROLLBACK')
  await elsewhere.end()
  await followed.feed.close()
})

t.test('junk, forged and repeated notifications change nothing', async (t) => {
  const followed = await follow(cluster.url)
  const attacker = await cluster.client('cli_url')
  const heard: string[] = []
  attacker.on('notification', ({ payload }) => heard.push(payload ?? ''))
  await attacker.query(`LISTEN ${channel}`)
  const id = await insert('victim')
  await until('its notification', () => heard.some((message) => message.startsWith('p')))
  const genuine = heard.find((message) => message.startsWith('p'))!
  await until('confirmed', () => followed.feed.status().provisional_rows === 0)
  await revoker.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
  await until('lifted', () => !holds(followed, id))
  const forged = Buffer.from(genuine.slice(1), 'base64')
  // Another subject and a transaction that is still to come, under the MAC of this one.
  forged.fill(0x7f, 36, 44)
  const { rows } = await gate.query('SELECT count(*)::int AS n FROM dropgate.live')
  const junk = ['', 'p', 'w', 'r', 'n', 'p====', `p${'A'.repeat(7900)}`, '\u{1f4a9}'.repeat(1900)]
  const loads = followed.feed.status().loads
  let most = 0
  const watching = setInterval(() => {
    most = Math.max(most, followed.ledger.rows)
  }, 1)
  for (let i = 0; i < 50; i++) {
    for (const message of [genuine, `p${forged.toString('base64')}`, junk[i % junk.length]!]) {
      await attacker.query('SELECT pg_notify($1, $2)', [channel, message])
    }
    t.same(await compare(followed, gate), [])
  }
  clearInterval(watching)
  t.ok(followed.counted.get('dropgate_feed_payloads_total refused')! >= 50)
  t.equal(most, rows[0].n, 'nobody was denied for a moment')
  t.equal(followed.feed.status().loads, loads)
  await followed.feed.close()
})

t.test('a payload may overtake its tick, or be overtaken, and nothing is wrong', async (t) => {
  const proxy = new PostgresProxy()
  const followed = await follow(await proxy.open(cluster.url), { tickMs: 50 })
  for (let i = 0; i < 25; i++) {
    // The answer of a tick that began before the row is held back while the payload passes.
    proxy.holding = 'answers'
    await until('a tick is under way', () => proxy.held > 0)
    const early = await insert(`early-${i}`)
    await until('denied by the payload', () => holds(followed, early))
    proxy.release()
    const { ticks } = followed.feed.status()
    await until('a tick sent before it has ended', () => followed.feed.status().ticks > ticks)
    t.ok(holds(followed, early), 'an older tick does not drop it')
    t.same(await compare(followed, gate), [])
    // The payload is held back while ticks bring the row and its deletion.
    proxy.holding = 'notifications'
    const gone = await insert(`gone-${i}`)
    await until('by a tick', () => holds(followed, gone))
    await revoker.query('DELETE FROM dropgate.revocations WHERE id = $1', [gone])
    await until('lifted by a tick', () => !holds(followed, gone))
    proxy.release()
    await until('the payload was heard', () => followed.feed.status().ticks > ticks + 3)
    t.notOk(holds(followed, gone), 'a payload that is older than the cursor denies nobody')
    t.same(await compare(followed, gate), [])
  }
  t.equal(followed.feed.status().loads, 1)
  await followed.feed.close()
  proxy.close()
})

t.test('a row and its deletion before any tick is not left behind', async (t) => {
  const followed = await follow(cluster.url, { tickMs: 200 })
  for (let i = 0; i < 30; i++) {
    const id = await insert(`brief-${i}`)
    await revoker.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
    t.same(await compare(followed, gate), [])
  }
  await settled(followed, gate)
  await until('nothing is provisional', () => followed.feed.status().provisional_rows === 0)
  t.same(await compare(followed, gate), [])
  await followed.feed.close()
})

t.test('more rows than a tick may carry arrive by one statement beside others', async (t) => {
  const followed = await follow(cluster.url)
  const before = followed.ledger.rows
  const { wrong, comparisons } = await storm(followed, cluster, {
    seed: seed + 3,
    rows: 1000,
    during: async () => {
      const bulk = await cluster.client('migrate_url')
      await bulk.query(
        "INSERT INTO dropgate.revocations (subject) SELECT 'bulk-' || i FROM generate_series(1, 25000) i",
      )
      await bulk.query("DELETE FROM dropgate.revocations WHERE subject LIKE 'bulk-%1'")
      await bulk.query(
        "UPDATE dropgate.revocations SET issued_before = now() WHERE subject LIKE 'bulk-%2'",
      )
      // Filed as before under their subject, with another key beside it.
      await bulk.query(
        "UPDATE dropgate.revocations SET client_id = 'c' WHERE subject LIKE 'bulk-%'",
      )
    },
  })
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.ok(followed.ledger.rows > before + 20_000)
  t.ok(followed.feed.status().bulks >= 1, `${followed.feed.status().bulks} bulk catch-ups`)
  t.equal(followed.feed.status().loads, 1)
  await followed.feed.close()
})

t.test('a TRUNCATE during a load leaves no row behind', async (t) => {
  const writer = await cluster.client('migrate_url')
  for (let i = 0; i < 3; i++) {
    await writer.query(
      "INSERT INTO dropgate.revocations (subject) SELECT 't' || i FROM generate_series(1, 20000) i",
    )
    const starting = follow(cluster.url)
    await pause(i * 20)
    await writer.query('TRUNCATE dropgate.revocations')
    await insert(`after-${i}`)
    const followed = await starting
    await settled(followed, gate)
    t.same(await compare(followed, gate), [])
    t.equal(followed.ledger.rows, 1)
    await holdsUnderWrites(t, followed, seed + 6 + i)
    await followed.feed.close()
  }
})

t.test(
  'rows that appear or vanish behind the back of the triggers are found by comparison',
  async (t) => {
    const followed = await follow(cluster.url, { verifyMs: 100 })
    for (let i = 0; i < 20; i++) await insert(`verified-${i}`)
    await revoker.query(
      `INSERT INTO dropgate.revocations (subject, client_id, issued_before, expires_at, event_time)
       SELECT 'v' || i, CASE WHEN i % 2 = 0 THEN 'c' END, CASE WHEN i % 3 = 0 THEN now() END,
         CASE WHEN i % 5 = 0 THEN now() + interval '1 day' END, CASE WHEN i % 7 = 0 THEN now() END
       FROM generate_series(1, 300) i`,
    )
    await until('compared', () => followed.feed.status().comparisons >= 2)
    t.equal(followed.feed.status().differences, 0)
    await owner.query('BEGIN')
    await owner.query("DELETE FROM dropgate.revocations WHERE subject = 'verified-7'")
    await owner.query('DELETE FROM dropgate.tomb WHERE chg_xid = pg_current_xact_id()')
    await owner.query('COMMIT')
    await until('found', () => followed.feed.status().differences === 1)
    await until('loaded anew', () => followed.feed.status().loads === 2)
    t.same(await compare(followed, gate), [])
    const { comparisons } = followed.feed.status()
    await until('and equal again', () => followed.feed.status().comparisons > comparisons)
    t.equal(followed.feed.status().differences, 1)
    await holdsUnderWrites(t, followed, seed + 9)
    await followed.feed.close()
  },
)

t.test('a restore from a dump, whose stamps are of another time, is loaded anew', async (t) => {
  for (let i = 0; i < 20; i++) await insert(`dumped-${i}`)
  // As pg_restore leaves them: rows first, triggers later.
  await owner.query('ALTER TABLE dropgate.revocations DISABLE TRIGGER a_stamp')
  await owner.query("UPDATE dropgate.revocations SET chg_xid = '900000000000'")
  await owner.query('ALTER TABLE dropgate.revocations ENABLE ALWAYS TRIGGER a_stamp')
  const followed = await follow(cluster.url)
  t.same(
    await compare(followed, gate),
    [],
    'until the runbook is followed each tick reads them all',
  )
  await owner.query('SELECT dropgate.reset_feed()')
  await until('loaded anew', () => followed.feed.status().loads === 2)
  t.same(await compare(followed, gate), [])
  const { rows } = await gate.query('SELECT * FROM dropgate.changes($1, 10)', [
    followed.feed.status().cursor,
  ])
  t.equal(rows.length, 1, 'nothing is new')
  await holdsUnderWrites(t, followed, seed + 10)
  await followed.feed.close()
})

t.test('a wall clock that is minutes off neither hides a row nor ages what is fresh', async (t) => {
  const followed = await follow(cluster.url)
  const { now } = Date
  t.teardown(() => {
    Date.now = now
  })
  for (const offMs of [10 * 60_000, -10 * 60_000]) {
    Date.now = () => now() + offMs
    const id = await insert(`clock ${offMs}`)
    await until('the row', () => holds(followed, id))
    await until('fresh', () => followed.ledger.ageMs(us(), Date.now()) < 1000)
    await until(
      'rows expire by the clock of the database',
      () => Math.abs(followed.ledger.serverNowMs(Date.now()) - now()) < 2000,
    )
    await holdsUnderWrites(t, followed, seed + 11)
  }
  t.equal(followed.feed.status().loads, 1)
  await followed.feed.close()
})

const us = (): number => Number(process.hrtime.bigint() / 1000n)

t.test('a migration while a gate follows loses no row', async (t) => {
  const followed = await follow(cluster.url)
  const { wrong } = await storm(followed, cluster, {
    seed: seed + 4,
    rows: 1000,
    during: async () => {
      const migrator = await cluster.client('migrate_url')
      const { rows } = await migrator.query(
        "SELECT pg_get_functiondef('dropgate.changes(pg_snapshot, int)'::regprocedure) AS text",
      )
      for (let i = 0; i < 5; i++) {
        await migrator.query('BEGIN')
        await migrator.query("SET LOCAL lock_timeout = '2s'")
        await migrator.query(`ALTER TABLE dropgate.revocations ADD COLUMN later_${i} text`)
        await migrator.query('DROP FUNCTION dropgate.changes(pg_snapshot, int)')
        await migrator.query(rows[0].text)
        await migrator.query(
          'GRANT EXECUTE ON FUNCTION dropgate.changes(pg_snapshot, int) TO dropgate_gate',
        )
        await migrator.query('COMMIT')
        await pause(100)
      }
    },
  })
  t.same(wrong.slice(0, 5), [])
  t.equal(followed.feed.status().loads, 1)
  await followed.feed.close()
})
