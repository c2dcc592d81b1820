/**
 * CPU µs of one decision by the policy alone: our engine, the stock SDK on the same module and input in turns, and an
 * `opa` server asked over a kept-alive connection. `node test/bench/evaluation.ts` runs it without the rest.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as opaWasm from '@open-policy-agent/opa-wasm'
import { readArchive } from '../../src/bundle/archive.ts'
import { findOpa } from '../../src/bundle/opa.ts'
import { ActivePolicy } from '../../src/policy/engine.ts'
import { buildInput, type InputParts, InputPlan } from '../../src/policy/input.ts'
import { readsEverything } from '../../src/policy/input-usage.ts'
import { compile } from '../harness/bundle.ts'
import { packageOf } from '../harness/policy.ts'
import { until } from '../harness/wait.ts'
import { cpuS, freePort, machine } from './machine.ts'

const decision = 'gate/authz/decision'

const roles = Object.fromEntries(
  Array.from({ length: 200 }, (_, i) => [
    `role-${i}`,
    [
      { path: ['orders'], methods: ['GET'] },
      { path: ['things', `${i}`], methods: ['GET', 'POST'] },
    ],
  ]),
)
const byRole = `package gate.authz

default decision := false

decision if {
	some role in input.principal.claims.roles
	some grant in data.roles[role]
	input.attributes.request.http.method in grant.methods
	array.slice(input.parsed_path, 0, count(grant.path)) == grant.path
}
`
const byPattern = `package gate.authz

default decision := false

decision if {
	input.principal.claims.roles
	regex.match(\`^/(?:orders|things)/[0-9]+(?:/[a-z-]{1,40})?$\`, input.attributes.request.http.path)
}
`

/** @param padding Bytes of a header that makes the input as large as wanted. */
function partsOf(padding: number): InputParts {
  const claims = { roles: ['role-7', 'role-49'] }
  return {
    requestId: '1', method: 'GET', path: '/orders/7', host: 'b', scheme: 'http',
    protocol: '', headers: padding === 0 ? [] : ['x-padding', 'p'.repeat(padding)], size: -1, bodyWithheld: false,
    sourceAddress: '1', sourcePort: 1, destinationAddress: '2', destinationPort: 2, parsedPath: ['orders', '7'], query: null,
    routeJson: '{}', labelsJson: '{}', principal: { json: JSON.stringify({ claims }) },
  } // biome-ignore format: a table
}
const state = {
  timeRfc3339: '2026-01-01T00:00:00.000Z',
  body: undefined,
  feedStale: false,
  feedAgeMs: 1,
}
const whole = new InputPlan(readsEverything.input)

/** CPU µs of a call, the best of `blocks` blocks. */
class Stopwatch {
  best = Number.POSITIVE_INFINITY

  block(calls: number, call: () => void): void {
    const before = process.cpuUsage()
    for (let i = 0; i < calls; i++) call()
    const { user, system } = process.cpuUsage(before)
    this.best = Math.min(this.best, (user + system) / calls)
  }
}

export interface Row {
  readonly name: string
  readonly stockUs: number
  /** On the same text as the SDK's. */
  readonly ourUs: number
  /** As in the gate: building what the policy reads, then deciding. */
  readonly gateUs: number
}

async function compare(name: string, rego: string, data: object, padding: number): Promise<Row> {
  const bundle = compile(rego, [decision], data)
  const policy = new ActivePolicy(await packageOf(bundle), 256 << 20)
  const stock = await opaWasm.loadPolicy(
    (await readArchive(bundle, { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 })).wasm,
  )
  stock.setData(data)
  const parts = partsOf(padding)
  const { text } = buildInput(parts, state, whole)
  const input = JSON.parse(text) as object
  const asStock = (): void => {
    if (stock.evaluate(input, decision)[0]?.result !== true) throw new Error('the SDK denies')
  }
  const asOurs = (): void => {
    if (!policy.decide(decision, text).allowed) throw new Error('the engine denies')
  }
  const asGate = (): void => {
    const built = buildInput(parts, state, policy.planOf(decision))
    if (!policy.decide(decision, built.text).allowed) throw new Error('the engine denies')
  }
  const watches = [asStock, asOurs, asGate].map((call) => ({ call, watch: new Stopwatch() }))
  // In turns: what else the machine does meets all three alike. The first rounds are for the compilers.
  for (let round = 0; round < 24; round++) {
    for (const { call, watch } of watches) {
      const warming = round < 4 ? new Stopwatch() : watch
      warming.block(1500, call)
    }
  }
  const [stockUs, ourUs, gateUs] = watches.map(({ watch }) => watch.best) as [
    number,
    number,
    number,
  ]
  return { name: `${name}, input ${(text.length / 1000).toFixed(2)} kB`, stockUs, ourUs, gateUs }
}

/** CPU µs of an `opa` server per decision. */
async function opaServer(rego: string, data: object, padding: number): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-opa-'))
  writeFileSync(join(folder, 'policy.rego'), rego)
  writeFileSync(join(folder, 'data.json'), JSON.stringify(data))
  const port = await freePort()
  const opa = spawn(
    findOpa(process.cwd()),
    ['run', '--server', '--log-level=error', `--addr=127.0.0.1:${port}`, '--bundle', folder],
    { stdio: 'ignore' },
  )
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const body = `{"input":${buildInput(partsOf(padding), state, whole).text}}`
  const ask = (): Promise<string> =>
    new Promise((resolve, reject) => {
      const req = request({ port, host: '127.0.0.1', agent, method: 'POST', path: `/v1/data/${decision}`, headers: { 'content-type': 'application/json' } }, (res) => {
        let answer = ''
        res.on('data', (data) => (answer += data)).on('end', () => resolve(answer))
      }) // biome-ignore format: one call
      req.on('error', reject).end(body)
    })
  try {
    await until(
      'opa serves',
      () =>
        ask().then(
          (answer) => answer.includes('true'),
          () => false,
        ),
      20_000,
    )
    for (let i = 0; i < 2000; i++) await ask()
    const before = cpuS([opa.pid!])
    for (let i = 0; i < 5000; i++) await ask()
    return ((cpuS([opa.pid!]) - before) / 5000) * 1e6
  } finally {
    agent.destroy()
    opa.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  }
}

export async function measureEvaluations(): Promise<string> {
  const rows = [
    await compare('200 roles', byRole, { roles }, 0),
    await compare('200 roles', byRole, { roles }, 1720),
    await compare('`regex.match`', byPattern, {}, 0),
  ]
  const served = await opaServer(byRole, { roles }, 0)
  const lines = rows.map(
    ({ name, stockUs, ourUs, gateUs }) =>
      `| ${name} | ${stockUs.toFixed(1)} | ${ourUs.toFixed(1)} (${(ourUs / stockUs).toFixed(2)} ×) | ${gateUs.toFixed(1)} (${(gateUs / stockUs).toFixed(2)} ×) |`,
  )
  return [
    '| CPU µs per decision | stock SDK | our engine, same input | built and decided as in the gate |',
    '| --- | ---: | ---: | ---: |',
    ...lines,
    `| an \`opa\` server, asked for the first | ${served.toFixed(0)} | | |`,
  ].join('\n')
}

if (import.meta.main) {
  process.stdout.write(`${machine()}\n${await measureEvaluations()}\n`)
}
