/** What a receipt is worth: it stands for a row that is in the ledger, and its count of cuts is complete. */
import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import t, { type Test } from 'tap'
import { Fleet } from '../../src/fleet/fleet.ts'
import { migrate } from '../../src/store/migrate.ts'
import { insertRevocation, type Receipt, receiptsOf } from '../../src/store/statements.ts'
import { compile, compileRunaway } from '../harness/bundle.ts'
import { follow } from '../harness/follower.ts'
import { TestGate } from '../harness/gate.ts'
import { startPostgres } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'

t.setTimeout(280_000)
const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')
const noLog = { info: () => {}, warn: () => {}, error: () => {} }

interface Status {
  readonly workers: { restarts: number; lost_exchanges: number }[]
  readonly feed: { loads: number }
}
const statusOf = ({ gate }: TestGate): Status => gate.status() as Status

/** Inserts a row whose writer waits. @returns its id */
async function insertWaited(client: pg.Client, columns: string, values: string): Promise<number> {
  await client.query('BEGIN')
  const { rows } = await client.query(
    `INSERT INTO dropgate.revocations (${columns}) VALUES (${values}) RETURNING id`,
  )
  await client.query('SELECT dropgate.expect_receipts($1)', [rows[0].id])
  await client.query('COMMIT')
  return Number(rows[0].id)
}

async function allReceipts(client: pg.Client, id: number): Promise<Receipt[]> {
  let receipts: Receipt[] = []
  await until('every gate has confirmed', async () => {
    receipts = await receiptsOf(client, 'dropgate', id)
    return receipts.length > 0 && receipts.every(({ ms }) => ms !== null)
  })
  return receipts
}

/** Opens this many exchanges that stay open. @returns what they come to in the end */
async function openStreams(
  gate: TestGate,
  token: string,
  number: number,
): Promise<Promise<unknown>[]> {
  gate.upstream.answer = (socket) =>
    socket.write('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n')
  await until('none is open', () => gate.live === 0)
  const open = Array.from({ length: number }, () => gate.ask('/orders', token).catch(() => {}))
  await until('they are open', () => gate.live === number)
  return open
}

t.test(
  'a row of the server that the fleet session leads to is confirmed only when the feed brought it',
  async (t) => {
    // Two databases of one cluster: what one writes is visible in snapshots of the other.
    await owner.query('CREATE DATABASE other')
    const other = new URL(cluster.migrate_url)
    other.pathname = '/other'
    await migrate(other.href, { schema: 'dropgate', rolePrefix: 'dropgate_' })
    const elsewhere = await cluster.client(other.href)
    const { feed, ledger } = await follow(cluster.url)
    const id = randomUUID()
    const describe = () => ({
      ...{ host: 'h', pid: 1, version: '0', started_at: '2026-01-01Z', ready: true, age_ms: 0 },
      ...{
        cursor: feed.status().cursor,
        rows: ledger.rows,
        allows_ms: 5000,
        matches: {},
        peppers: [],
      },
      token_lifetime_ms: 0,
      policies: {},
    })
    const url = new URL(cluster.url)
    url.pathname = '/other'
    const fleet = new Fleet({
      connect: { url: url.href, schema: 'dropgate' },
      ...{ id, describe, purgeMs: 0, canaryMs: 0, log: noLog },
      holds: (row) => ledger.holds(row),
      look: async () => {},
      wantedAnchor: () => undefined,
      canaries: {
        loaded: () => true,
        lateMs: 5000,
        metrics: { count: () => {}, observe: () => {} },
      },
    })
    fleet.open()
    t.teardown(async () => {
      await fleet.close()
      await feed.close()
    })
    const confirmed = async (): Promise<number[]> => {
      // Whatever this gate confirms it has confirmed two heartbeats after it could.
      const beats = new Set<number>()
      await until('heartbeats', async () => {
        const { rows } = await elsewhere.query('SELECT seen_at FROM dropgate.gates')
        for (const { seen_at } of rows) beats.add(seen_at.getTime())
        return beats.size > 3
      })
      const { rows } = await elsewhere.query('SELECT row_id FROM dropgate.receipts ORDER BY row_id')
      return rows.map(({ row_id }) => Number(row_id))
    }
    const first = await insertWaited(elsewhere, 'subject', "'alice'")
    t.same(await confirmed(), [], 'the feed has no row')

    await owner.query("INSERT INTO dropgate.revocations (subject) VALUES ('bob')")
    await until('the feed has a row of this id', () => ledger.rows === 1)
    t.same(await confirmed(), [], 'the row of this id is another one')

    const columns = 'subject, issued_before'
    const second = await insertWaited(elsewhere, columns, "'alice', '2026-01-01Z'")
    t.equal(second, first + 1)
    await owner.query(
      `INSERT INTO dropgate.revocations (${columns}) VALUES ('alice', '2025-12-31Z')`,
    )
    await until('the feed has it', () => ledger.rows === 2)
    t.same(await confirmed(), [], 'a cutoff of another time')

    await owner.query("UPDATE dropgate.revocations SET issued_before = '2026-01-01Z' WHERE id = 2")
    await until('confirmed', async () => (await confirmed()).includes(second))
    t.same(await confirmed(), [second])
  },
)

