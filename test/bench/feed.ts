/**
 * `make bench`: the ledger and its feed at ten million rows. Cold start from the table and from the local file, memory of
 * a row, a look-up that finds nothing, growth while serving, and the revocation time at rates. `ROWS` may be given.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { type CryptoKey, exportJWK, generateKeyPair, SignJWT } from 'jose'
import type pg from 'pg'
import { compile } from '../harness/bundle.ts'
import { crash } from '../harness/crash.ts'
import { type Followed, follow } from '../harness/follower.ts'
import { startPostgres } from '../harness/postgres.ts'
import { pause, until } from '../harness/wait.ts'
import { freePort, machine } from './machine.ts'
import { measureRevocations } from './revocation.ts'

const rows = Number(process.env.ROWS ?? 10_000_000)
const samples = Number(process.env.REVOCATIONS ?? 500)
const issuer = 'https://bench.example'
const folder = mkdtempSync(join(tmpdir(), 'dropgate-bench-'))
const snapshotFile = join(folder, 'revocations.snapshot')
const say = (text: string): void => void process.stdout.write(`${text}\n`)
const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(2)} s`
/** CPU seconds of this process, the server's sessions left out: what other programs take does not count. */
const cpu = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}
const at = (values: readonly number[], share: number): string =>
  (values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? NaN).toFixed(2)

/** Keys are random here and computed by one expression: what a trigger costs the writer is not the question. */
async function fillTable(owner: pg.Client): Promise<void> {
  const startedAt = performance.now()
  await owner.query('ALTER TABLE dropgate.revocations DISABLE TRIGGER USER')
  for (let from = 0; from < rows; from += 1_000_000) {
    await owner.query(
      `INSERT INTO dropgate.revocations (subject, issued_before, keys, key_version, chg_xid, chg_seq, created_by)
       SELECT 'left-' || i, CASE WHEN i % 2 = 0 THEN now() END,
         '\\x03'::bytea || substring(sha256(int8send(i)) FROM 1 FOR 16), 2, pg_current_xact_id(), i, 'bench'
       FROM generate_series($1::bigint, $2::bigint) i`,
      [from + 1, Math.min(rows, from + 1_000_000)],
    )
  }
  await owner.query('SELECT dropgate.enable_triggers()')
  await owner.query('VACUUM ANALYZE dropgate.revocations')
  say(`(table of ${rows} rows made in ${seconds(startedAt)})`)
}

function lookUps({ ledger }: Followed): void {
  const keys = new Uint32Array(4 * 65_536)
  let found = 0
  const costs: number[] = []
  for (let round = 0; round < 30; round++) {
    randomFillSync(keys)
    const before = process.threadCpuUsage()
    for (let k = 0; k < keys.length; k += 4) if (ledger.table.find(keys, k, -1) !== -1) found++
    const { user, system } = process.threadCpuUsage(before)
    costs.push(((user + system) * 1000) / 65_536)
  }
  costs.sort((a, b) => a - b)
  say(`a look-up that finds nothing: ${at(costs, 0.5)} ns of CPU (${found} found by chance)`)
}

async function growth({ ledger, feed }: Followed, owner: pg.Client): Promise<void> {
  const missing = Math.ceil(ledger.table.slots * 0.8 - ledger.table.used)
  let [longest, busiest, watching, most] = [0, 0, true, 0]
  let last = performance.now()
  let cpu = process.threadCpuUsage()
  const turn = (): void => {
    const now = performance.now()
    const used = process.threadCpuUsage(cpu)
    longest = Math.max(longest, now - last)
    busiest = Math.max(busiest, (used.user + used.system) / 1000)
    most = Math.max(most, ledger.bytes)
    last = now
    cpu = process.threadCpuUsage()
    if (watching) setImmediate(turn)
  }
  const { growths } = ledger
  const startedAt = performance.now()
  turn()
  await owner.query(
    "INSERT INTO dropgate.revocations (subject) SELECT 'more-' || i FROM generate_series(1, $1::int) i",
    [missing],
  )
  await until('grown', () => ledger.growths > growths, 120_000)
  await until('followed', () => feed.status().state === 'following', 120_000)
  watching = false
  say(
    `${missing} rows in one statement, with growth: in force and fresh ${seconds(startedAt)} after the statement began; ` +
      `longest turn ${longest.toFixed(1)} ms (${busiest.toFixed(1)} ms of CPU); ` +
      `at most ${(most / ledger.rows).toFixed(1)} bytes a row, then ${(ledger.bytes / ledger.rows).toFixed(1)}`,
  )
}

