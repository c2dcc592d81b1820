/**
 * `make bench`, second part: what is open. Thousands of idle WebSockets, of which some are revoked one by one; a policy
 * change under the rest; quiet event streams on one route beside requests; CPU for each relayed megabyte beside nginx. The gate and the upstream run in processes of their own.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { compile } from '../harness/bundle.ts'
import { startPostgres } from '../harness/postgres.ts'
import { pause, until } from '../harness/wait.ts'
import { cpuS, freePort, machine } from './machine.ts'
import { nginxVersion } from './peers.ts'

const sockets = Number(process.env.SOCKETS ?? 8000)
const revoked = Number(process.env.REVOKED ?? 1000)
const streams = Number(process.env.STREAMS ?? 2000)
const megabytes = Number(process.env.MEGABYTES ?? 1000)
const issuer = 'https://bench.example'

const folder = mkdtempSync(join(tmpdir(), 'dropgate-live-'))
const children: ChildProcess[] = []
const say = (text: string): void => void process.stdout.write(`${text}\n`)
const at = (values: readonly number[], share: number): number =>
  values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN
const ascending = (values: number[]): number[] => values.sort((a, b) => a - b)

const { privateKey, publicKey } = await generateKeyPair('ES256')
const tokenOf = (subject: string): Promise<string> =>
  new SignJWT({ sid: `session-${subject}` })
    .setProtectedHeader({ alg: 'ES256', kid: 'bench', typ: 'at+jwt' })
    .setIssuer(issuer).setAudience('api').setSubject(subject).setIssuedAt().setExpirationTime('8h')
    .sign(privateKey) // biome-ignore format: one claim after another

function child(command: string, args: readonly string[], stdout: 'pipe' | 'ignore'): ChildProcess {
  const started = spawn(command, args, { stdio: ['ignore', stdout, 'pipe'] })
  children.push(started)
  return started
}

const upstreamProcess = child(
  process.execPath,
  [new URL('./live-upstream.ts', import.meta.url).pathname],
  'pipe',
)
const upstream = await new Promise<number>((resolve) =>
  upstreamProcess.stdout!.once('data', (data) => resolve(Number(data))),
)

const rssBytes = (pid: number): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1024

/** Everybody but those named may; the new policy is the same but for one name more. */
const policy = (denied: string): Buffer =>
  compile(
    `default decision := false\n\ndecision if {\n\tinput.principal\n\tnot startswith(input.principal.subject, "${denied}")\n}`,
  )

interface Open {
  readonly subject: string
  readonly socket: Socket
  openedAt: number
  /** When the close frame, or the end, came. */
  closedAt: number
}

function open(port: number, path: string, subject: string, token: string): Open {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  const one: Open = { subject, socket, openedAt: 0, closedAt: 0 }
  const closed = (): void => {
    if (one.closedAt === 0) one.closedAt = performance.now()
  }
  socket.on('error', () => {})
  socket.on('data', (data) => {
    if (one.openedAt === 0) {
      if (!data.toString('latin1').startsWith('HTTP/1.1 101')) throw new Error(data.toString())
      one.openedAt = performance.now()
    } else if (data[0] === 0x88) closed()
  })
  socket.on('close', closed)
  socket.write(
    `GET ${path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer ${token}\r\n\r\n`,
  )
  return one
}

/** InputUsage to the end of a download, or of this many bytes. */
function drain(port: number, head: string, bytes: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let got = 0
    const socket = connect(port, '127.0.0.1', () => socket.write(head))
    socket.on('error', reject)
    socket.on('data', (data) => {
      got += data.length
      if (got < bytes) return
      socket.destroy()
      resolve()
    })
    socket.on('close', () => (got < bytes ? reject(new Error(`ended after ${got}`)) : resolve()))
  })
}

