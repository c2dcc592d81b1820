/**
 * The admin port belongs to the control thread, and every client that reaches it is heard before it shows a token. So no
 * client may hold up the thread or another client.
 */
import { subscribe } from 'node:diagnostics_channel'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { LivePage } from '../../src/admin/live.ts'
import { AdminServer, maxStrangers } from '../../src/admin/server.ts'
import { until } from '../harness/wait.ts'

const folder = mkdtempSync(join(tmpdir(), 'dropgate-admin-'))
const token_file = join(folder, 'token')
const metrics = 'dropgate_x 1\n'.repeat(300_000)
let answerLive: ((page: LivePage) => void) | undefined
const admin = new AdminServer({
  config: {
    host: '127.0.0.1',
    hosts: ['gate-1.example.com'],
    port: 0,
    token_file,
    metrics_open: true,
  },
  readiness: () => ({ ready: true, reasons: [], warnings: [] }),
  status: () => ({}),
  metrics: () => metrics,
  live: () =>
    new Promise((resolve) => {
      answerLive = resolve
    }),
  cut: async () => undefined,
  waitForPort: false,
  log: { info: () => {} },
})
const port = await admin.open()
const url = `http://127.0.0.1:${port}`
const authorization = `Bearer ${readFileSync(token_file, 'utf8').trim()}`
t.teardown(async () => {
  await admin.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Requests that Node has made of bytes. */
let made = 0
subscribe('http.server.request.start', () => made++)

/** One after the other, each in a segment of its own; what came until the server closed. */
async function say(...pieces: readonly string[]): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true })
  let text = ''
  socket.on('data', (data) => {
    text += data.toString('latin1')
  })
  socket.on('error', () => {})
  const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()))
  for (const piece of pieces) {
    await new Promise<void>((resolve) => socket.write(piece, 'latin1', () => resolve()))
    await new Promise((resolve) => setImmediate(resolve))
  }
  await closed
  return text
}

function silent(): Socket {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  // Without a reader its end would not be seen.
  socket.resume()
  return socket
}

const answers = (text: string): number => text.split('HTTP/1.1 ').length - 1
const get = (path: string, version = '1.1', header = ''): string =>
  `GET ${path} HTTP/${version}\r\nHost: a\r\n${header}\r\n`

t.test(
  'of requests sent ahead one is made, and the connection ends behind its answer',
  async (t) => {
    const floods: readonly (readonly string[])[] = [
      [get('/readyz').repeat(1500)],
      [get('/livez'), get('/livez').repeat(1500)],
      [get('/readyz', '1.0', 'Connection: keep-alive\r\n').repeat(1000)],
      [get('/metrics').repeat(1500)],
      [get('/nowhere').repeat(1500)],
      [get('/v1/status').repeat(1500)],
    ]
    for (const flood of floods) {
      made = 0
      const text = await say(...flood)
      t.equal(made, 1, flood[0]!.slice(0, 30))
      t.ok(answers(text) <= 1)
    }
    t.match(await say(get('/livez')), /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close\r\n/i)
  },
)

t.test('a head may come in pieces, and a body is not read', async (t) => {
  t.match(await say('GET /livez HTTP/1.1\r\nHost: a', '\r\n\r', '\n'), /^HTTP\/1\.1 200 /)
  t.match(await say(get('/livez', '1.1', `a: ${'b'.repeat(20_000)}\r\n`)), /^HTTP\/1\.1 431 /)
  const body = (length: number): string =>
    `POST /v1/live/x/cut HTTP/1.1\r\nHost: a\r\nAuthorization: ${authorization}\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n{}`
  t.match(await say(body(2)), /^HTTP\/1\.1 404 /)
  t.match(await say(body(2_000_000)), /^HTTP\/1\.1 404 /, 'also one that does not come')
  const cut = await fetch(`${url}/v1/live/x/cut`, { method: 'POST', headers: { authorization } })
  t.equal(cut.status, 404)
})

t.test(
  'a Host that a stranger may have gets one answer on every path, with the token or without',
  async (t) => {
    const own = [
    '127.0.0.1', '127.0.0.1:8081', '10.1.2.3:8081', '[::1]:8081', '[fe80::1]', 'localhost:8081', 'LOCALHOST.', 'a.localhost', 'dropgate', 'dropgate:8081',
    'dropgate.prod.svc:8081', 'dropgate.prod.svc.cluster.local', 'gate.internal', 'gate-1.example.com:8081', 'GATE-1.example.com',
  ] // biome-ignore format: a table
    const strangers = [
    'evil.example', 'evil.example:8081', 'localhost.evil.example', '127.0.0.1.evil.example', 'evil-localhost.com', 'xlocalhost.example', '127.0.0.1@evil.example',
    'gate-2.example.com', 'a.gate-1.example.com', '127.0.0.1.nip.io', 'evil.example/', 'evil.example#.localhost', '1.2.3', '[::1', '', 'a b',
    'evil.example\r\nHost: localhost', 'localhost\r\nHost: evil.example', 'localhost\r\nHost: localhost', '\xe9.localhost',
  ] // biome-ignore format: a table
    const ask = (path: string, host: string): Promise<string> =>
      say(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nAuthorization: ${authorization}\r\n\r\n`)
    for (const host of own) t.match(await ask('/livez', host), /^HTTP\/1\.1 200 /, host)
    for (const host of strangers)
      t.match(await ask('/livez', host), /^HTTP\/1\.1 4(?:21|00) /, JSON.stringify(host))
    for (const path of ['/livez', '/readyz', '/metrics', '/v1/status', '/v1/live', '/nowhere']) {
      const answer = await ask(path, 'evil.example')
      t.match(answer, /^HTTP\/1\.1 421 [\s\S]*"code":"ERR_HOST_UNKNOWN"/, path)
      t.notMatch(answer, /dropgate_x|ready/)
    }
    t.match(await say('GET /livez HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 200 /, 'a probe of HTTP/1.0')
  },
)

t.test('a long answer arrives whole', async (t) => {
  t.equal(await (await fetch(`${url}/metrics`)).text(), metrics)
})

t.test(
  'connections that send nothing do not keep other clients out, and end none that has the token',
  async (t) => {
    const live = fetch(`${url}/v1/live`, { headers: { authorization } })
    await until('it is being answered', () => answerLive !== undefined)
    const idle: Socket[] = []
    t.teardown(() => {
      for (const each of idle) each.destroy()
    })
    for (let n = 0; n < 2 * maxStrangers; n++) {
      const socket = silent()
      idle.push(socket)
      await new Promise<void>((resolve) => socket.once('connect', () => resolve()))
    }
    await until(
      'the older half is closed',
      () => idle.filter(({ closed }) => closed).length >= maxStrangers,
    )
    t.equal((await fetch(`${url}/livez`)).status, 200)
    answerLive!({ exchanges: [], next: null, silent_workers: [] })
    t.match(await (await live).json(), { exchanges: [], next: null })
  },
)

t.test('a connection on which nothing comes is closed, also when the server is', async (t) => {
  const socket = silent()
  await until('the head is late', () => socket.closed)
  const last = silent()
  await new Promise<void>((resolve) => last.once('connect', () => resolve()))
  // What is accepted first is known when the second is answered.
  await fetch(`${url}/livez`)
  await admin.close()
  await until('closed with it', () => last.closed)
  t.pass()
})