async function rates(url: string, revoker: () => Promise<pg.Client>): Promise<void> {
  const { privateKey, publicKey } = await generateKeyPair('ES256')
  const jwk = { ...(await exportJWK(publicKey)), kid: 'bench', alg: 'ES256', use: 'sig' }
  mkdirSync(join(folder, 'bundles'))
  writeFileSync(
    join(folder, 'bundles', 'gate.tar.gz'),
    compile('default decision := false\n\ndecision if input.attributes.request.http.method'),
  )
  writeFileSync(join(folder, 'jwks.json'), JSON.stringify({ keys: [jwk] }))
  const upstream = spawn(process.execPath, [new URL('./upstream.ts', import.meta.url).pathname], {
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  })
  const upstreamPort = await new Promise<number>((resolve) =>
    upstream.stdout!.once('data', (data) => resolve(Number(data))),
  )
  const [port, adminPort] = [await freePort(), await freePort()]
  const decisions = join(folder, 'decisions.jsonl')
  writeFileSync(
    join(folder, 'dropgate.yaml'),
    JSON.stringify({
      listen: { port },
      admin: { port: adminPort, token_file: 'token' },
      database: { url },
      issuers: [{ issuer, audience: ['api'], algorithms: ['ES256'], jwks_file: 'jwks.json' }],
      policy: { bundles: './bundles' },
      decision_log: { file: decisions },
      revocation: { snapshot_file: snapshotFile, verify: '0s' },
      routes: [{ name: 'orders', upstream: `http://127.0.0.1:${upstreamPort}` }],
    }),
  )
  const gate: ChildProcess = spawn(
    process.execPath,
    ['src/main.ts', 'serve', '--config', join(folder, 'dropgate.yaml')],
    { stdio: 'ignore' },
  )
  try {
    const startedAt = performance.now()
    await until(
      'ready',
      async () =>
        (await fetch(`http://127.0.0.1:${adminPort}/readyz`).catch(() => undefined))?.status ===
        200,
      120_000,
    )
    say(`a whole gate is ready ${seconds(startedAt)} after its start, from the file`)
    // Once unprinted: what has just started is not yet compiled.
    await atRate(1000, port, decisions, privateKey, revoker, 'warm')
    for (const rate of [10, 1000, Infinity])
      await atRate(rate, port, decisions, privateKey, revoker)
  } finally {
    gate.kill('SIGTERM')
    upstream.kill()
  }
}