const cluster = await startPostgres()
try {
  say(`${machine()}; ${sockets} WebSockets, ${revoked} revocations`)
  mkdirSync(join(folder, 'bundles'))
  writeFileSync(
    join(folder, 'jwks.json'),
    JSON.stringify({
      keys: [{ ...(await exportJWK(publicKey)), kid: 'bench', alg: 'ES256', use: 'sig' }],
    }),
  )
  writeFileSync(join(folder, 'first.tar.gz'), policy('nobody'))
  writeFileSync(join(folder, 'second.tar.gz'), policy('user-79'))
  cpSync(join(folder, 'first.tar.gz'), join(folder, 'bundles', 'gate.tar.gz'))
  const [port, adminPort] = [await freePort(), await freePort()]
  const origin = `http://127.0.0.1:${upstream}`
  writeFileSync(
    join(folder, 'dropgate.yaml'),
    JSON.stringify({
      listen: { port },
      admin: { port: adminPort, token_file: 'token' },
      database: { url: cluster.url },
      issuers: [{ issuer, audience: ['api'], algorithms: ['ES256'], jwks_file: 'jwks.json' }],
      policy: { bundles: './bundles' },
      decision_log: { file: join(folder, 'decisions.jsonl') },
      limits: { token_cache: '128MiB', max_lag: '60s' },
      routes: [{ name: 'all', upstream: origin }],
    }),
  )
  const gate = child(
    process.execPath,
    ['src/main.ts', 'serve', '--config', join(folder, 'dropgate.yaml')],
    'ignore',
  )
  gate.stderr!.resume()
  const ready = async (): Promise<boolean> =>
    (await fetch(`http://127.0.0.1:${adminPort}/readyz`).catch(() => undefined))?.status === 200
  await until('the gate is ready', ready, 60_000)
  const pid = gate.pid!
  const tokens = await Promise.all(Array.from({ length: sockets }, (_, n) => tokenOf(`user-${n}`)))

  // --- Memory ---------------------------------------------------------------------------------------------------
  const warm: Open[] = []
  for (let n = 0; n < 200; n++) warm.push(open(port, '/', 'warm', tokens[n]!))
  await until('warm', () => warm.every(({ openedAt }) => openedAt > 0), 60_000)
  for (const { socket } of warm) socket.destroy()
  await pause(2000)
  const before = rssBytes(pid)
  const all: Open[] = []
  while (all.length < sockets) {
    const batch = tokens
      .slice(all.length, all.length + 100)
      .map((token, i) => open(port, '/', `user-${all.length + i}`, token))
    await until('a batch is open', () => batch.every(({ openedAt }) => openedAt > 0), 60_000)
    all.push(...batch)
  }
  await pause(3000)
  say(
    `memory: ${((rssBytes(pid) - before) / sockets / 1024).toFixed(1)} KiB of resident memory per idle WebSocket, both of its sockets included`,
  )
  const idleFrom = cpuS([pid])
  await pause(5000)
  say(
    `idle: ${(((cpuS([pid]) - idleFrom) / 5) * 100).toFixed(1)} % of one CPU with ${sockets} open`,
  )

  // --- Revocation -------------------------------------------------------------------------------------------------
  const revoker = await cluster.client('cli_url')
  const stalls: number[] = []
  let last = performance.now()
  const idle = setInterval(() => {
    const now = performance.now()
    stalls.push(Math.max(0, now - last - 1))
    last = now
  }, 1)
  const times: number[] = []
  for (const one of all.slice(0, revoked)) {
    await revoker.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [one.subject])
    const committed = performance.now()
    await until(`${one.subject} is cut`, () => one.closedAt > 0)
    times.push(Math.max(0, one.closedAt - committed))
  }
  clearInterval(idle)
  await pause(500)
  const rest = all.slice(revoked)
  const dropped = rest.filter(({ closedAt }) => closedAt > 0).length
  ascending(times)
  ascending(stalls)
  say(
    `revocation: commit acknowledged to closed at the client p50 ${at(times, 0.5).toFixed(2)} ms, p99 ${at(times, 0.99).toFixed(2)} ms, longest ${at(times, 1).toFixed(2)} ms; an idle timer here was late by ${at(stalls, 0.99).toFixed(2)} ms at p99`,
  )
  say(`bystanders dropped: ${dropped} of ${rest.length}`)

  // --- A policy change --------------------------------------------------------------------------------------------
  const asked = await tokenOf('asker')
  const ask = async (): Promise<number> => {
    const from = performance.now()
    await drain(
      port,
      `GET /0 HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAuthorization: Bearer ${asked}\r\n\r\n`,
      50,
    )
    return performance.now() - from
  }
  const during = async (seconds: number): Promise<number[]> => {
    const pending: Promise<number>[] = []
    const end = performance.now() + seconds * 1000
    while (performance.now() < end) {
      pending.push(ask())
      await pause(5)
    }
    return ascending(await Promise.all(pending))
  }
  await during(2)
  const calm = await during(5)
  const denied = rest.filter(({ subject }) => subject.startsWith('user-79'))
  const swapped = performance.now()
  renameSync(join(folder, 'second.tar.gz'), join(folder, 'bundles', 'gate.tar.gz'))
  const swept = await during(5)
  await until('the denied are cut', () => denied.every(({ closedAt }) => closedAt > 0), 60_000)
  const lastCut = Math.max(...denied.map(({ closedAt }) => closedAt)) - swapped
  const wrong = rest.filter(
    ({ subject, closedAt }) => closedAt > 0 && !subject.startsWith('user-79'),
  ).length
  say(
    `policy change under ${rest.length}: ${denied.length} newly denied are cut within ${Math.round(lastCut)} ms, ${wrong} others; new requests p99 ${at(calm, 0.99).toFixed(2)} ms before, ${at(swept, 0.99).toFixed(2)} ms during`,
  )
  for (const { socket } of rest) socket.destroy()

  // --- Event streams ----------------------------------------------------------------------------------------------
  await pause(3000)
  const streamsFrom = rssBytes(pid)
  const open_: Socket[] = []
  let begun = 0
  let failed = 0
  while (open_.length < streams) {
    for (let i = 0; i < 50; i++) {
      const socket = connect(port, '127.0.0.1', () =>
        socket.write(
          `GET /events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer ${asked}\r\n\r\n`,
        ),
      )
      socket.on('error', () => failed++)
      socket.once('data', (data) => {
        if (data.toString('latin1').startsWith('HTTP/1.1 200')) begun++
        else failed++
      })
      open_.push(socket)
    }
    await until('a batch is open', () => begun + failed >= open_.length, 60_000)
    // Requests beside the streams that are open by now.
    const url = `http://127.0.0.1:${port}/0`
    const headers = { authorization: `Bearer ${asked}` }
    for (let i = 0; i < 10; i++) {
      const answer = await fetch(url, { headers })
      if (answer.status !== 200) failed++
      await answer.arrayBuffer()
    }
  }
  await pause(3000)
  say(
    `event streams: ${begun} quiet ones on one route beside requests, ${failed} failed; ${((rssBytes(pid) - streamsFrom) / streams / 1024).toFixed(1)} KiB of resident memory per stream, both of its sockets included`,
  )
  for (const socket of open_) socket.destroy()

  // --- Relayed bytes ----------------------------------------------------------------------------------------------
  const request = (line: string, ...more: string[]): string =>
    [line, 'Host: bench', `Authorization: Bearer ${asked}`, ...more, '', ''].join('\r\n')
  const upgrade = [
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==',
    'Sec-WebSocket-Version: 13',
  ]
  const relayed = async (name: string, to: number, pids: readonly number[]): Promise<void> => {
    const size = megabytes * 1024 * 1024
    for (const [kind, head] of [
      ['download', request(`GET /${megabytes} HTTP/1.1`, 'Connection: close')],
      ['WebSocket', request(`GET /${megabytes} HTTP/1.1`, ...upgrade)],
    ] as const) {
      const from = cpuS(pids)
      await drain(to, head, size)
      say(
        `relay, ${name}, ${kind}: ${(((cpuS(pids) - from) / megabytes) * 1e6).toFixed(0)} µs of CPU per MiB`,
      )
    }
  }
  await relayed('dropgate', port, [pid])
  const nginx = nginxVersion()
  if (nginx === undefined) say('nginx is not here: nothing to compare the relay with')
  else {
    const nginxPort = await freePort()
    const conf = join(folder, 'nginx.conf')
    writeFileSync(
      conf,
      `daemon off; worker_processes 2; pid ${folder}/nginx.pid; error_log ${folder}/error.log;
events {} http { access_log off; client_body_temp_path ${folder}/t1; proxy_temp_path ${folder}/t2; fastcgi_temp_path ${folder}/t3; uwsgi_temp_path ${folder}/t4; scgi_temp_path ${folder}/t5;
map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
server { listen 127.0.0.1:${nginxPort}; location / { proxy_pass ${origin}; proxy_http_version 1.1; proxy_buffering off; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; } } }`,
    )
    const process_ = child('nginx', ['-c', conf, '-p', folder], 'ignore')
    await until(
      'nginx listens',
      async () =>
        (await fetch(`http://127.0.0.1:${nginxPort}/0`).catch(() => undefined)) !== undefined,
    )
    await relayed(`nginx ${nginx}`, nginxPort, [process_.pid!])
  }
} finally {
  for (const each of children) each.kill('SIGKILL')
  await cluster.close()
  rmSync(folder, { recursive: true, force: true })
}
process.exit()
