/**
 * Large data beside `opa run`: loading, memory, the longest stop of a worker during an activation, and the cost of a change.
 * `node test/bench/data.ts [MB]` prints one table; 20 by default. Times of a stop are CPU times of the thread, so that
 * other work of the machine does not count.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ownCpuMs } from '../../src/domain/thread-cpu.ts'
import { isImage } from '../../src/policy/data-image.ts'
import { PolicyEngine } from '../../src/policy/engine.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { parsePatch } from '../../src/policy/patch.ts'
import { compile } from '../harness/bundle.ts'
import { EveryWorker, TestGate } from '../harness/gate.ts'
import { OpaServer } from '../harness/opa-server.ts'
import { packageOf } from '../harness/policy.ts'
import { until } from '../harness/wait.ts'

const megabytes = Number(process.argv[2] ?? 20)
const maxMemoryBytes = 4e9
const changes = 1000

/** Users as a directory has them, 152 bytes each. */
function usersOf(bytes: number): string {
  const users: string[] = []
  for (let i = 0, length = 0; length < bytes; i++) {
    const user = `"user-${i}@example.com":{"name":"User Number ${i}","roles":["reader","${i % 3 ? 'writer' : 'owner'}"],"department":"d${i % 50}","level":${i % 7},"id":${i},"active":${i % 2 === 0}}`
    users.push(user)
    length += user.length + 1
  }
  return `{"users":{${users.join(',')}}}`
}

function at(sorted: readonly number[], share: number): string {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!.toFixed(2)
}

const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(0)

/** Turns the event loop until `done`, and returns the longest turn in ms of this thread's CPU. */
async function longestTurn(done: () => boolean): Promise<number> {
  let longest = 0
  let last = ownCpuMs()
  while (!done()) {
    await new Promise((resolve) => setImmediate(resolve))
    const now = ownCpuMs()
    longest = Math.max(longest, now - last)
    last = now
  }
  return longest
}

function operation(i: number): { op: string; path: string; value: unknown } {
  const value = { name: `Changed ${i}`, roles: ['reader'], id: i, active: true }
  return { op: 'add', path: `/users/${i % 2 === 0 ? `user-${i}@example.com` : `new-${i}`}`, value }
}

async function ours(text: string): Promise<void> {
  const policy = await packageOf(
    compile('default decision := false\ndecision if data.users[input.who].active', [
      'gate/authz/decision',
    ]),
  )
  let cpu = ownCpuMs()
  const first = new PolicyInstance({ ...policy, data: Buffer.from(text), maxMemoryBytes })
  const loadMs = ownCpuMs() - cpu
  const data = first.image()
  const engine = new PolicyEngine({ maxMemoryBytes, evaluationMs: 1000 })
  await engine.activate({ ...policy, generation: 1, data })
  let active = false
  cpu = ownCpuMs()
  const swap = engine.activate({ ...policy, generation: 2, data }).then(() => {
    active = true
  })
  const stopMs = await longestTurn(() => active)
  const swapMs = ownCpuMs() - cpu
  await swap
  const endMs = performance.now() + 1000
  const idleMs = await longestTurn(() => performance.now() > endMs)
  const times: number[] = []
  const changing = ownCpuMs()
  for (let i = 0; i < changes; i++) {
    const operations = parsePatch(JSON.stringify([operation(i)]), 'json-patch')
    cpu = ownCpuMs()
    engine.patch(2, { number: i + 1, operations })
    times.push(ownCpuMs() - cpu)
  }
  const eachMs = (ownCpuMs() - changing) / changes
  times.sort((a, b) => a - b)
  const bytes = isImage(data) ? data.bytes.length : 0
  console.log(`| load, once per activation | ${loadMs.toFixed(0)} ms of CPU |`)
  console.log(
    `| memory of each worker | ${mib(first.memoryBytes)} MiB (${(bytes / text.length).toFixed(1)} × the JSON) |`,
  )
  console.log(
    `| activation in a worker | ${swapMs.toFixed(0)} ms of CPU, the longest stop ${stopMs.toFixed(1)} ms (idle: ${idleMs.toFixed(1)} ms) |`,
  )
  console.log(
    `| a change in a worker | ${eachMs.toFixed(2)} ms of CPU on average, p99 ${at(times, 0.99)} ms |`,
  )
}

/** CPU of another process in ms. */
function cpuOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10
}

async function opa(text: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-bench-'))
  const file = join(folder, 'data.json')
  writeFileSync(file, text)
  const server = await OpaServer.start([file])
  try {
    const loadMs = cpuOf(server.pid)
    const rss = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, 'utf8'))![1]
    const times: number[] = []
    const before = cpuOf(server.pid)
    for (let i = 0; i < changes; i++) {
      const beganMs = performance.now()
      if (!(await server.patch('/v1/data', [operation(i)]))) throw new Error('opa refused a change')
      times.push(performance.now() - beganMs)
    }
    times.sort((a, b) => a - b)
    const eachMs = (cpuOf(server.pid) - before) / changes
    console.log(
      `| \`opa run\`: load, memory | ${loadMs} ms of CPU, ${mib(Number(rss) * 1024)} MiB |`,
    )
    console.log(
      `| \`opa run\`: a change | p50 ${at(times, 0.5)} ms, p99 ${at(times, 0.99)} ms over HTTP; ${eachMs.toFixed(2)} ms of CPU on average |`,
    )
  } finally {
    await server.stop()
    rmSync(folder, { recursive: true })
  }
}

/** A whole gate: changes come at a fixed rate, whether those before are made or not, beside requests. */
async function throughGate(text: string): Promise<void> {
  const rate = 100
  const seconds = 10
  const gate = await TestGate.start({
    bundle: null,
    ready: false,
    config: {
      policy: { max_memory: '4GiB', max_bundle: '1GiB', max_unpacked: '1GiB' },
      limits: { max_lag: '60s' },
    },
  })
  const clients = new EveryWorker()
  try {
    const rego = 'default decision := false\ndecision if data.users[input.principal.subject].active'
    gate.put(compile(rego, undefined, JSON.parse(text) as object))
    await until('ready', () => gate.gate.readiness().ready, 120_000)
    const token = await gate.issuer.token('user-0@example.com')
    let asked = 0
    let failed = 0
    let running = true
    const requests = (async () => {
      while (running) {
        for (const { status } of await clients.ask(gate, '/orders', token)) {
          asked++
          if (status !== 200) failed++
        }
      }
    })()
    const times: number[] = []
    const made: Promise<void>[] = []
    const beganMs = performance.now()
    for (let i = 0; i < rate * seconds; i++) {
      const waitMs = beganMs + (i * 1000) / rate - performance.now()
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs))
      const change = JSON.stringify([operation(2 * i + 2)])
      const startMs = performance.now()
      made.push(
        gate.gate.changeData(change, 'json-patch').then(() => {
          times.push(performance.now() - startMs)
        }),
      )
    }
    await Promise.all(made)
    const tookS = (performance.now() - beganMs) / 1000
    running = false
    await requests
    times.sort((a, b) => a - b)
    console.log(
      `| ${rate} changes a second through a gate, beside requests | ${(times.length / tookS).toFixed(0)} a second; on every worker after p50 ${at(times, 0.5)} ms, p99 ${at(times, 0.99)} ms; ${failed} of ${asked} requests failed |`,
    )
  } finally {
    clients.close()
    await gate.stop()
  }
}

const text = usersOf(megabytes * 1e6)
console.log(`| ${(text.length / 1e6).toFixed(0)} MB of JSON | |\n| --- | --- |`)
await ours(text)
await opa(text)
await throughGate(text)
process.exit(0)
