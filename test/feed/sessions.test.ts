/** The feed when one of its sessions is lost in the network, waits for a lock, or is far from its server. */
import { randomUUID } from 'node:crypto'
import { chmodSync, chownSync, copyFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Fleet } from '../../src/fleet/fleet.ts'
import { compare, type Followed, follow, settled } from '../harness/follower.ts'
import { PostgresProxy, startPostgres } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')
const revoker = await cluster.client('cli_url')
const gate = await cluster.client('url')

async function proxied(t: Test): Promise<{ proxy: PostgresProxy; url: string }> {
  const proxy = new PostgresProxy()
  t.teardown(() => proxy.close())
  return { proxy, url: await proxy.open(cluster.url) }
}

/** The connection of such a session is lost once, when it sends this. */
function loseOnce(proxy: PostgresProxy, session: string, text: string): void {
  proxy.loses = (name, data) =>
    proxy.lost === 0 && name === `dropgate ${session}` && data.includes(text)
}

const says =
  ({ feed }: Followed, sentence: RegExp) =>
  (): boolean =>
    sentence.test(feed.status().message ?? '')

async function holdsEverything(t: Test, followed: Followed): Promise<void> {
  await revoker.query("INSERT INTO dropgate.revocations (subject) VALUES ('afterwards')")
  await settled(followed, gate)
  t.same(await compare(followed, gate), [])
}

t.test('a load whose connection is lost before its first answer is begun again', async (t) => {
  const { proxy, url } = await proxied(t)
  loseOnce(proxy, 'load', 'BEGIN')
  const followed = await follow(url, { attempt: true })
  t.match(followed.feed.status(), {
    code: 'ERR_DATABASE_UNREACHABLE',
    message: /"dropgate load" got no answer for 10000 ms to: BEGIN ISOLATION/,
    hint: /network/,
  })
  await until('it follows', () => followed.feed.status().state === 'following')
  await holdsEverything(t, followed)
  await followed.feed.close()
})

t.test('a self-test whose connection is lost is made again', async (t) => {
  const { proxy, url } = await proxied(t)
  loseOnce(proxy, 'self-test', 'pg_notify')
  const followed = await follow(url, { attempt: true })
  t.match(followed.feed.status(), {
    code: 'ERR_DATABASE_UNREACHABLE',
    message: /"dropgate self-test" got no answer for 3000 ms to: SELECT pg_notify/,
  })
  await until('it follows', () => followed.feed.status().state === 'following')
  await holdsEverything(t, followed)
  await followed.feed.close()
})

t.test(
  'a comparison whose connection is lost holds up neither ticks nor the next one',
  async (t) => {
    for (const text of ['BEGIN', 'changes']) {
      const { proxy, url } = await proxied(t)
      loseOnce(proxy, 'verify', text)
      const followed = await follow(url, { verifyMs: 50 })
      await until('it is lost', () => proxy.lost === 1)
      await until('the next one', () => followed.feed.status().comparisons > 2)
      t.equal(followed.feed.status().reconnects, 0)
      t.equal(followed.counted.get('dropgate_feed_comparisons_total failed'), 1)
      await followed.feed.close()
    }
  },
)

t.test('comparisons that do not happen are an alarm, until one happens', async (t) => {
  const { proxy, url } = await proxied(t)
  proxy.admits = (data) => !data.includes('dropgate verify')
  const followed = await follow(url, { verifyMs: 50 })
  t.match(followed.feed.status(), { comparisons_overdue: false, comparison_age_ms: Number })
  await until('overdue', () => followed.feed.status().comparisons_overdue)
  const alarm = /no longer compared .* several comparisons were due/
  t.equal(followed.problems.filter((problem) => alarm.test(problem)).length, 1)
  t.ok(followed.feed.status().comparison_age_ms! >= 10_000)
  proxy.admits = () => true
  await until('compared again', () => !followed.feed.status().comparisons_overdue)
  t.ok(followed.feed.status().comparison_age_ms! < 10_000)
  await followed.feed.close()
})

