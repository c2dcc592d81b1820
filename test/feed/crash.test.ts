/**
 * PostgreSQL crashes and gives transaction ids again that a gate has in its cursor: the rows of those who get them are not
 * missed, not by a tick, not by a notification, not after a restart from the file; and no receipt is given before its time.
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type pg from 'pg'
import t, { type Test } from 'tap'
import { burn, burnUpTo, crash, flushLate, nextId } from '../harness/crash.ts'
import { compare, type Followed, follow, settled } from '../harness/follower.ts'
import { EveryWorker, TestGate } from '../harness/gate.ts'
import { PostgresProxy, startPostgres } from '../harness/postgres.ts'
import { pause, seeded, seedOf, until } from '../harness/wait.ts'

t.setTimeout(280_000)
const seed = seedOf()
t.comment(`SEED=${seed}`)
const cluster = await startPostgres()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-crash-'))
t.teardown(async () => {
  await cluster.close()
  rmSync(folder, { recursive: true, force: true })
})
await flushLate(cluster)

interface Fault {
  /** Ids below were given before the crash. */
  readonly given: bigint
  /** From here on they are given again. */
  readonly again: bigint
}

/**
 * Crashes after the gate has seen ids of which nothing is flushed. What else is written may flush some of them all the
 * same: then another try.
 * @param seen Returns once the gate has seen all ids that were given before it was called.
 */
async function loseIds(faults: {
  seen: () => Promise<void>
  away: () => void
  back: () => void
}): Promise<Fault> {
  for (let tries = 0; tries < 20; tries++) {
    const client = await cluster.client('migrate_url')
    for (let i = 0; i < 40; i++) await burn(client)
    const given = await nextId(client)
    await faults.seen()
    faults.away()
    await crash(cluster)
    const again = await nextId(await cluster.client('migrate_url'))
    // Some are left for those who shall get them.
    if (again + 10n < given) return { given, again }
    faults.back()
  }
  throw new Error('twenty crashes have lost no ids')
}

/** Inserts a row and leaves its transaction open. */
async function insertLate(
  subject: string,
): Promise<{ client: pg.Client; id: number; xid: bigint }> {
  const client = await cluster.client('cli_url')
  await client.query('BEGIN')
  const { rows } = await client.query(
    'INSERT INTO dropgate.revocations (subject) VALUES ($1) RETURNING id, pg_current_xact_id() AS xid',
    [subject],
  )
  await client.query('SELECT dropgate.expect_receipts($1)', [rows[0].id])
  return { client, id: Number(rows[0].id), xid: BigInt(rows[0].xid) }
}

async function receipts(client: pg.Client, row: number): Promise<number> {
  const { rows } = await client.query(
    'SELECT count(*)::int AS n FROM dropgate.receipts WHERE row_id = $1',
    [row],
  )
  return rows[0].n
}

interface Feeding {
  readonly state: string
  readonly anchors: number
  readonly ticks: number
  readonly loads: number
}
const feedOf = ({ gate }: TestGate): Feeding => (gate.status() as { feed: Feeding }).feed

/** Two ticks that were sent later have been answered, and there is a point to go on from. */
async function ticked(status: () => Feeding): Promise<void> {
  await until('an anchor', () => status().anchors > 0)
  const { ticks } = status()
  await until('two ticks', () => status().ticks > ticks + 1)
}

const holds = ({ ledger }: Followed, id: number): boolean =>
  [...ledger.entries()].some((row) => row.id === id)

t.test('a whole gate that is cut off allows while fresh, and is back with the ids', async (t) => {
  const proxy = new PostgresProxy()
  const gate = await TestGate.start({
    cluster,
    config: {
      revocation: { max_staleness: '10m', cut_after: '10m', hard_stop: '20m', tick: '100ms' },
    },
    databaseUrl: (url) => proxy.open(url),
  })
  const everyWorker = new EveryWorker()
  t.teardown(async () => {
    everyWorker.close()
    await gate.stop()
    proxy.close()
  })
  const token = await gate.issuer.token('victim')
  const codes = async (): Promise<Set<string>> =>
    new Set(
      (await everyWorker.ask(gate, '/orders', token)).map(
        ({ status, code }) => code ?? `${status}`,
      ),
    )
  const { given } = await loseIds({
    seen: () => ticked(() => feedOf(gate)),
    // The session of the heartbeat comes through: it must vouch for nothing that no tick has shown.
    away: () => {
      proxy.admits = (data) => !data.includes('dropgate feed')
      proxy.cut()
    },
    back: () => {
      proxy.admits = () => true
    },
  })
  const { loads } = feedOf(gate)
  const { client, id, xid } = await insertLate('victim')
  t.ok(xid < given, `${xid} was given before`)
  await client.query('COMMIT')
  const owner = await cluster.client('migrate_url')
  await burnUpTo(owner, given + 5n)
  const beats = new Set<number>()
  await until('three heartbeats', async () => {
    const { rows } = await owner.query(
      'SELECT g.seen_at FROM dropgate.gates g, dropgate.waits w WHERE w.row_id = $1 AND g.seen_at > w.at',
      [id],
    )
    for (const { seen_at } of rows) beats.add(seen_at.getTime())
    return beats.size >= 3
  })
  t.equal(await receipts(owner, id), 0, 'no receipt while the row is not in force')
  t.same([...(await codes())], ['200'])

  proxy.admits = () => true
  await until('the receipt', async () => (await receipts(owner, id)) === 1)
  t.same([...(await codes())], ['ERR_REVOKED'], 'in force on every worker once there is a receipt')
  t.equal(feedOf(gate).loads, loads, 'nothing was loaded')
})

