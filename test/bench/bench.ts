/**
 * `make bench`: CPU µs per authorised request of the gate and of its peers in one run, and the revocation time.
 * Everything but the load runs in processes of its own; only the gate's (or the peer's) CPU is counted.
 */
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { compile } from '../harness/bundle.ts'
import { startPostgres } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'
import { measureEvaluations } from './evaluation.ts'
import type { Done, Job } from './load.ts'
import { cpuS, freePort, machine } from './machine.ts'
import { askingProxy, nginxVersion, type Peer, plainProxy } from './peers.ts'
import { measureRevocations } from './revocation.ts'

const seconds = Number(process.env.SECONDS ?? 10)
const rounds = Number(process.env.ROUNDS ?? 3)
const tokenCount = Number(process.env.TOKENS ?? 10_000)
const rows = Number(process.env.ROWS ?? 1_000_000)
const revocations = Number(process.env.REVOCATIONS ?? 2000)
const connections = 32
const issuer = 'https://bench.example'

const folder = mkdtempSync(join(tmpdir(), 'dropgate-bench-'))
const children: ChildProcess[] = []
const say = (text: string): void => void process.stdout.write(`${text}\n`)

const file = (name: string): string => new URL(name, import.meta.url).pathname
const upstreamProcess = spawn(process.execPath, [file('./upstream.ts')], {
  stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
})
const load = fork(file('./load.ts'))
children.push(upstreamProcess, load)
const upstream = await new Promise<number>((resolve) =>
  upstreamProcess.stdout!.once('data', (data) => resolve(Number(data))),
)

function apply(job: Job): Promise<Done> {
  return new Promise((resolve) => {
    load.once('message', (done) => resolve(done as Done))
    load.send(job)
  })
}

// --- Who asks, and what they may -------------------------------------------------------------------------------
const { privateKey, publicKey } = await generateKeyPair('ES256')
const jwks = { keys: [{ ...(await exportJWK(publicKey)), kid: 'bench', alg: 'ES256', use: 'sig' }] }
const roles = Object.fromEntries(
  Array.from({ length: 200 }, (_, i) => [
    `role-${i}`,
    [
      { path: ['orders'], methods: ['GET'] },
      { path: ['things', `${i}`], methods: ['GET', 'POST'] },
    ],
  ]),
)

async function tokenOf(subject: string, n: number): Promise<string> {
  const claims = {
    roles: [`role-${n % 200}`, `role-${(n * 7) % 200}`],
    client_id: 'app',
    sid: `session-${n}`,
    scope: 'orders:read',
  }
  return await new SignJWT(claims)
    .setProtectedHeader({ alg: 'ES256', kid: 'bench', typ: 'at+jwt' })
    .setIssuer(issuer).setAudience('api').setSubject(subject).setJti(`token-${n}`).setIssuedAt().setExpirationTime('8h')
    .sign(privateKey) // biome-ignore format: one claim after another
}

const requestOf = (token?: string): string =>
  `GET /orders/7 HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n${token === undefined ? '' : `Authorization: Bearer ${token}\r\n`}\r\n`

const rego = `package gate.authz

default decision := false

decision := {"allowed": true, "reason": "role"} if allow

allow if {
	some role in claims.roles
	some grant in data.roles[role]
	input.attributes.request.http.method in grant.methods
	array.slice(path, 0, count(grant.path)) == grant.path
}
`
const ofGate = `${rego}\nclaims := input.principal.claims\n\npath := input.parsed_path\n`
const token = 'token := trim_prefix(input.attributes.request.http.headers.authorization, "Bearer ")'
const split = 'path := split(trim_prefix(input.attributes.request.http.path, "/"), "/")'
const decoding = `${rego}\nclaims := io.jwt.decode(token)[1]\n\n${token}\n\n${split}\n`
const verifying = `${rego}\nclaims := payload if {\n\t[valid, _, payload] := io.jwt.decode_verify(token, {"cert": data.jwks, "iss": "${issuer}", "aud": "api"})\n\tvalid\n}\n\n${token}\n\n${split}\n`

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
  await apply({ port, requests, connections, seconds: warmS })
  const before = cpuS(pids)
  const done = await apply({ port, requests, connections, seconds })
  const used = cpuS(pids) - before
  if (done.failed > 0 || done.answered === 0)
    throw new Error(`${name}: ${done.failed} of ${done.answered + done.failed} failed`)
  const cpuUs = (used / done.answered) * 1e6
  costs.set(name, [...(costs.get(name) ?? []), cpuUs])
  say(`  ${name}: ${cpuUs.toFixed(1)} µs`)
  return { rate: done.answered / done.seconds }
}