t.test('a row that is gone from the table is not confirmed', async (t) => {
  const gate = await TestGate.start({ cluster })
  t.teardown(() => gate.stop())
  const client = await gate.revoker()
  const ids: number[] = []
  await client.query('BEGIN')
  for (const subject of ['gone', 'there']) {
    const { rows } = await client.query(
      'INSERT INTO dropgate.revocations (subject) VALUES ($1) RETURNING id',
      [subject],
    )
    await client.query('SELECT dropgate.expect_receipts($1)', [rows[0].id])
    ids.push(Number(rows[0].id))
  }
  // In the same transaction, so that no gate ever sees the row.
  await client.query('DELETE FROM dropgate.revocations WHERE id = $1', [ids[0]])
  await client.query('COMMIT')
  await allReceipts(client, ids[1]!)
  const [receipt] = await receiptsOf(client, 'dropgate', ids[0])
  t.equal(receipt!.ms, null)
})

t.test('a row that a full load brought is confirmed, and what it cuts is counted', async (t) => {
  const client = await cluster.client('cli_url')
  const early = await insertWaited(client, 'subject', "'early'")
  const gate = await TestGate.start({ cluster })
  t.teardown(() => gate.stop())
  const [first] = await allReceipts(client, early)
  t.ok(first!.ms! > 0 && first!.cuts === 0, 'a row that was there before the gate')

  const open = await openStreams(gate, await gate.issuer.token('dora'), 5)
  const { loads } = statusOf(gate).feed
  await owner.query('BEGIN')
  // Two predicates: no notification carries it.
  const id = await (async () => {
    const { rows } = await owner.query(
      `INSERT INTO dropgate.revocations (subject, claims) VALUES ('dora', '{"/sub": "dora"}') RETURNING id`,
    )
    await owner.query('SELECT dropgate.expect_receipts($1)', [rows[0].id])
    await owner.query('UPDATE dropgate.feed SET generation = gen_random_uuid()')
    await owner.query('COMMIT')
    return Number(rows[0].id)
  })()
  const [receipt] = await allReceipts(client, id)
  t.ok(statusOf(gate).feed.loads > loads, 'it came with a load')
  t.equal(receipt!.cuts, 5)
  await Promise.all(open)
})

async function startSlow(t: Test, bundle: Buffer): Promise<TestGate> {
  // No evaluation is interrupted: what holds a worker up here is one that takes long.
  const config = { policy: { evaluation_timeout: '1m' } }
  const gate = await TestGate.start({ cluster, bundle: null, ready: false, config })
  t.teardown(() => gate.stop())
  gate.put(bundle)
  await until('ready', () => gate.gate.readiness().ready)
  return gate
}

t.test('the counts of cuts are complete when the receipts are there', async (t) => {
  const gate = await startSlow(
    t,
    compile(
      `default decision := false
       decision if { input.attributes; not slow }
       slow if { input.attributes.request.http.headers["x-run"] == "slow"; not contains(data.text, data.part) }`,
      undefined,
      { text: 'a'.repeat(16_000), part: `${'a'.repeat(8_000)}b` },
    ),
  )
  const client = await gate.revoker()
  const busy = await gate.issuer.token('busy')
  for (let round = 0; round < 2; round++) {
    const subject = `carol-${round}`
    const open = await openStreams(gate, await gate.issuer.token(subject), 40)
    // Each worker evaluates without a pause: it hears of rows late, and cuts late.
    let asking = true
    let answered = 0
    const askers = Array.from({ length: 12 }, async () => {
      while (asking) {
        await gate.ask('/orders', busy, { headers: { 'x-run': 'slow' } })
        answered++
      }
    })
    await until('the workers are busy', () => answered >= 4)
    const row = await insertRevocation(
      client,
      'dropgate',
      { subject },
      { force: true, wait: true, pepper: undefined },
    )
    const [receipt] = await allReceipts(client, Number(row.id))
    t.equal(receipt!.cuts, 40, `${receipt!.cuts} of 40 after ${receipt!.ms} ms`)
    asking = false
    await Promise.all([...askers, ...open])
  }
  t.ok(statusOf(gate).workers.every(({ restarts }) => restarts === 0))
})

t.test('a worker that is stuck holds the receipt up until it has been replaced', async (t) => {
  const gate = await startSlow(t, compileRunaway())
  const client = await gate.revoker()
  const open = await openStreams(gate, await gate.issuer.token('erin'), 40)
  const restarts = (): number =>
    statusOf(gate).workers.reduce((sum, worker) => sum + worker.restarts, 0)
  const mallory = await gate.issuer.token('mallory')
  const away = gate.ask('/orders', mallory, { headers: { 'x-run': 'away' } }).catch(() => {})
  await until('a worker evaluates without end', () => gate.live > 40)
  const id = await insertWaited(client, 'subject', "'erin'")
  const [receipt] = await allReceipts(client, id)
  t.equal(restarts(), 1, 'the receipt came after the replacement')
  const lost = statusOf(gate).workers.reduce((sum, worker) => sum + worker.lost_exchanges, 0)
  // The exchanges of the lost worker are lost, the runaway one among them; those of the other are cut.
  t.equal(receipt!.cuts, 40 - (lost - 1), `${lost} lost`)
  await Promise.all([...open, away])
})