async function atRate(
  rate: number,
  port: number,
  decisions: string,
  key: CryptoKey,
  revoker: () => Promise<pg.Client>,
  name = String(rate),
): Promise<void> {
  const tokens = await Promise.all(
    Array.from({ length: samples }, async (_, n) => ({
      subject: `sampled-${name}-${n}`,
      token: await new SignJWT({ client_id: 'app' })
        .setProtectedHeader({ alg: 'ES256', kid: 'bench', typ: 'at+jwt' })
        .setIssuer(issuer).setAudience('api').setSubject(`sampled-${name}-${n}`).setIssuedAt().setExpirationTime('8h')
        .sign(key), // biome-ignore format: one claim after another
    })),
  )
  let [writing, commits] = [true, 0]
  const startedAt = performance.now()
  const writers = Array.from({ length: rate === 10 ? 1 : 8 }, async (_, w) => {
    const client = await revoker()
    for (let i = 0; writing; i++) {
      await client.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [
        `background-${name}-${w}-${i}`,
      ])
      commits++
      const aheadMs = (commits / rate) * 1000 - (performance.now() - startedAt)
      if (aheadMs > 0) await pause(aheadMs)
    }
  })
  const times = await measureRevocations({
    port,
    workers: availableParallelism(),
    decisions,
    revoker: await revoker(),
    tokens,
  }).finally(async () => {
    writing = false
    await Promise.all(writers)
  })
  const reached = commits / ((performance.now() - startedAt) / 1000)
  if (name === 'warm') return
  say(
    `| ${rate === Infinity ? 'as many as it takes' : rate} | ${reached.toFixed(0)} | ${at(times.times, 0.5)} | ${at(times.times, 0.99)} | ` +
      `${at(times.intervals, 0.99)} | ${at(times.stalls, 0.99)} |`,
  )
}

/** Until it is fresh; `follow` would also wait for an anchor. */
async function begin(options: Parameters<typeof follow>[1]): Promise<Followed> {
  const followed = await follow(cluster.url, { ...options, attempt: true })
  await until('it follows', () => followed.feed.status().state === 'following', 300_000)
  return followed
}

/** One process of the server is killed: how long after the server is back the gate is fresh again. */
async function crashed({ feed }: Followed): Promise<void> {
  await until('an anchor', () => feed.status().anchors > 0)
  const { loads, reconnects } = feed.status()
  await crash(cluster)
  const startedAt = performance.now()
  await until('fresh again', () => {
    const now = feed.status()
    return now.state === 'following' && now.reconnects > reconnects
  })
  say(
    `after a crash of the server: fresh ${seconds(startedAt)} after it took sessions again, ${feed.status().loads - loads} loads`,
  )
}

const cluster = await startPostgres()
try {
  say(`${machine()}; ${rows} rows`)
  const owner = await cluster.client('migrate_url')
  await fillTable(owner)
  const rss = process.memoryUsage().rss
  let startedAt = performance.now()
  let cpuAt = cpu()
  const cold = await begin({ snapshotFile, spareRows: 100_000, tickMs: 500 })
  say(
    `cold start from the table: ${seconds(startedAt)} (${(cpu() - cpuAt).toFixed(2)} s of CPU here); ${(cold.ledger.bytes / rows).toFixed(1)} bytes a row in the ledger, ` +
      `${((process.memoryUsage().rss - rss) / rows).toFixed(1)} in the process`,
  )
  lookUps(cold)
  await until(
    'the file',
    () => statSync(snapshotFile, { throwIfNoEntry: false }) !== undefined,
    60_000,
  )
  await cold.feed.close()
  startedAt = performance.now()
  cpuAt = cpu()
  const warm = await begin({ snapshotFile, spareRows: 100_000, tickMs: 500 })
  say(
    `start from the file of ${Math.round(statSync(snapshotFile).size / 2 ** 20)} MiB: ${seconds(startedAt)} (${(cpu() - cpuAt).toFixed(2)} s of CPU)`,
  )
  if (warm.feed.status().loads !== 0) throw new Error(`not from the file: ${warm.problems}`)
  await crashed(warm)
  await growth(warm, await cluster.client('migrate_url'))
  await warm.feed.close()
  say(
    '\n| commits/s asked | reached | revocation time p50 ms | p99 ms | asked every ms, p99 | idle timer late ms, p99 |',
  )
  say('| --- | ---: | ---: | ---: | ---: | ---: |')
  // What PostgreSQL has left to do for that statement is not measured with the rates.
  const again = await cluster.client('migrate_url')
  await again.query('VACUUM ANALYZE dropgate.revocations')
  await again.query('CHECKPOINT')
  await rates(cluster.url, () => cluster.client('cli_url'))
} finally {
  await cluster.close()
  rmSync(folder, { recursive: true, force: true })
}
process.exit()
