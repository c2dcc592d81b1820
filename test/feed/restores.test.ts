/**
 * Servers that are put back or promoted, so that the same transaction ids, timelines and log positions stand for other
 * rows: a gate goes on from an anchor that both histories share, or loads everything, and in both cases holds the table.
 */
import type pg from 'pg'
import t, { type Test } from 'tap'
import { FaultyCluster } from '../harness/faulty-cluster.ts'
import { compare, type Followed, follow } from '../harness/follower.ts'
import { PostgresProxy } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'

t.setTimeout(280_000)
const faulty = await FaultyCluster.start()
t.teardown(() => faulty.close())

/** A feed behind a proxy that leads to the server in service. */
async function followed(
  t: Test,
  options?: Parameters<typeof follow>[1],
): Promise<{ gate: Followed; proxy: PostgresProxy }> {
  const proxy = new PostgresProxy()
  const url = await proxy.open(faulty.cluster.url)
  faulty.proxies.push(proxy)
  const gate = await follow(url, options)
  t.teardown(async () => {
    await gate.feed.close()
    proxy.close()
  })
  return { gate, proxy }
}

async function revoke(subject: string, rows = 1): Promise<void> {
  await faulty.server.ask(
    `INSERT INTO dropgate.revocations (subject) SELECT '${subject}' FROM generate_series(1, ${rows})`,
  )
}

/** Until the gate has an anchor that covers all it holds. */
async function settled(gate: Followed): Promise<void> {
  const before = gate.feed.status().ticks
  await until('ticks', () => gate.feed.status().ticks > before + 1)
  await until('an anchor of its own', () => gate.feed.wantedAnchor() === undefined)
}

async function cutOff(proxy: PostgresProxy): Promise<void> {
  proxy.refusing = true
  proxy.cut()
}

async function isEqual(t: Test, { gate, proxy }: { gate: Followed; proxy: PostgresProxy }) {
  const before = gate.feed.status().ticks
  proxy.refusing = false
  await until('following', () => {
    const { state, ticks } = gate.feed.status()
    return state === 'following' && ticks > before + 1
  })
  const client: pg.Client = await faulty.server.connect('url')
  t.same(await compare(gate, client), [])
  await client.end()
}

async function timeline(): Promise<unknown> {
  const [row] = await faulty.server.ask(
    'SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline',
  )
  return row!.timeline
}

t.test('a promotion that lost nothing costs a tick and no load', async (t) => {
  const { gate, proxy } = await followed(t)
  await revoke('kept', 20)
  await settled(gate)
  const { loads } = gate.feed.status()
  const standby = await faulty.standby(await faulty.coldCopy(), 'streams')
  await revoke('streamed', 20)
  await settled(gate)
  await cutOff(proxy)
  await faulty.promote(standby, 'in order')
  await revoke('after', 20)
  await isEqual(t, { gate, proxy })
  t.equal(gate.feed.status().loads, loads)
})

t.test('two promotions to the same timeline number hide no row', async (t) => {
  const { gate, proxy } = await followed(t)
  await settled(gate)
  const copy = await faulty.coldCopy()
  const first = await faulty.standby(faulty.copyOf(copy), 'lags')
  const second = await faulty.standby(copy, 'lags')
  await cutOff(proxy)
  await faulty.promote(first)
  await revoke('on the first', 30)
  await isEqual(t, { gate, proxy })
  await settled(gate)
  const seen = await faulty.position()
  const before = await timeline()
  await cutOff(proxy)
  await faulty.promote(second)
  await revoke('on the second', 30)
  await faulty.outrun(seen)
  t.equal(await timeline(), before, 'the same number')
  await isEqual(t, { gate, proxy })
})

t.test('a cold copy of a whole cluster that is put back and outruns the gate', async (t) => {
  const { gate, proxy } = await followed(t)
  await settled(gate)
  const copy = await faulty.coldCopy()
  await settled(gate)
  await revoke('lost', 30)
  await faulty.server.ask("DELETE FROM dropgate.revocations WHERE subject = 'kept'")
  await settled(gate)
  const seen = await faulty.position()
  await cutOff(proxy)
  await faulty.putBack(copy)
  await revoke('other', 30)
  await faulty.outrun(seen)
  await isEqual(t, { gate, proxy })
})

t.test('a second session that leads to another server is not believed', async (t) => {
  const { gate, proxy } = await followed(t)
  await settled(gate)
  const former = faulty.server
  const copy = await faulty.coldCopy()
  await settled(gate)
  const stranger = faulty.serverOn(copy)
  await stranger.start()
  const { bulks, loads } = gate.feed.status()
  proxy.lead(former.installation.urlOf('url', stranger.port))
  // More than a tick may carry: it is read on a second session, which the proxy leads to the copy.
  await revoke('many', 10_500)
  await until('refused', () => gate.problems.some((text) => /different servers/.test(text)))
  t.equal(gate.feed.status().bulks, bulks)
  proxy.lead(faulty.cluster.url)
  proxy.cut()
  await isEqual(t, { gate, proxy })
  t.equal(gate.feed.status().loads, loads, 'nothing was loaded')
  await stranger.remove()
})

t.test('a comparison on another server is not believed', async (t) => {
  const { gate, proxy } = await followed(t, { verifyMs: 200 })
  await until('compared', () => gate.feed.status().comparisons > 0)
  const copy = await faulty.coldCopy()
  await settled(gate)
  const stranger = faulty.serverOn(copy)
  await stranger.start()
  await stranger.ask('DELETE FROM dropgate.revocations')
  const { loads } = gate.feed.status()
  proxy.lead(faulty.server.installation.urlOf('url', stranger.port))
  const { comparisons } = gate.feed.status()
  const before = gate.problems.length
  await until('not compared', () => gate.problems.length > before)
  t.match(gate.problems.slice(before), [/could not be compared/])
  t.equal(gate.feed.status().loads, loads)
  t.ok(gate.feed.status().comparisons >= comparisons)
  t.equal(gate.feed.status().differences, 0)
  proxy.lead(faulty.cluster.url)
  await isEqual(t, { gate, proxy })
  await stranger.remove()
})