t.test('a gate that starts from its file misses nothing after a crash of the server', async (t) => {
  const snapshot_file = join(folder, 'revocations.snapshot')
  const config = { revocation: { snapshot_file } }
  let gate: TestGate | undefined
  t.teardown(() => gate?.stop())
  let fault: Fault | undefined
  for (let tries = 0; fault === undefined; tries++) {
    if (tries === 20) throw new Error('twenty crashes have lost no ids of the file')
    rmSync(snapshot_file, { force: true })
    const burner = await cluster.client('migrate_url')
    let burning = true
    // While the file is begun there are always some of which nothing is flushed.
    const burnt = (async () => {
      while (burning) {
        await burn(burner)
        await pause(2)
      }
    })()
    gate = await TestGate.start({ cluster, config })
    t.equal((await gate.ask('/orders', await gate.issuer.token('of the file'))).status, 200)
    await until('the file', () => statSync(snapshot_file, { throwIfNoEntry: false }) !== undefined)
    burning = false
    await burnt
    const given = await nextId(burner)
    await crash(cluster)
    const again = await nextId(await cluster.client('migrate_url'))
    await gate.stop()
    gate = undefined
    if (again + 10n < given) fault = { given, again }
  }
  const { client, xid } = await insertLate('of the file')
  t.ok(xid < fault.given, `${xid} was given before`)
  await client.query('COMMIT')
  await burnUpTo(await cluster.client('migrate_url'), fault.given + 5n)
  gate = await TestGate.start({ cluster, config })
  t.equal(feedOf(gate).loads, 0, 'from the file')
  const { code } = await gate.ask('/orders', await gate.issuer.token('of the file'))
  t.equal(code, 'ERR_REVOKED')
})

t.test('a notification with a transaction id below the old cursor is not missed', async (t) => {
  const proxy = new PostgresProxy()
  const followed = await follow(await proxy.open(cluster.url))
  const { feed } = followed
  t.teardown(async () => {
    await feed.close()
    proxy.close()
  })
  const { given } = await loseIds({
    seen: () => ticked(() => feed.status()),
    away: () => {
      proxy.refusing = true
      proxy.cut()
    },
    back: () => {
      proxy.refusing = false
    },
  })
  const open = [await insertLate('n1'), await insertLate('n2'), await insertLate('n3')]
  for (const { xid } of open) t.ok(xid < given, `${xid} was given before`)
  const owner = await cluster.client('migrate_url')
  await burnUpTo(owner, given + 5n)
  const { ticks } = feed.status()
  // From LISTEN on answers are held back, so that nothing but notifications comes through.
  let heldBefore = Number.POSITIVE_INFINITY
  proxy.admits = (data) => {
    if (data.includes('LISTEN')) {
      proxy.holding = 'answers'
      heldBefore = proxy.held
    } else if (proxy.holding === 'answers' && data.includes('dropgate feed')) {
      proxy.holding = 'nothing'
    }
    return true
  }
  proxy.refusing = false
  let denied = false
  for (const { client, id } of open) {
    await until('LISTEN is answered', () => proxy.held > heldBefore)
    const { reconnects } = feed.status()
    await client.query('COMMIT')
    // A session that is silent for long is given up: then with the next one.
    await until(
      'denied, or given up',
      () => holds(followed, id) || feed.status().reconnects !== reconnects,
    )
    denied ||= holds(followed, id)
  }
  t.equal(feed.status().ticks, ticks, 'no tick has been answered')
  t.ok(denied, 'denied by its notification')
  proxy.admits = () => true
  proxy.release()
  await until('following', () => feed.status().ticks > ticks + 1)
  await settled(followed, owner)
  await until('nothing is provisional', () => feed.status().provisional_rows === 0)
  await until('following', () => feed.status().state === 'following')
  t.same(await compare(followed, await cluster.client('url')), [])
})

