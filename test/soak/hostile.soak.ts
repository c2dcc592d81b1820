/**
 * 100,000 hostile bodies through a whole gate: only the good one reaches the upstream, every worker goes on answering
 * rightly, none is replaced, and the memory stays where it was after the first fifth.
 */
import { Agent } from 'node:http'
import { compile } from '../harness/bundle.ts'
import { Chance } from '../harness/compared.ts'
import { TestGate } from '../harness/gate.ts'
import { hostileBody, hostilePolicy } from '../harness/hostile.ts'
import { until } from '../harness/wait.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const requests = Number(process.env.REQUESTS ?? 100_000)
const connections = 16
/** Growth beyond the first fifth that is still taken for the collector's leisure. */
const maxGrowthBytes = 96 << 20

const gate = await TestGate.start({ bundle: null, ready: false })
gate.put(compile(hostilePolicy))
await until('ready', () => gate.gate.readiness().ready)
const token = await gate.issuer.token('alice', {
  claims: { exp: Math.floor(Date.now() / 1000) + 7200 },
})
const headers = { 'content-type': 'application/json' }
const chance = new Chance(seed)
const statuses = new Map<number, number>()
const wrong: string[] = []
let asked = 0
let baseBytes = 0

process.stdout.write(`seed ${seed}, ${requests} requests on ${connections} connections\n`)
await Promise.all(
  Array.from({ length: connections }, async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (asked < requests) {
      asked++
      if (asked === requests / 5) baseBytes = process.memoryUsage().rss
      const { text, good } = hostileBody(chance)
      const { status } = await gate.ask('/orders', token, {
        method: 'POST',
        headers,
        body: text,
        agent,
      })
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      if ((status === 200) !== good) wrong.push(`${status} ${text.slice(0, 300)}`)
      gate.upstream.seen.length = 0
    }
    agent.destroy()
  }),
)
const grownBytes = process.memoryUsage().rss - baseBytes
const { workers } = gate.gate.status() as { workers: readonly { readonly restarts: number }[] }
const restarts = workers.reduce((sum, worker) => sum + worker.restarts, 0)
process.stdout.write(
  `${asked} asked: ${[...statuses]
    .sort()
    .map(([status, count]) => `${status} × ${count}`)
    .join(
      ', ',
    )}; ${wrong.length} wrong; ${restarts} workers replaced; memory ${Math.round(baseBytes / 2 ** 20)} MiB and ${Math.round(grownBytes / 2 ** 20)} MiB\n`,
)
for (const line of wrong.slice(0, 5)) process.stdout.write(`${line}\n`)
await gate.stop()
process.exit(wrong.length > 0 || restarts > 0 || grownBytes > maxGrowthBytes ? 1 : 0)
