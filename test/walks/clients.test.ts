/** Clients as they are: what curl, Node's fetch and a browser make of a cut. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { WebSocketServer } from 'ws'
import { chromium, withoutChromium } from '../harness/browser.ts'
import { TestGate } from '../harness/gate.ts'
import { StreamUpstream } from '../harness/streams.ts'
import { until } from '../harness/wait.ts'

const upstream = new StreamUpstream()
await upstream.open()

/** A page that opens an EventSource and a WebSocket by its cookie and tells what becomes of them. */
const told: string[] = []
let cookie = ''
const site = createServer((req, res) => {
  const url = new URL(req.url!, 'http://x')
  if (url.pathname === '/public/tell') {
    told.push(url.searchParams.get('what')!)
    res.end()
  } else if (url.pathname === '/orders/news') {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    const timer = setInterval(() => res.write('data: news\n\n'), 20)
    res.on('close', () => clearInterval(timer))
  } else {
    res.writeHead(200, {
      'content-type': 'text/html',
      'set-cookie': `session=${cookie}; Path=/; HttpOnly`,
    })
    res.end(`<script>
      const tell = (what) => fetch('/public/tell?what=' + what)
      const news = new EventSource('/orders/news')
      news.onmessage = () => { news.onmessage = null; tell('event') }
      news.onerror = () => { if (news.readyState === EventSource.CLOSED) tell('event-end') }
      const socket = new WebSocket(location.origin.replace('http', 'ws') + '/orders/socket')
      socket.onmessage = () => { socket.onmessage = null; tell('message') }
      socket.onclose = ({ code }) => tell('close-' + code)
    </script>`)
  }
})
const sockets = new WebSocketServer({ server: site })
sockets.on('connection', (ws) => ws.send('hello'))
await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve))
const siteOrigin = `http://127.0.0.1:${(site.address() as { port: number }).port}`

const port = await new Promise<number>((resolve) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address() as { port: number }
    server.close(() => resolve(port))
  })
})
const page = `http://127.0.0.1:${port}`
const origins = [page]
const gate = await TestGate.start({
  config: { workers: 1, listen: { host: '127.0.0.1', port }, limits: { max_lag: '60s' } },
  issuer: { from: ['authorization', 'cookie:session'] },
  routes: [
    { name: 'streams', path: '/orders', upstream: upstream.origin, origins },
    { name: 'news', path: '/orders/news', upstream: siteOrigin, origins },
    { name: 'socket', path: '/orders/socket', upstream: siteOrigin, origins },
    { name: 'site', path: '/public', upstream: siteOrigin, auth: 'none', labels: { visibility: 'public' } },
  ],
}) // biome-ignore format: a table
const revoker = await gate.revoker()
const children: ChildProcess[] = []
t.teardown(async () => {
  for (const child of children) child.kill()
  await gate.stop()
  upstream.close()
  sockets.close()
  site.close()
  site.closeAllConnections()
})
const revoke = (subject: string) =>
  revoker.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [subject])

const missing = (program: string): string | false =>
  spawnSync(program, ['--version']).error === undefined ? false : `${program} is not installed here`

t.test('curl says of a stream and of a download that they broke off', { skip: missing('curl') }, async (t) => {
  for (const [kind, exits] of [['events', [18, 56]], ['download', [18, 56]]] as const) {
    const subject = `curl-${kind}`
    const curl = spawn('curl', ['-sN', '-H', `Authorization: Bearer ${await gate.issuer.token(subject)}`, `${page}/orders/${kind}?n=${subject}`])
    children.push(curl)
    // Asked for before the row is there: curl may be gone before the INSERT is answered.
    const gone = new Promise<number | null>((resolve) => curl.once('exit', resolve))
    let bytes = 0
    curl.stdout.on('data', (data) => {
      bytes += data.length
    })
    await until('bytes come', () => bytes > 0)
    await revoke(subject)
    const exit = await gone
    t.ok((exits as readonly (number | null)[]).includes(exit), `curl exits with ${exit}`)
    await until('aborted', () => upstream.served.get(subject)!.ended === 'abort')
  }
  const again = spawnSync('curl', ['-s', '-o', '/dev/null', '-w', '%{http_code}', '-H', `Authorization: Bearer ${await gate.issuer.token('curl-events')}`, `${page}/orders/events?n=again`])
  t.equal(again.stdout.toString(), '401')
}) // biome-ignore format: commands in one line

t.test('a fetch of Node rejects in the middle of the stream', async (t) => {
  const answer = await fetch(`${page}/orders/chunks?n=fetch`, {
    headers: { authorization: `Bearer ${await gate.issuer.token('fetch')}` },
  })
  t.equal(answer.status, 200)
  const reader = answer.body!.getReader()
  t.ok((await reader.read()).value!.length > 0)
  await revoke('fetch')
  const drained = (async () => {
    for (;;) if ((await reader.read()).done) return
  })()
  await t.rejects(drained, { message: /terminated/ })
})

t.test(
  'a page in Chromium sees its EventSource and its WebSocket, both by cookie, cut',
  { skip: withoutChromium },
  async (t) => {
    cookie = await gate.issuer.token('browser')
    const profile = mkdtempSync(join(tmpdir(), 'dropgate-chromium-'))
    const args = ['--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-port=0']
    const browser = spawn(chromium!, [...args, `--user-data-dir=${profile}`, `${page}/public/page`])
    children.push(browser)
    t.teardown(() => rmSync(profile, { recursive: true, force: true, maxRetries: 10 }))
    await until('both are open', () => told.includes('event') && told.includes('message'), 30_000)
    await revoke('browser')
    // EventSource comes back by itself after a broken connection; a refusal ends it for good.
    await until(
      'both are over',
      () => told.includes('event-end') && told.includes('close-1008'),
      30_000,
    )
    t.pass()
    const gone = new Promise((resolve) => browser.once('exit', resolve))
    browser.kill()
    await gone
  },
)