async function gate(
  name: string,
  bundle: Buffer,
  routes: object[],
  database: { url: string },
): Promise<{ port: number; child: ChildProcess; decisions: string }> {
  const home = mkdtempSync(join(folder, name))
  mkdirSync(join(home, 'bundles'))
  writeFileSync(join(home, 'bundles', 'gate.tar.gz'), bundle)
  writeFileSync(join(home, 'jwks.json'), JSON.stringify(jwks))
  const [port, adminPort] = [await freePort(), await freePort()]
  const decisions = join(home, 'decisions.jsonl')
  const config = {
    listen: { port },
    admin: { port: adminPort, token_file: 'token' },
    database,
    issuers: [{ issuer, audience: ['api'], algorithms: ['ES256'], jwks_file: 'jwks.json' }],
    policy: { bundles: './bundles' },
    decision_log: { file: decisions },
    limits: { token_cache: '128MiB' },
    routes,
  }
  writeFileSync(join(home, 'dropgate.yaml'), JSON.stringify(config))
  const child = spawn(
    process.execPath,
    ['src/main.ts', 'serve', '--config', join(home, 'dropgate.yaml')],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  children.push(child)
  let said = ''
  child.stderr!.on('data', (data) => {
    said += data
  })
  try {
    await until(
      'the gate is ready',
      async () =>
        (await fetch(`http://127.0.0.1:${adminPort}/readyz`).catch(() => undefined))?.status ===
        200,
      60_000,
    )
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${said}`)
  }
  return { port, child, decisions }
}

const stop = async (...ended: readonly ChildProcess[]): Promise<void> => {
  for (const child of ended) {
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    await gone
  }
}

async function peer(name: string, made: Promise<Peer>, requests: readonly string[]): Promise<void> {
  const { port, children: processes } = await made
  children.push(...processes)
  await measure(
    name,
    port,
    requests,
    processes.map(({ pid }) => pid!),
    2,
  )
  await stop(...processes)
}

const at = (values: readonly number[], share: number): number =>
  values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN

/** The revocation time of the gate that has just been measured, at half of what it can take. */
async function revoke(
  gate: { readonly port: number; readonly decisions: string; readonly rate: number },
  requests: readonly string[],
): Promise<void> {
  const { port, decisions, rate } = gate
  const sampled = await Promise.all(
    Array.from({ length: revocations }, async (_, n) => ({
      subject: `sampled-${n}`,
      token: await tokenOf(`sampled-${n}`, n),
    })),
  )
  const revoker = await cluster.client('cli_url')
  let measuring = true
  const background = (async () => {
    while (measuring) await apply({ port, requests, connections, seconds: 2, rate: rate / 2 })
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
  const tokens = await Promise.all(
    Array.from({ length: tokenCount }, (_, n) => tokenOf(`user-${n}`, n)),
  )
  const withTokens = tokens.map((each) => requestOf(each))
  const origin = `http://127.0.0.1:${upstream}`

  const owner = await cluster.client('migrate_url')
  await owner.query(
    "INSERT INTO dropgate.revocations (subject, reason) SELECT 'left-' || n, 'bench' FROM generate_series(1, $1::int) n",
    [rows],
  )
  await owner.query('VACUUM ANALYZE dropgate.revocations')

  const open = async (): Promise<void> => {
    const { port, child } = await gate(
      'open',
      compile('default decision := false\n\ndecision if input.attributes.request.http.method'),
      [{ name: 'orders', auth: 'none', upstream: origin }],
      { url: cluster.url },
    )
    await measure('dropgate, auth: none, allow-all', port, [requestOf()], [child.pid!], 3)
    await stop(child)
  }
  const mine = 'dropgate, full check'
  const full = async (): Promise<Awaited<ReturnType<typeof gate>> & { rate: number }> => {
    const started = await gate(
      'full',
      compile(ofGate, undefined, { roles }),
      [{ name: 'orders', upstream: origin }],
      { url: cluster.url },
    )
    // Until every worker has verified every token.
    const warmS = Math.max(5, tokenCount / 600)
    const { rate } = await measure(mine, started.port, withTokens, [started.child.pid!], warmS)
    return { ...started, rate }
  }
  const nginx = nginxVersion()
  if (nginx === undefined) say('  nginx is not here: no peers in this run')
  const peers = async (): Promise<void> => {
    await peer(`nginx ${nginx}, plain proxy`, plainProxy(folder, upstream), withTokens)
    const data = { roles, jwks: JSON.stringify(jwks) }
    await peer(
      'nginx auth_request → opa server, token decoded',
      askingProxy(folder, upstream, { rego: decoding, data }),
      withTokens,
    )
    await peer(
      'nginx auth_request → opa server, token verified',
      askingProxy(folder, upstream, { rego: verifying, data }),
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
      await stop(started.child)
      break
    }
    await stop(started.child)
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
  for (const child of children) child.kill('SIGKILL')
  await cluster.close()
  rmSync(folder, { recursive: true, force: true })
}
process.exit()
