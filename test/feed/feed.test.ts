/**
 * Invariant: at every moment the ledger holds exactly what was visible in the feed's cursor. Writers here do what they
 * can to break it: commit out of order, hold transactions open, roll back, use savepoints, change keys.
 */
import type pg from 'pg'
import t from 'tap'
import type { RevocationRow } from '../../src/domain/revocation.ts'
import { Feed } from '../../src/feed/feed.ts'
import { Ledger } from '../../src/revocation/ledger.ts'
import { PostgresProxy, startPostgres } from '../harness/postgres.ts'
import { pause, seeded, seedOf, until } from '../harness/wait.ts'

const metrics = { count: () => {}, observe: () => {} }
const quiet = { info: () => {}, warn: () => {}, error: () => {} }
const cluster = await startPostgres()
t.teardown(() => cluster.close())

interface Followed {
  readonly feed: Feed
  ledger(): Ledger
  readonly problems: string[]
}

async function follow(url: string, spare = 20_000, tickMs = 100): Promise<Followed> {
  let ledger: Ledger | undefined
  const problems: string[] = []
  const feed = new Feed({
    connect: { url, schema: 'dropgate' },
    tickMs,
    ledgerFor: (rows) => Ledger.create(rows + spare),
    onRows: () => {},
    onLedger: (each) => {
      ledger = each
    },
    learnPointers: () => false,
    log: { ...quiet, error: (_fields, message) => problems.push(message) },
    metrics,
  })
  await feed.open()
  return { feed, ledger: () => ledger!, problems }
}

type Rows = Map<number, string>

function textOf({ keys, cutoffUs, exact, authTime, expiresAtS }: RevocationRow): string {
  // The kind of an overflow key is part of its digest and not kept: compare digests.
  const digests: string[] = []
  for (let at = 0; at < keys.length; at += 17)
    digests.push(Buffer.from(keys.subarray(at + 1, at + 17)).toString('hex'))
  return `${digests.join()} ${cutoffUs} ${cutoffUs !== null && exact} ${authTime} ${expiresAtS}`
}

/** A row as `live` and `changes()` give it: bigints as text. */
interface StoredRow {
  readonly id: string
  readonly keys: Buffer
  readonly cutoff_us: string | null
  readonly exact: boolean
  readonly auth_time: boolean
  readonly expires_s: string | null
}

function rowOf(row: StoredRow): RevocationRow {
  return {
    id: Number(row.id),
    keys: row.keys,
    cutoffUs: row.cutoff_us === null ? null : Number(row.cutoff_us),
    exact: row.exact,
    authTime: row.auth_time,
    expiresAtS: row.expires_s === null ? null : Number(row.expires_s),
  }
}

/** The ledger at its cursor, brought to one snapshot by `changes`, against the whole table in that same snapshot. */
async function compare({ feed, ledger }: Followed, client: pg.Client): Promise<string[]> {
  const { cursor } = feed.status()
  const held: Rows = new Map([...ledger().entries()].map((row) => [row.id, textOf(row)]))
  await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
  const changes = (await client.query('SELECT * FROM dropgate.changes($1)', [cursor])).rows
  const table = (await client.query('SELECT * FROM dropgate.live')).rows
  await client.query('COMMIT')
  for (const { op, id } of changes) if (op === 't') held.delete(Number(id))
  for (const row of changes) if (row.op === 'r') held.set(Number(row.id), textOf(rowOf(row)))
  const differences: string[] = []
  const expected: Rows = new Map(table.map((row) => [Number(row.id), textOf(rowOf(row))]))
  for (const [id, text] of expected) if (held.get(id) !== text) differences.push(`missed ${id}`)
  for (const id of held.keys()) if (!expected.has(id)) differences.push(`phantom ${id}`)
  return differences
}

