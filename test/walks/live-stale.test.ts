/** A feed that cannot be proved fresh ends what is open: on strict routes after `cut_after`, on others at the hard stop. */
import t from 'tap'
import { TestGate } from '../harness/gate.ts'
import { PostgresProxy } from '../harness/postgres.ts'
import { kinds, OpenStream, StreamUpstream } from '../harness/streams.ts'
import { until } from '../harness/wait.ts'

const upstream = new StreamUpstream()
await upstream.open()
const proxy = new PostgresProxy()
const gate = await TestGate.start({
  databaseUrl: (url) => proxy.open(url),
  config: {
    workers: 1,
    limits: { max_lag: '60s' },
    revocation: { max_staleness: '2s', cut_after: '4s', hard_stop: '7s', tick: '200ms' },
  },
  routes: [
    { name: 'orders', path: '/orders', upstream: upstream.origin },
    { name: 'lenient', path: '/orders/lenient', upstream: upstream.origin, stale: 'allow' },
  ],
})
t.teardown(async () => {
  await gate.stop()
  upstream.close()
  proxy.close()
})

t.test('strict routes cut after `cut_after`, tolerant ones at the hard stop', async (t) => {
  const token = await gate.issuer.token('stale', { claims: { roles: ['manager'] } })
  const held = kinds.map((kind) => new OpenStream(kind, `stale-${kind}`, gate.port, token))
  const lenient = new OpenStream('chunks', 'lenient', gate.port, token, { path: '/orders/lenient' })
  await until('all are under way', () => [...held, lenient].every((each) => each.under(upstream)))
  const from = performance.now()
  proxy.refusing = true
  proxy.cut()
  await until('cut', () => held.every(({ ended }) => ended !== undefined), 20_000)
  t.equal(lenient.ended, undefined, 'a tolerant route goes on')
  for (const { kind, name, ended, endedAtMs } of held) {
    t.equal(ended, kind === 'websocket' ? 1013 : 'cut', name)
    t.ok(endedAtMs - from > 3000, `${name} after ${Math.round(endedAtMs - from)} ms`)
    await until(`${name} ends there`, () => upstream.served.get(name)!.ended !== undefined)
    t.equal(upstream.served.get(name)!.ended, kind === 'websocket' ? 1013 : 'abort', name)
  }
  await until(
    'recorded',
    () => gate.log.filter(({ custom }) => custom.ended === 'stale').length >= held.length,
  )
  await until('the hard stop', () => lenient.ended !== undefined, 20_000)
  proxy.refusing = false
  await until('ready again', () => gate.gate.readiness().ready, 20_000)
})
