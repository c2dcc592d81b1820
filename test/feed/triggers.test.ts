/**
 * Triggers that are off for a while: what was written meanwhile is found before freshness is claimed again, and what cannot
 * be found has a name in the status.
 */
import { existsSync } from 'node:fs'
import type pg from 'pg'
import t, { type Test } from 'tap'
import { monotonicUs } from '../../src/domain/clock.ts'
import { migrate } from '../../src/store/migrate.ts'
import { compare, type Followed, follow } from '../harness/follower.ts'
import { PostgresProxy, startPostgres } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
// For the subscriber at the end.
await (await cluster.client('migrate_url')).query("ALTER SYSTEM SET wal_level = 'logical'")
await cluster.stop()
await cluster.start()
const owner = await cluster.client('migrate_url')
const gate = await cluster.client('url')
const revoker = await cluster.client('cli_url')

const insert = (subject: string): Promise<unknown> =>
  revoker.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [subject])
const remove = (subject: string): Promise<unknown> =>
  owner.query('DELETE FROM dropgate.revocations WHERE subject = $1', [subject])
const disable = 'ALTER TABLE dropgate.revocations DISABLE TRIGGER ALL'
const enable = 'SELECT dropgate.enable_triggers()'

/** When the newest tick that proved freshness was sent, by this machine's clock. */
function provedAtMs({ ledger }: Followed): number {
  return monotonicUs() / 1000 - ledger.ageMs(monotonicUs(), Date.now())
}

async function ticks({ feed }: Followed, more: number): Promise<void> {
  const { ticks: before } = feed.status()
  await until(`${more} ticks`, () => feed.status().ticks >= before + more)
}

async function isEqualAndFresh(t: Test, followed: Followed): Promise<void> {
  const since = monotonicUs() / 1000
  await until('fresh again', () => provedAtMs(followed) > since)
  t.same(await compare(followed, gate), [])
}

t.test('while triggers are off nothing is proved, and then everything is read again', async (t) => {
  for (let i = 0; i < 20; i++) await insert(`off-${i}`)
  const followed = await follow(cluster.url, { tickMs: 20 })
  await owner.query(disable)
  await until(
    'it is noticed',
    () =>
      followed.ledger.ageMs(monotonicUs(), Date.now()) > 0 &&
      followed.feed.status().wrong_triggers.length > 0,
  )
  t.match(followed.feed.status(), {
    code: 'ERR_DATABASE_SCHEMA',
    message:
      'triggers on the table of revocations are off: a_prepare, a_stamp, c_announce_delete, c_announce_insert, c_announce_update, d_renew',
    hint: /reset_feed/,
  })
  const provedAt = provedAtMs(followed)
  await remove('off-3')
  await ticks(followed, 10)
  t.ok(Math.abs(provedAtMs(followed) - provedAt) < 2, 'no tick proves anything')
  t.equal(followed.feed.status().loads, 1, 'nor is anything read for nothing')
  await owner.query(enable)
  await until('loaded', () => followed.feed.status().loads === 2)
  await isEqualAndFresh(t, followed)
  t.same(followed.feed.status().wrong_triggers, [])
  t.equal(followed.feed.status().message, null)
  t.match(followed.problems, [/are off: a_prepare/, /may not have the keys/], 'each is said once')
  await followed.feed.close()
})

t.test('one trigger that is off is enough, and one that is gone', async (t) => {
  const followed = await follow(cluster.url, { tickMs: 20 })
  for (const [off, on, name] of [
    ['ALTER TABLE dropgate.revocations DISABLE TRIGGER a_stamp', enable, 'a_stamp'],
    [
      'ALTER TABLE dropgate.revocations ENABLE REPLICA TRIGGER c_announce_delete',
      enable,
      'c_announce_delete',
    ],
    [
      'DROP TRIGGER d_renew ON dropgate.revocations',
      `CREATE TRIGGER d_renew AFTER TRUNCATE ON dropgate.revocations
         FOR EACH STATEMENT EXECUTE FUNCTION dropgate.renew(); ${enable}`,
      'd_renew',
    ],
  ] as const) {
    const { loads } = followed.feed.status()
    await owner.query(off)
    await until(name, () => followed.feed.status().message?.endsWith(`are off: ${name}`) === true)
    await owner.query(on)
    await until('loaded', () => followed.feed.status().loads === loads + 1)
    await isEqualAndFresh(t, followed)
  }
  await followed.feed.close()
})

t.test('triggers that were off between two ticks are noticed', async (t) => {
  for (const [how, begin, end] of [
    ['in one transaction', 'BEGIN', 'COMMIT'],
    ['in three', 'SELECT 1', 'SELECT 1'],
  ] as const) {
    // No notification wakes the feed meanwhile, since that is what the triggers do.
    const followed = await follow(cluster.url, { tickMs: 1000 })
    const { feed } = followed
    for (let between = false, round = 1; !between; round++) {
      await insert(how)
      await ticks(followed, 1)
      const { ticks: before } = feed.status()
      await owner.query(begin)
      await owner.query(disable)
      await remove(how)
      await owner.query(enable)
      await owner.query(end)
      // On a busy machine a tick may have come between: that is another test.
      between = feed.status().ticks === before
      await until('loaded', () => feed.status().loads === round + 1)
      t.same(await compare(followed, gate), [])
    }
    await feed.close()
  }
})

