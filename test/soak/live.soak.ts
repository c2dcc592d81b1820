/** 10,000 rows committed while streams, uploads and WebSockets begin: none is missed. `ROUNDS=… SEED=…` repeat a run. */
import { TestGate } from '../harness/gate.ts'
import { raceRows } from '../harness/race.ts'
import { StreamUpstream } from '../harness/streams.ts'
import { until } from '../harness/wait.ts'

const rounds = Number(process.env.ROUNDS ?? 10_000)
const upstream = new StreamUpstream()
await upstream.open()
const gate = await TestGate.start({
  config: { limits: { max_lag: '60s' } },
  routes: [{ name: 'orders', path: '/orders', upstream: upstream.origin, max_connections: 2000 }],
})
let failed = true
try {
  const { seed, refused, cut, escaped } = await raceRows(gate, upstream, rounds)
  for (const each of escaped.slice(0, 20)) process.stdout.write(`escaped: ${each}\n`)
  await until('nothing is left', () => gate.live === 0)
  process.stdout.write(
    `SEED=${seed}: of ${rounds} exchanges ${refused} were refused, ${cut} cut, ${escaped.length} escaped\n`,
  )
  failed = escaped.length > 0
} finally {
  await gate.stop()
  upstream.close()
}
process.exit(failed ? 1 : 0)
