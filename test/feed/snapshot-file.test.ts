/** A restart from the local file: only from a file that is whole, ours, and of this database. */
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { isDue } from '../../src/feed/snapshot-file.ts'
import { compare, type Followed, follow, settled, storm } from '../harness/follower.ts'
import { PostgresProxy, startPostgres } from '../harness/postgres.ts'
import { seedOf, until } from '../harness/wait.ts'

const seed = seedOf()
t.comment(`SEED=${seed}`)
const cluster = await startPostgres()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-file-'))
t.teardown(async () => {
  await cluster.close()
  rmSync(folder, { recursive: true, force: true })
})
const snapshotFile = join(folder, 'deep', 'revocations.snapshot')
const owner = await cluster.client('migrate_url')
const gate = await cluster.client('url')
await owner.query(
  `INSERT INTO dropgate.revocations (subject, client_id, network, issued_before, expires_at)
   SELECT 's' || i, CASE WHEN i % 3 = 0 THEN 'c' || i END, CASE WHEN i % 100 = 0 THEN '10.0.0.0/8'::cidr END,
     CASE WHEN i % 2 = 0 THEN now() END, CASE WHEN i % 5 = 0 THEN now() + interval '1 day' END
   FROM generate_series(1, 1500) i`,
)

/** Follows until the file is written, while others write. */
async function leaveFile(): Promise<void> {
  rmSync(snapshotFile, { force: true })
  const followed = await follow(cluster.url, { snapshotFile })
  await storm(followed, cluster, { seed, rows: 60, writers: 4, atLeast: 3 })
  await until('the file', () => statSync(snapshotFile, { throwIfNoEntry: false }) !== undefined)
  await followed.feed.close()
}

async function check(followed: Followed): Promise<void> {
  await settled(followed, gate)
  t.same(await compare(followed, gate), [])
}

t.test('a restart reads the file and what has changed since', async (t) => {
  await leaveFile()
  t.equal(statSync(snapshotFile).mode & 0o777, 0o600)
  await owner.query("DELETE FROM dropgate.revocations WHERE subject LIKE 's1%'")
  await owner.query(
    "UPDATE dropgate.revocations SET issued_before = now() WHERE subject LIKE 's2%'",
  )
  await owner.query("INSERT INTO dropgate.revocations (subject) VALUES ('while nobody ran')")
  const followed = await follow(cluster.url, { snapshotFile, verifyMs: 50 })
  await check(followed)
  t.equal(followed.feed.status().loads, 0, 'nothing was loaded from the table')
  t.ok(followed.ledger.peer > 0, 'rows on the exchange are looked for')
  await until('compared', () => followed.feed.status().comparisons > 1)
  t.equal(followed.feed.status().differences, 0)
  const { wrong } = await storm(followed, cluster, { seed: seed + 1, rows: 300, writers: 4 })
  t.same(wrong, [])
  await followed.feed.close()
})

t.test(
  'a file that is damaged, short, tampered with or foreign is said and not used',
  async (t) => {
    await leaveFile()
    const whole = readFileSync(snapshotFile)
    const flipped = Buffer.from(whole)
    flipped[flipped.length >> 1]! ^= 1
    for (const [what, bytes, why] of [
      ['a bit flipped', flipped, /damaged/],
      ['cut short', whole.subarray(0, whole.length - 100), /short/],
      ['longer', Buffer.concat([whole, Buffer.alloc(10)]), /damaged/],
      ['empty', Buffer.alloc(0), /short/],
      ['another thing', Buffer.alloc(5000, 'x'), /release/],
      ['no MAC', Buffer.concat([whole.subarray(0, -32), Buffer.alloc(32)]), /damaged/],
    ] as const) {
      writeFileSync(snapshotFile, bytes)
      const followed = await follow(cluster.url, { snapshotFile })
      t.match(followed.problems, [why], what)
      t.equal(followed.feed.status().loads, 1, what)
      await check(followed)
      await followed.feed.close()
    }
  },
)

t.test(
  'a file of before a TRUNCATE, of purged tombstones or of another key is not used',
  async (t) => {
    for (const [statement, why] of [
      ['TRUNCATE dropgate.revocations', /truncated/],
      ["UPDATE dropgate.feed SET tomb_floor = '1000000'", /purged/],
      ['SELECT dropgate.new_mac_key()', /damaged/],
    ] as const) {
      await owner.query("UPDATE dropgate.feed SET tomb_floor = '0'")
      await leaveFile()
      await owner.query(statement)
      const followed = await follow(cluster.url, { snapshotFile })
      t.match(followed.problems, [why], statement)
      t.equal(followed.feed.status().loads, 1)
      await check(followed)
      await followed.feed.close()
    }
    truncateSync(snapshotFile, 0)
  },
)

t.test('a load that fails while the ledger serves puts no file in its place', async (t) => {
  await leaveFile()
  const proxy = new PostgresProxy()
  t.teardown(() => proxy.close())
  const followed = await follow(await proxy.open(cluster.url), { snapshotFile, verifyMs: 50 })
  t.equal(followed.feed.status().loads, 0, 'restored from the file')
  // More than a tick carries: with the file in place of the ledger they would be missing for a while.
  await owner.query(
    "INSERT INTO dropgate.revocations (subject) SELECT 'newer' || i FROM generate_series(1, 20000) i",
  )
  await settled(followed, gate)
  const { ledger, feed } = followed
  await until('caught up', () => feed.status().state === 'following')
  const [lost] = ledger.entries()
  ledger.remove(lost!.id, lost!.keys)
  const { rows } = ledger
  let fewest = rows
  let cut = false
  await until(
    'loaded again',
    async () => {
      // A comparison finds the difference; the load that follows is broken off.
      for (let i = 0; i < 50; i++) {
        if (!cut && (feed.status().progress?.rows ?? 0) > 0) {
          cut = true
          proxy.cut()
        }
        await new Promise(setImmediate)
        fewest = Math.min(fewest, ledger.rows)
      }
      return feed.status().loads > 0
    },
    60_000,
  )
  t.ok(cut)
  t.equal(fewest, rows, 'no row was missing at any time')
  await check(followed)
  t.equal(ledger.rows, rows + 1)
  await feed.close()
})

t.test('the file is written at once, then each minute, and rarely where little changes', (t) => {
  const last = { endedAt: 1000, tookMs: 2000, version: 7 }
  const minute = 60_000
  t.ok(isDue(0, 0, undefined))
  t.notOk(isDue(1e9, 7, last), 'nothing has changed')
  t.notOk(isDue(minute, 107, last))
  t.ok(isDue(1000 + minute, 107, last))
  t.notOk(isDue(1000 + 14 * minute, 106, last), 'a canary each minute')
  t.ok(isDue(1000 + 15 * minute, 8, last))
  t.notOk(isDue(1000 + minute, 500, { ...last, tookMs: 10_000 }), 'a twentieth of the time')
  t.ok(isDue(1000 + 200_000, 500, { ...last, tookMs: 10_000 }))
  t.end()
})