t.test('triggers that were off while the gate was cut off or stopped are noticed', async (t) => {
  const proxy = new PostgresProxy()
  const url = await proxy.open(cluster.url)
  await insert('cut off')
  await insert('stopped')
  const snapshotFile = `${t.testdir()}/snapshot`
  const first = await follow(url, { tickMs: 20, snapshotFile })
  proxy.refusing = true
  proxy.cut()
  await owner.query(disable)
  await remove('cut off')
  await owner.query(enable)
  proxy.refusing = false
  await until('loaded', () => first.feed.status().loads === 2)
  t.same(await compare(first, gate), [])
  await insert('for the file')
  await until('a file', () => existsSync(snapshotFile))
  await first.feed.close()
  await owner.query(disable)
  await remove('stopped')
  await owner.query(enable)
  const second = await follow(url, { tickMs: 20, snapshotFile })
  t.equal(second.feed.status().loads, 1, 'the file is not used')
  t.same(await compare(second, gate), [])
  await second.feed.close()
  proxy.close()
})

t.test('a gate that starts while triggers are off is not loaded before they are on', async (t) => {
  await insert('at the start')
  await owner.query(disable)
  const followed = await follow(cluster.url, { tickMs: 20 })
  await ticks(followed, 3)
  t.equal(followed.ledger.loaded, false)
  t.match(followed.feed.status().message, /are off/)
  await remove('at the start')
  await owner.query(enable)
  await until('loaded', () => followed.ledger.loaded)
  await isEqualAndFresh(t, followed)
  await followed.feed.close()
})

t.test('triggers as pg_restore leaves them have a name until reset_feed()', async (t) => {
  const followed = await follow(cluster.url, { tickMs: 20 })
  await owner.query(disable)
  await owner.query('ALTER TABLE dropgate.revocations ENABLE TRIGGER ALL')
  await until('it is named', () =>
    /do not fire for replicated changes: a_prepare/.test(followed.feed.status().message ?? ''),
  )
  await isEqualAndFresh(t, followed)
  await insert('as usual')
  await remove('as usual')
  await ticks(followed, 3)
  t.same(await compare(followed, gate), [])
  await owner.query('SELECT dropgate.reset_feed()')
  await until('it is over', () => followed.feed.status().message === null)
  await isEqualAndFresh(t, followed)
  await followed.feed.close()
})

/** Another database, whose revocations this one subscribes to. */
async function publisher(): Promise<pg.Client> {
  await owner.query('CREATE DATABASE elsewhere')
  const url = new URL(cluster.migrate_url)
  url.pathname = '/elsewhere'
  await migrate(url.href, { schema: 'dropgate', rolePrefix: 'dropgate_' })
  const there = await cluster.client(url.href)
  await there.query('CREATE PUBLICATION p FOR TABLE dropgate.revocations')
  // Of the same server: it would wait for itself to end.
  await there.query("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
  await owner.query(
    `CREATE SUBSCRIPTION s CONNECTION '${url.href}' PUBLICATION p WITH (create_slot = false, slot_name = 's', copy_data = false)`,
  )
  return there
}

t.test('what a logical subscriber inserts, changes and deletes is followed', async (t) => {
  await owner.query('TRUNCATE dropgate.revocations')
  const there = await publisher()
  const followed = await follow(cluster.url, { tickMs: 20 })
  const { loads } = followed.feed.status()
  const arrives = async (what: string, count: number): Promise<void> => {
    await until(what, async () => {
      const { rows } = await owner.query(what)
      return rows[0].n === count
    })
    const done = followed.feed.status().ticks
    await until('the tick after it', () => followed.feed.status().ticks >= done + 2)
    t.same(await compare(followed, gate), [], what)
    t.equal(followed.ledger.rows, (await gate.query('SELECT FROM dropgate.live')).rowCount)
  }
  await there.query(
    "INSERT INTO dropgate.revocations (subject) SELECT 's' || i FROM generate_series(1, 20) i",
  )
  await arrives('SELECT count(*)::int AS n FROM dropgate.revocations', 20)
  await there.query("UPDATE dropgate.revocations SET subject = 'other' WHERE subject = 's7'")
  await arrives("SELECT count(*)::int AS n FROM dropgate.revocations WHERE subject = 'other'", 1)
  await there.query("DELETE FROM dropgate.revocations WHERE subject = 'other' OR subject = 's9'")
  await arrives('SELECT count(*)::int AS n FROM dropgate.revocations', 18)
  await there.query('TRUNCATE dropgate.revocations')
  await until('only TRUNCATE loads', () => followed.feed.status().loads === loads + 1)
  await arrives('SELECT count(*)::int AS n FROM dropgate.revocations', 0)
  t.equal(followed.feed.status().loads, loads + 1)
  await owner.query('ALTER SUBSCRIPTION s DISABLE')
  await owner.query('ALTER SUBSCRIPTION s SET (slot_name = NONE)')
  await owner.query('DROP SUBSCRIPTION s')
  await followed.feed.close()
})
