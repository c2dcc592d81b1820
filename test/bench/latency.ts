/**
 * The latency that a caller feels: requests sent at a steady rate whatever has been answered, straight to the upstream,
 * through nginx and through the gate, in turns. ms from the writing of a request to the last byte of its answer.
 *
 * Then the same through the gate while another client brings 1,000 tokens a second that the gate has never seen.
 *
 *   RATE=800 SECONDS=10 ROUNDS=3 node test/bench/latency.ts
 */
import { compile } from '../harness/bundle.ts'
import { startPostgres } from '../harness/postgres.ts'
import { regoOfGate, requestOf, roles, tokenOf } from './caller.ts'
import { cpuS, machine } from './machine.ts'
import { Parts } from './parts.ts'
import { nginxVersion, plainProxy } from './peers.ts'

const rate = Number(process.env.RATE ?? 800)
const seconds = Number(process.env.SECONDS ?? 10)
const rounds = Number(process.env.ROUNDS ?? 3)
const newPerS = 1000
const say = (text: string): void => void process.stdout.write(`${text}\n`)
const parts = await new Parts().open()
const cluster = await startPostgres()

interface Way {
  readonly name: string
  readonly port: number
  readonly pids: readonly number[]
}

/** So many tokens a second that were never seen, for as long as one measurement takes. */
function newTokens(port: number, round: number) {
  const requests = Array.from({ length: newPerS * (seconds + 4) }, (_, n) =>
    requestOf(tokenOf(`new-${n}`, round * 1e6 + n)),
  )
  return parts.applyBeside({ port, requests, connections: 32, rate: newPerS, seconds: seconds + 3 })
}

async function measure({ name, port, pids }: Way): Promise<string> {
  const requests = tokens.map((token) => requestOf(token))
  await parts.apply({ port, requests, connections: 32, rate, seconds: 3 })
  const before = cpuS(pids)
  const { times, failed, answered } = await parts.apply({
    ...{ port, requests, connections: 32, rate, seconds },
  })
  if (failed > 0) throw new Error(`${name}: ${failed} failed`)
  const cpu = ((cpuS(pids) - before) / answered) * 1e6
  const sorted = times!.toSorted((a, b) => a - b)
  const at = (share: number): string => sorted[Math.floor(sorted.length * share)]!.toFixed(3)
  return `| ${name} | ${at(0.5)} | ${at(0.9)} | ${at(0.99)} | ${cpu.toFixed(0)} |`
}

const tokens = Array.from({ length: 100 }, (_, n) => tokenOf(`user-${n}`, n))
try {
  const gate = await parts.gate('latency', compile(regoOfGate, undefined, { roles }), {
    routes: [{ name: 'orders', upstream: parts.origin }],
    database: { url: cluster.url },
  })
  const ways: Way[] = [
    { name: 'direct', port: parts.upstream, pids: [] },
    { name: 'dropgate, full check', port: gate.port, pids: [gate.child.pid!] },
  ]
  if (nginxVersion() !== undefined) {
    const { port, children } = await plainProxy(parts.folder, parts.upstream)
    parts.children.push(...children)
    ways.splice(1, 0, { name: 'nginx, plain proxy', port, pids: children.map(({ pid }) => pid!) })
  }
  // Compiles what is hot: the rate alone would take minutes.
  await parts.apply({
    port: gate.port,
    requests: tokens.map((one) => requestOf(one)),
    connections: 32,
    seconds: 5,
  })
  say(`${machine()}; ${rate} requests/s, ${rounds} rounds of ${seconds} s each`)
  say('\n| | p50, ms | p90 | p99 | CPU µs per request |\n| --- | ---: | ---: | ---: | ---: |')
  const mine = ways.at(-1)!
  for (let round = 0; round < rounds; round++) {
    for (const way of ways) say(await measure(way))
    const flood = newTokens(mine.port, round)
    say(await measure({ ...mine, name: `dropgate beside ${newPerS} new tokens/s`, pids: [] }))
    const { failed } = await flood
    if (failed > 0) say(`  ${failed} of the new tokens were answered with an error`)
  }
} finally {
  parts.close()
  await cluster.close()
}
process.exit()
