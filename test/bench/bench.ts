/**
 * `make bench`: CPU µs per authorised request of the gate and of its peers in one run, and the revocation time.
 * Everything but the load runs in processes of its own; only the gate's (or the peer's) CPU is counted.
 */
import { availableParallelism } from 'node:os'
import { compile } from '../harness/bundle.ts'
import { startPostgres } from '../harness/postgres.ts'
import { regoOfGate, requestOf, roles, tokenOf } from './caller.ts'
import { measureEvaluations } from './evaluation.ts'
import { cpuS, machine } from './machine.ts'
import { Parts, type RunningGate } from './parts.ts'
import { askingProxy, decoding, nginxVersion, type Peer, plainProxy, verifying } from './peers.ts'
import { measureRevocations } from './revocation.ts'

const seconds = Number(process.env.SECONDS ?? 10)
const rounds = Number(process.env.ROUNDS ?? 3)
const tokenCount = Number(process.env.TOKENS ?? 10_000)
const rows = Number(process.env.ROWS ?? 1_000_000)
const revocations = Number(process.env.REVOCATIONS ?? 2000)
const connections = 32

const parts = await new Parts().open()
const { folder, origin, upstream } = parts
const say = (text: string): void => void process.stdout.write(`${text}\n`)

// --- One measurement -------------------------------------------------------------------------------------------
/** µs of CPU per request, one for each round. */
const costs = new Map<string, number[]>()

async function measure(
  name: string,
  port: number,
  requests: readonly string[],
  pids: readonly number[],
  warmS: number,
): Promise<{ readonly rate: number }> {
  await parts.apply({ port, requests, connections, seconds: warmS })
  const before = cpuS(pids)
  const done = await parts.apply({ port, requests, connections, seconds })
  const used = cpuS(pids) - before
  if (done.failed > 0 || done.answered === 0)
    throw new Error(`${name}: ${done.failed} of ${done.answered + done.failed} failed`)
  const cpuUs = (used / done.answered) * 1e6
  costs.set(name, [...(costs.get(name) ?? []), cpuUs])
  say(`  ${name}: ${cpuUs.toFixed(1)} µs`)
  return { rate: done.answered / done.seconds }
}

async function peer(name: string, made: Promise<Peer>, requests: readonly string[]): Promise<void> {
  const { port, children: processes } = await made
  parts.children.push(...processes)
  await measure(
    name,
    port,
    requests,
    processes.map(({ pid }) => pid!),
    2,
  )
  await parts.stop(...processes)
}

const at = (values: readonly number[], share: number): number =>
  values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN

/** The revocation time of the gate that has just been measured, at half of what it can take. */
async function revoke(
  gate: { readonly port: number; readonly decisions: string; readonly rate: number },
  requests: readonly string[],
): Promise<void> {
  const { port, decisions, rate } = gate
  const sampled = Array.from({ length: revocations }, (_, n) => ({
    subject: `sampled-${n}`,
    token: tokenOf(`sampled-${n}`, n),
  }))
  const revoker = await cluster.client('cli_url')
  let measuring = true
  const background = (async () => {
    while (measuring) await parts.apply({ port, requests, connections, seconds: 2, rate: rate / 2 })
  })()
  const { times, intervals, stalls } = await measureRevocations({
    port,
    workers: availableParallelism(),
    decisions,
    revoker,
    tokens: sampled,
  }).finally(() => {
    measuring = false
    return background
  })
  const ms = (values: readonly number[], share: number): string =>
    `${at(values, share).toFixed(2)} ms`
  say(
    `\nRevocation time, ${times.length} revocations at ${Math.round(rate / 2)} requests/s with ${rows} rows:`,
  )
  say(`  p50 ${ms(times, 0.5)}, p99 ${ms(times, 0.99)}, longest ${ms(times, 1)}`)
  say(
    `  each worker was asked every ${ms(intervals, 0.5)} (p99 ${ms(intervals, 0.99)}); an idle timer here was late by ${ms(stalls, 0.99)} at p99`,
  )
}

// --- The run ---------------------------------------------------------------------------------------------------
const cluster = await startPostgres()
try {
  say(
    `${machine()}; ${connections} connections, ${rounds} rounds of ${seconds} s each, ${tokenCount} tokens, ${rows} revocations`,
  )
  say(`\n${await measureEvaluations()}\n`)
  const tokens = Array.from({ length: tokenCount }, (_, n) => tokenOf(`user-${n}`, n))
  const withTokens = tokens.map((each) => requestOf(each))

  const owner = await cluster.client('migrate_url')
  await owner.query(
    "INSERT INTO dropgate.revocations (subject, reason) SELECT 'left-' || n, 'bench' FROM generate_series(1, $1::int) n",
    [rows],
  )
  await owner.query('VACUUM ANALYZE dropgate.revocations')

  const open = async (): Promise<void> => {
    const { port, child } = await parts.gate(
      'open',
      compile('default decision := false\n\ndecision if input.attributes.request.http.method'),
      {
        routes: [{ name: 'orders', auth: 'none', upstream: origin }],
        database: { url: cluster.url },
      },
    )
    await measure('dropgate, auth: none, allow-all', port, [requestOf()], [child.pid!], 3)
    await parts.stop(child)
  }
  const mine = 'dropgate, full check'
  const full = async (): Promise<RunningGate & { rate: number }> => {
    const started = await parts.gate('full', compile(regoOfGate, undefined, { roles }), {
      routes: [{ name: 'orders', upstream: origin }],
      database: { url: cluster.url },
    })
    // Until every worker has verified every token.
    const warmS = Math.max(5, tokenCount / 600)
    const { rate } = await measure(mine, started.port, withTokens, [started.child.pid!], warmS)
    return { ...started, rate }
  }
  const nginx = nginxVersion()
  if (nginx === undefined) say('  nginx is not here: no peers in this run')
  const peers = async (): Promise<void> => {
    await peer(`nginx ${nginx}, plain proxy`, plainProxy(folder, upstream), withTokens)
    await peer(
      'nginx auth_request → opa server, token decoded',
      askingProxy(folder, upstream, decoding),
      withTokens,
    )
    await peer(
      'nginx auth_request → opa server, token verified',
      askingProxy(folder, upstream, verifying),
      withTokens,
    )
  }

  // In turns: whatever else the machine does meets all of them.
  for (let round = 1; ; round++) {
    say(`round ${round} of ${rounds}`)
    if (nginx !== undefined) await peers()
    await open()
    const started = await full()
    if (round === rounds) {
      await revoke(started, withTokens)
      await parts.stop(started.child)
      break
    }
    await parts.stop(started.child)
  }

  const best = (name: string): number => Math.min(...costs.get(name)!)
  say(`\nCPU µs per request, the least and the median of ${rounds} rounds:`)
  say('| | least | median | least, against the full check |\n| --- | ---: | ---: | ---: |')
  for (const [name, all] of costs) {
    const median = at(
      all.toSorted((a, b) => a - b),
      0.5,
    )
    say(
      `| ${name} | ${best(name).toFixed(1)} | ${median.toFixed(1)} | ${(best(name) / best(mine)).toFixed(2)} × |`,
    )
  }
} finally {
  parts.close()
  await cluster.close()
}
process.exit()