/** Ordinary life: the same ledger, nothing loaded, nothing read again. */
async function quiet(t: Test, followed: Followed): Promise<void> {
  const gate = await cluster.client('url')
  await ticked(() => followed.feed.status())
  await until('following', () => followed.feed.status().state === 'following')
  await settled(followed, gate)
  await until('nothing is provisional', () => followed.feed.status().provisional_rows === 0)
  t.same(await compare(followed, gate), [])
  const { version } = followed.ledger
  await ticked(() => followed.feed.status())
  t.equal(followed.ledger.version, version, 'ticks change nothing')
  const { rows } = await gate.query('SELECT op FROM dropgate.changes($1, 10)', [
    followed.feed.status().cursor,
  ])
  t.same(
    rows.map(({ op }) => op),
    ['m'],
    'ticks read no row',
  )
}

t.test('after a restart in order nothing is loaded and no tick reads a row twice', async (t) => {
  const proxy = new PostgresProxy()
  const followed = await follow(await proxy.open(cluster.url))
  t.teardown(async () => {
    await followed.feed.close()
    proxy.close()
  })
  const client = await cluster.client('migrate_url')
  await client.query("INSERT INTO dropgate.revocations (subject) VALUES ('a'), ('b')")
  await quiet(t, followed)
  for (let i = 0; i < 100; i++) await burn(client)
  await quiet(t, followed)
  const { ticks, loads } = followed.feed.status()
  await cluster.stop()
  await cluster.start()
  proxy.lead(cluster.url)
  await until('following', () => followed.feed.status().ticks > ticks + 1)
  await quiet(t, followed)
  const again = await cluster.client('migrate_url')
  await again.query("DELETE FROM dropgate.revocations WHERE subject = 'a'")
  await quiet(t, followed)
  await again.query('DELETE FROM dropgate.revocations')
  await quiet(t, followed)
  t.equal(followed.feed.status().loads, loads)
  // And from an empty table on.
  await again.query('TRUNCATE dropgate.revocations, dropgate.tomb')
  await until('loaded', () => followed.feed.status().loads === loads + 1)
  await quiet(t, followed)
  await again.query("INSERT INTO dropgate.revocations (subject) VALUES ('c')")
  await quiet(t, followed)
  t.equal(followed.ledger.rows, 1)
})

t.test('the ledger equals the table after many crashes beside writers of every kind', async (t) => {
  const random = seeded(seed)
  const int = (n: number): number => Math.floor(random() * n)
  const proxy = new PostgresProxy()
  const followed = await follow(await proxy.open(cluster.url))
  t.teardown(async () => {
    await followed.feed.close()
    proxy.close()
  })
  let again = 0
  for (let round = 0; round < 5; round++) {
    const owner = await cluster.client('migrate_url')
    const write = async (client: pg.Client): Promise<void> => {
      await client.query(int(2) === 0 ? 'SET synchronous_commit = off' : 'RESET synchronous_commit')
      await client.query('BEGIN')
      if (int(2) === 0) {
        await client.query("SAVEPOINT s; INSERT INTO dropgate.revocations (subject) VALUES ('no')")
        await client.query('ROLLBACK TO s')
      }
      if (int(3) > 0) await client.query("INSERT INTO dropgate.revocations (subject) VALUES ('x')")
      if (int(3) === 0)
        await client.query(
          `DELETE FROM dropgate.revocations WHERE id IN (
             SELECT id FROM dropgate.revocations ORDER BY random() LIMIT 2 FOR UPDATE SKIP LOCKED)`,
        )
      if (int(3) === 0)
        await client.query(
          `UPDATE dropgate.revocations SET issued_before = now() WHERE id IN (
             SELECT id FROM dropgate.revocations ORDER BY random() LIMIT 2 FOR UPDATE SKIP LOCKED)`,
        )
    }
    // One that stays open over the crash, below all that follows.
    await write(await cluster.client('migrate_url'))
    for (let i = int(4); i >= 0; i--) {
      await write(owner)
      await owner.query(int(4) === 0 ? 'ROLLBACK' : 'COMMIT')
    }
    for (let i = 10 + int(40); i > 0; i--) await burn(owner)
    const given = await nextId(owner)
    await ticked(() => followed.feed.status())
    proxy.refusing = true
    proxy.cut()
    await crash(cluster)
    const after = await cluster.client('migrate_url')
    if ((await nextId(after)) < given) again++
    const late: pg.Client[] = []
    for (let i = int(4); i >= 0; i--) {
      const client = await cluster.client('migrate_url')
      await write(client)
      if (int(2) === 0) late.push(client)
      else await client.query('COMMIT')
    }
    if (int(4) > 0) await burnUpTo(after, given)
    proxy.refusing = false
    const { ticks } = followed.feed.status()
    await until('following', () => followed.feed.status().ticks > ticks + 1)
    for (const client of late) await client.query('COMMIT')
    await quiet(t, followed)
  }
  t.ok(again > 0, `ids came again in ${again} rounds`)
})