t.test('behind a lock the sessions of gates do not pile up, and its holder is named', async (t) => {
  const holder = await cluster.client('migrate_url')
  // Or every test below would wait for the lock as well.
  t.teardown(() => holder.query('ROLLBACK'))
  const followed = [await follow(cluster.url), await follow(cluster.url, { verifyMs: 50 })]
  const fleets = followed.map(() => report(cluster.url))
  const { rows } = await holder.query('SELECT pg_backend_pid() AS pid')
  await holder.query('BEGIN; LOCK TABLE dropgate.revocations IN ACCESS EXCLUSIVE MODE')
  let most = 0
  const before = followed.map(({ feed }) => feed.status().reconnects)
  const tenAttempts = async (): Promise<boolean> => {
    const { rows: sessions } = await owner.query(
      `SELECT FROM pg_stat_activity WHERE application_name LIKE 'dropgate %'`,
    )
    most = Math.max(most, sessions.length)
    return followed.every(({ feed }, i) => feed.status().reconnects >= before[i]! + 10)
  }
  await until('ten attempts of each', tenAttempts, 120_000)
  t.comment(`${most} backends of two gates`)
  // Two feeds with what writes their anchors, two fleets, one comparison, and a moment in which the server ends one while
  // the next is made.
  t.ok(most <= 9, `${most} backends of two gates`)
  for (const each of followed)
    await until(
      'the holder is named',
      says(each, new RegExp(`process ${rows[0].pid} .* holds AccessExclusiveLock`)),
    )
  await holder.query('COMMIT')
  for (const each of followed) {
    await until('it follows', () => each.feed.status().state === 'following')
    await holdsEverything(t, each)
    t.equal(each.feed.status().loads, 1)
  }
  for (const fleet of fleets) await fleet.close()
  for (const { feed } of followed) await feed.close()
})

t.test('a heartbeat whose connection is lost is sent again', async (t) => {
  const { proxy, url } = await proxied(t)
  loseOnce(proxy, 'fleet', 'beat(')
  const fleet = report(url)
  await until('it is given up', () => fleet.status().message !== null)
  t.match(fleet.status().message, /"dropgate fleet" got no answer for 3000 ms to: SELECT .*beat/)
  await until('it is sent', () => fleet.status().message === null)
  await fleet.close()
})

function report(url: string): Fleet {
  const fleet = new Fleet({
    connect: { url, schema: 'dropgate' },
    id: randomUUID(),
    describe: () => beat,
    holds: () => false,
    look: async () => {},
    wantedAnchor: () => undefined,
    ...{ purgeMs: 100, canaryMs: 0 },
    canaries: {
      loaded: () => true,
      lateMs: 5000,
      metrics: { count: () => {}, observe: () => {} },
    },
    log: { info: () => {}, warn: () => {}, error: () => {} },
  })
  fleet.open()
  return fleet
}

const beat = {
  host: 'here',
  pid: 1,
  version: '0',
  started_at: new Date(0).toISOString(),
  ready: true,
  cursor: null,
  age_ms: null,
  rows: 0,
  allows_ms: 1000,
  matches: {},
  peppers: [],
  token_lifetime_ms: 0,
  policies: {},
}

t.test('a round trip of 300 ms is followed, and compared', async (t) => {
  const { proxy, url } = await proxied(t)
  proxy.delayMs = 150
  const followed = await follow(url, { tickMs: 500, verifyMs: 1000, attempt: true })
  await until('it follows', () => followed.feed.status().state === 'following', 120_000)
  await holdsEverything(t, followed)
  await until('compared', () => followed.feed.status().comparisons >= 2, 120_000)
  t.same(followed.problems, [])
  await followed.feed.close()
})

t.test('a round trip of a second is followed, with TLS and SCRAM', async (t) => {
  const { rows } = await owner.query("SELECT current_setting('data_directory') AS data")
  const { uid, gid } = statSync(rows[0].data)
  for (const [from, to] of [
    ['server.pem', 'server.crt'],
    ['server.key', 'server.key'],
  ] as const) {
    const file = join(rows[0].data, to)
    copyFileSync(join('test/harness/certificates', from), file)
    chmodSync(file, 0o600)
    chownSync(file, uid, gid)
  }
  await owner.query('ALTER SYSTEM SET ssl = on')
  await owner.query('SELECT pg_reload_conf()')
  const { proxy, url } = await proxied(t)
  await until('TLS', async () => (await owner.query('SHOW ssl')).rows[0].ssl === 'on')
  proxy.delayMs = 500
  const followed = await follow(`${url}?sslmode=no-verify`, { tickMs: 500, attempt: true })
  await until('it follows', () => followed.feed.status().state === 'following', 120_000)
  const { rows: sessions } = await owner.query(
    `SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'dropgate feed'`,
  )
  t.same(sessions, [{ ssl: true }])
  await holdsEverything(t, followed)
  t.same(followed.problems, [])
  await followed.feed.close()
})

t.test(
  'a round trip that max_staleness cannot bear is refused with the figure that is needed',
  async (t) => {
    const { proxy, url } = await proxied(t)
    proxy.delayMs = 200
    const followed = await follow(url, { tickMs: 100, maxStalenessMs: 700, attempt: true })
    t.match(followed.feed.status(), {
      state: 'connecting',
      code: 'ERR_DATABASE_REFUSED',
      message:
        /^a round trip to the database takes \d{3,} ms: .* freshness would be up to \d+ ms old, and revocation\.max_staleness is 700ms$/,
      hint: /set revocation\.max_staleness to at least \ds/,
    })
    t.notOk(followed.ledger.loaded)
    await followed.feed.close()
  },
)