/** One writer: transactions of random length and fate until it has inserted its share. */
async function write(random: () => number, rows: number): Promise<void> {
  const client = await cluster.client('cli_url')
  const own: string[] = []
  const int = (n: number): number => Math.floor(random() * n)
  let inserted = 0
  while (inserted < rows) {
    let made: string[] = []
    let gone: string[] = []
    await client.query('BEGIN')
    for (let i = 1 + int(4); i > 0; i--) {
      const savepoint = int(4) === 0
      const before = { made: [...made], gone: [...gone] }
      if (savepoint) await client.query('SAVEPOINT s')
      const live = [...own, ...made].filter((id) => !gone.includes(id))
      const id = live[int(live.length)]
      const kind = int(10)
      if (kind < 7 || id === undefined) {
        const base = int(1000)
        const { rows: inserts } = await client.query(
          `INSERT INTO dropgate.revocations (subject, client_id, issued_before, expires_at)
           SELECT 's' || (i % 200), CASE WHEN i % 5 = 0 THEN 'c' || (i % 7) END,
             CASE WHEN i % 3 = 0 THEN now() END, CASE WHEN i % 4 = 0 THEN now() + interval '1 day' END
           FROM generate_series($1::int, $2::int) i RETURNING id`,
          [base, base + int(20)],
        )
        made.push(...inserts.map((row) => row.id as string))
      } else if (kind < 9) {
        await client.query('UPDATE dropgate.revocations SET issued_before = now() WHERE id = $1', [
          id,
        ])
      } else {
        await client.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
        gone.push(id)
      }
      if (savepoint && int(2) === 0) {
        await client.query('ROLLBACK TO s')
        made = before.made
        gone = before.gone
      }
      if (int(3) === 0) await pause(int(30))
    }
    if (int(8) === 0) {
      await client.query('ROLLBACK')
      continue
    }
    await client.query('COMMIT')
    inserted += made.length
    own.push(...made)
    for (const id of gone) own.splice(own.indexOf(id), 1)
  }
}

async function storm(
  followed: Followed,
  rows: number,
): Promise<{ comparisons: number; wrong: string[] }> {
  const seed = seedOf()
  t.comment(`SEED=${seed}`)
  const gate = await cluster.client('url')
  let writing = 12
  const writers = Array.from({ length: 12 }, (_, i) =>
    write(seeded(seed + i), rows / 12).finally(() => writing--),
  )
  const wrong: string[] = []
  let comparisons = 0
  while (writing > 0 || comparisons < 50) {
    wrong.push(...(await compare(followed, gate)))
    comparisons++
    await pause(5)
  }
  await Promise.all(writers)
  const { rows: now } = await gate.query('SELECT count(*)::int AS n FROM dropgate.live')
  await until('everything is in the ledger', () => followed.ledger().rows === now[0].n)
  wrong.push(...(await compare(followed, gate)))
  return { comparisons, wrong }
}

t.test('10,000 rows from 12 connections: none missed, none phantom', async (t) => {
  const followed = await follow(cluster.url)
  const { comparisons, wrong } = await storm(followed, 10_000)
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.ok(followed.ledger().rows > 5000)
  await followed.feed.close()
})

t.test('the same with every notification dropped', async (t) => {
  const proxy = new PostgresProxy()
  proxy.dropNotifications = true
  const followed = await follow(await proxy.open(cluster.url))
  const { comparisons, wrong } = await storm(followed, 10_000)
  t.ok(comparisons >= 50, `${comparisons} comparisons`)
  t.same(wrong.slice(0, 5), [])
  t.ok(proxy.dropped > 100, `${proxy.dropped} notifications dropped`)
  await followed.feed.close()
  proxy.close()
})

