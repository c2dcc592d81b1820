/**
 * What a request costs when many callers take turns: 100 to a million live tokens at default limits, by our own driver and
 * by wrk with 64 connections. First each token comes once, never seen before; then all are known.
 *
 *   COUNTS=100,10000,100000,1000000 SECONDS=10 node test/bench/rotating.ts
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { compile } from '../harness/bundle.ts'
import { startPostgres } from '../harness/postgres.ts'
import { regoOfGate, requestOf, roles, tokenOf } from './caller.ts'
import { cpuS, machine } from './machine.ts'
import { Parts } from './parts.ts'
import { askingProxy, nginxVersion, verifying } from './peers.ts'
import { runWrk, wrkScript, wrkVersion } from './wrk.ts'

const counts = (process.env.COUNTS ?? '100,10000,100000,1000000').split(',').map(Number)
const seconds = Number(process.env.SECONDS ?? 10)
const rounds = Number(process.env.ROUNDS ?? 2)
const say = (text: string): void => void process.stdout.write(`${text}\n`)
const wrk = wrkVersion()
const nginx = nginxVersion()
const parts = await new Parts().open()
const cluster = await startPostgres()

/** Resident memory of a process, in MB. */
const residentMb = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024

/** µs of CPU of these processes for each answer of a run. */
async function costOf(
  pids: readonly number[],
  run: () => Promise<{ readonly answered: number; readonly failed: number }>,
): Promise<number> {
  const before = cpuS(pids)
  const { answered, failed } = await run()
  if (failed > 0 || answered === 0) throw new Error(`${failed} of ${answered + failed} failed`)
  return ((cpuS(pids) - before) / answered) * 1e6
}

const tokens: string[] = []
/** A file with that many tokens, one a line, and the wrk script that goes through them. */
function filesOf(count: number): { script: string } {
  while (tokens.length < count) tokens.push(tokenOf(`user-${tokens.length}`, tokens.length))
  const file = join(parts.folder, `tokens-${count}`)
  writeFileSync(file, `${tokens.slice(0, count).join('\n')}\n`)
  const script = join(parts.folder, `${count}.lua`)
  wrkScript(script, file)
  return { script }
}

/** Every token once, in order, with as many under way as there are connections. */
async function askAll(port: number, count: number): Promise<{ answered: number; failed: number }> {
  let answered = 0
  let failed = 0
  // The load takes its requests over a channel: not all of a million at once.
  for (let from = 0; from < count; from += 50_000) {
    const requests = tokens.slice(from, Math.min(count, from + 50_000)).map((one) => requestOf(one))
    const done = await parts.apply({ port, requests, connections: 64, once: true })
    answered += done.answered
    failed += done.failed
  }
  return { answered, failed }
}

interface Row {
  readonly name: string
  readonly fresh: number
  readonly own: number
  readonly wrk: number | undefined
  readonly perToken: number
}

async function gateWith(count: number): Promise<Row> {
  const { script } = filesOf(count)
  const { port, child } = await parts.gate('rotating', compile(regoOfGate, undefined, { roles }), {
    routes: [{ name: 'orders', upstream: parts.origin }],
    database: { url: cluster.url },
  })
  const pids = [child.pid!]
  // Compiles what is hot, with tokens of their own.
  const others = Array.from({ length: 2000 }, (_, n) => requestOf(tokenOf(`other-${n}`, n)))
  await parts.apply({ port, requests: others, connections: 64, seconds: 5 })
  const empty = residentMb(child.pid!)
  const fresh = await costOf(pids, () => askAll(port, count))
  // By now one worker knows each; a second time round the other one meets it too. Of a million these are enough.
  const again = Math.min(count, 200_000)
  await askAll(port, again)
  const perToken = ((residentMb(child.pid!) - empty) * 2 ** 20) / count
  const known = tokens.slice(0, Math.min(count, 50_000)).map((one) => requestOf(one))
  const own =
    count > 50_000
      ? await costOf(pids, () => askAll(port, again))
      : await costOf(pids, () => parts.apply({ port, requests: known, connections: 64, seconds }))
  let byWrk: number | undefined
  if (wrk !== undefined) {
    await runWrk(script, port, { seconds: 2 })
    byWrk = await costOf(pids, () => runWrk(script, port, { seconds }))
  }
  await parts.stop(child)
  return { name: `${count} tokens`, fresh, own, wrk: byWrk, perToken }
}

async function asking(count: number): Promise<number> {
  const { script } = filesOf(count)
  const peer = await askingProxy(parts.folder, parts.upstream, verifying)
  parts.children.push(...peer.children)
  await runWrk(script, peer.port, { seconds: 3 })
  const pids = peer.children.map(({ pid }) => pid!)
  const cost = await costOf(pids, () => runWrk(script, peer.port, { seconds }))
  await parts.stop(...peer.children)
  return cost
}

try {
  say(`${machine()}; 64 connections, ${seconds} s, the best of ${rounds} rounds; default limits`)
  if (wrk === undefined) say('  wrk is not here: only our own driver in this run')
  const rows = new Map<string, Row>()
  let peer: number | undefined
  for (let round = 1; round <= rounds; round++) {
    for (const count of counts) {
      const row = await gateWith(count)
      say(
        `  ${row.name}: never seen ${row.fresh.toFixed(1)} µs, known ${row.own.toFixed(1)} µs, by wrk ${row.wrk?.toFixed(1) ?? '-'} µs`,
      )
      const before = rows.get(row.name)
      rows.set(row.name, {
        name: row.name,
        fresh: Math.min(row.fresh, before?.fresh ?? Infinity),
        own: Math.min(row.own, before?.own ?? Infinity),
        wrk: row.wrk === undefined ? undefined : Math.min(row.wrk, before?.wrk ?? Infinity),
        perToken: row.perToken,
      })
    }
    if (nginx !== undefined && wrk !== undefined) {
      const cost = await asking(10_000)
      say(
        `  nginx ${nginx} auth_request → opa server, token verified, 10000 tokens: ${cost.toFixed(1)} µs`,
      )
      peer = Math.min(cost, peer ?? Infinity)
    }
  }
  const least = rows.get(`${counts[0]} tokens`)!
  say('\n| live tokens | never seen | known | by wrk | against the fewest | bytes a token |')
  say('| --- | ---: | ---: | ---: | ---: | ---: |')
  for (const { name, fresh, own, wrk: byWrk, perToken } of rows.values()) {
    const ratio = (byWrk ?? own) / (least.wrk ?? least.own)
    say(
      `| ${name} | ${fresh.toFixed(1)} µs | ${own.toFixed(1)} µs | ${byWrk?.toFixed(1) ?? '-'} µs | ${ratio.toFixed(2)} × | ${Math.round(perToken)} |`,
    )
  }
  const mine = rows.get('10000 tokens')?.wrk
  if (peer !== undefined && mine !== undefined)
    say(
      `\nnginx ${nginx} auth_request → opa server, token verified: ${peer.toFixed(1)} µs; the gate costs ${(mine / peer).toFixed(3)} of it`,
    )
} finally {
  parts.close()
  await cluster.close()
}
process.exit()