t.test('rows that change while connections are cut again and again', async (t) => {
  const proxy = new PostgresProxy()
  const followed = await follow(await proxy.open(cluster.url))
  const cutter = setInterval(() => proxy.cut(), 300)
  const { wrong } = await storm(followed, 2000)
  clearInterval(cutter)
  t.same(wrong.slice(0, 5), [])
  t.ok(followed.feed.status().reconnects >= 1, `${followed.feed.status().reconnects} reconnects`)
  t.equal(followed.feed.status().loads, 1, 'the cursor survives: nothing is loaded anew')
  await followed.feed.close()
  proxy.close()
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
    [...followed.ledger().entries()].some(({ id }) => id === Number(rows[0].id))
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
  const age = followed.ledger().ageMs(Number(process.hrtime.bigint() / 1000n), Date.now())
  t.ok(age > 500, `age ${age} ms`)
  proxy.silent = false
  proxy.cut()
  await until('follows again', () => followed.feed.status().state === 'following')
  await followed.feed.close()
  proxy.close()
})

t.test('truncating makes every gate load anew', async (t) => {
  const followed = await follow(cluster.url)
  t.ok(followed.ledger().rows > 0)
  const owner = await cluster.client('migrate_url')
  await owner.query('TRUNCATE dropgate.revocations')
  await until(
    'loaded anew',
    () => followed.feed.status().loads === 2 && followed.ledger().rows === 0,
  )
  await owner.query("INSERT INTO dropgate.revocations (subject) VALUES ('after')")
  await until('follows', () => followed.ledger().rows === 1)
  t.pass()
  await followed.feed.close()
})

t.test('a full ledger is not ready and is loaded into a larger one', async (t) => {
  const followed = await follow(cluster.url, 0)
  const first = followed.ledger()
  const owner = await cluster.client('migrate_url')
  await owner.query(
    "INSERT INTO dropgate.revocations (subject) SELECT 'f' || i FROM generate_series(1, 2000) i",
  )
  await until('a larger ledger', () => followed.ledger() !== first)
  t.ok(first.broken, 'who still reads the old one is told')
  t.equal(followed.ledger().rows, 2001)
  t.match(followed.problems[0], /full/)
  await followed.feed.close()
})

t.test('a row that nothing can match makes the ledger unusable until it is gone', async (t) => {
  const owner = await cluster.client('migrate_url')
  const followed = await follow(cluster.url)
  // Only a newer release could write such a row; here its trigger is switched off.
  await owner.query('ALTER TABLE dropgate.revocations DISABLE TRIGGER a_stamp')
  const { rows } = await owner.query(
    `INSERT INTO dropgate.revocations (subject, keys, key_version, chg_xid, chg_seq)
     VALUES ('x', '\\x6300000000000000000000000000000000', 1, pg_current_xact_id(), 1) RETURNING id`,
  )
  await until('broken', () => followed.ledger().broken)
  t.equal(followed.feed.status().unmatchable_rows, 1)
  const late = await follow(cluster.url)
  t.ok(late.ledger().broken, 'also for a gate that starts later')
  await owner.query('ALTER TABLE dropgate.revocations ENABLE ALWAYS TRIGGER a_stamp')
  await owner.query('DELETE FROM dropgate.revocations WHERE id = $1', [rows[0].id])
  await until('usable', () => !followed.ledger().broken && !late.ledger().broken)
  t.pass()
  await followed.feed.close()
  await late.feed.close()
})

t.test('a database of another release or a wrong login is said, and tried again', async (t) => {
  const owner = await cluster.client('migrate_url')
  await owner.query('UPDATE dropgate.feed SET schema_version = 99')
  const followed = await follow(cluster.url)
  t.match(followed.feed.status(), { state: 'connecting', code: 'ERR_DATABASE_SCHEMA' })
  await owner.query('UPDATE dropgate.feed SET schema_version = 1')
  await until('follows', () => followed.feed.status().state === 'following')
  await followed.feed.close()
  const wrong = new URL(cluster.url)
  wrong.password = 'wrong'
  const refused = await follow(wrong.href)
  t.match(refused.feed.status(), { code: 'ERR_DATABASE_UNREACHABLE', hint: /password/ })
  await refused.feed.close()
})
