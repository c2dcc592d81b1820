/** What a page in a real Chromium does through a gate that takes its tokens from a cookie; each test is skipped without one. */
import { writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { WebSocketServer } from 'ws'
import { freePort } from '../bench/machine.ts'
import { Browser, type Page, withoutChromium } from '../harness/browser.ts'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { until } from '../harness/wait.ts'

/** The app: `/public/page` signs in, `/app/news` is an event stream that ends once, all else tells what arrived. */
function startApp(signIn: () => string) {
  const streams = new Set<ServerResponse>()
  const modules: Record<string, string> = {
    '/app/routes/%5Bid%5D/page.js': "export { slug } from './[slug].js'; export const id = 'id'",
    '/app/routes/%5Bid%5D/[slug].js': "export const slug = 'never: the gate writes one form'",
    '/app/routes/%5Bid%5D/%5Bslug%5D.js': "export const slug = 'slug'",
    '/app/a%7Cb%5Ec.js': "export const name = 'a|b^c'",
  }
  const stream = (req: IncomingMessage, res: ServerResponse): void => {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    if (req.url!.endsWith('/news')) {
      const last = req.headers['last-event-id'] as string | undefined
      const id = req.url === '/bytes/news' ? 'é1' : '1'
      const after = last && Buffer.from(last, 'latin1')
      res.write(`retry: 10\nid: ${id}\ndata: Zoë after ${after}\n\n`)
      if (last === undefined) res.end()
    } else {
      res.write('data: 0\n\n')
      streams.add(res)
      res.on('close', () => streams.delete(res))
    }
  }
  const tell = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    req.setEncoding('utf8')
    let body = ''
    for await (const chunk of req) body += chunk
    const text = (name: string): string | undefined => {
      const value = req.headers[name] as string | undefined
      return value === undefined ? undefined : Buffer.from(value, 'latin1').toString()
    }
    const { method, url } = req
    const told = { method, url, body, origin: text('origin'), site: text('sec-fetch-site') }
    const cookies = { cookie: text('cookie'), policy: text('x-policy-cookie') }
    // Helmet's default: a form of such a page comes with `Origin: null`.
    res.writeHead(200, {
      'content-type': 'text/plain; charset=utf-8',
      'referrer-policy': 'no-referrer',
    })
    res.end(JSON.stringify({ ...told, ...cookies }))
  }
  const server = createServer((req, res) => {
    const module = modules[req.url!]
    if (module !== undefined) res.setHeader('content-type', 'text/javascript').end(module)
    else if (/\/news$|^\/streams\/\d/.test(req.url!)) stream(req, res)
    else if (req.url!.startsWith('/public/page')) {
      res.setHeader('set-cookie', `session=${signIn()}; Path=/; HttpOnly`)
      res.setHeader('referrer-policy', 'no-referrer')
      res.setHeader('content-type', 'text/html; charset=utf-8').end('<title>app</title>')
    } else void tell(req, res)
  })
  const handleProtocols = (offered: Set<string>): string | false => [...offered].at(-1) ?? false
  const sockets = new WebSocketServer({ server, handleProtocols, perMessageDeflate: true })
  sockets.on('connection', (ws) =>
    ws.on('message', (data, isBinary) => {
      if (!isBinary && data.toString() === 'close') ws.close(4001, 'until tomorrow, Zoë')
      else ws.send(data, { binary: isBinary })
    }),
  )
  const close = (): void => {
    sockets.close()
    server.close()
    server.closeAllConnections()
  }
  return { server, streams, close }
}

const policy = `
default decision := {"allowed": false}
decision := {"allowed": true, "headers": saw} if not "secret" in input.parsed_path
saw["x-policy-cookie"] := urlquery.encode(input.attributes.request.http.headers.cookie)`

async function walks(): Promise<void> {
  let token = ''
  const app = startApp(() => token)
  await new Promise<void>((resolve) => app.server.listen(0, '127.0.0.1', resolve))
  const upstream = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
  const port = await freePort()
  const origin = `http://127.0.0.1:${port}`
  const origins = [origin, `http://localhost:${port}`]
  const gate = await TestGate.start({
    config: { workers: 1, listen: { host: '127.0.0.1', port } },
    bundle: null,
    prepare: (folder) => writeFileSync(join(folder, 'bundles', 'gate.tar.gz'), compile(policy)),
    issuer: { from: ['cookie:session'] },
    routes: [
      { name: 'app', path: '/app', upstream, origins },
      { name: 'bytes', path: '/bytes', upstream, origins, non_ascii_headers: 'pass' },
      { name: 'streams', path: '/streams', upstream, origins, max_connections: 6 },
      { name: 'public', path: '/public', upstream, auth: 'none' },
    ],
  })
  token = await gate.issuer.token('alice')
  const browser = new Browser()
  t.teardown(async () => {
    await browser.close()
    await gate.stop()
    app.close()
  })
  const open = (host: string): Promise<Page> => browser.open(`${host}/public/page`)

  t.test('form posts of a page under no-referrer arrive, and those of another origin do not', async (t) => {
    const post = async (host: string, path: string, more: string): Promise<string> => {
      const page = await open(host)
      const answer = await page.leave(
        `const form = document.body.appendChild(document.createElement('form'))
         Object.assign(form, { method: 'POST', action: '${origin}${path}' })
         const field = (name, value) => form.appendChild(Object.assign(document.createElement('input'), { name, value }))
         ${more}; form.submit()`,
        path,
      )
      await page.close()
      return answer
    }
    const plain = JSON.parse(await post(origin, '/app/form', "field('name[]', 'Zoë & co')"))
    t.match(plain, { method: 'POST', origin: 'null', site: 'same-origin', body: 'name%5B%5D=Zo%C3%AB+%26+co' })
    const file = `
      const picked = field('upload', ''); picked.type = 'file'; form.enctype = 'multipart/form-data'
      const files = new DataTransfer(); files.items.add(new File(['x'.repeat(200000)], 'Zoë [1].txt')); picked.files = files.files`
    const multipart = JSON.parse(await post(origin, '/app/file', file))
    t.match(multipart.body, /filename="Zoë \[1\]\.txt"[\s\S]*\r\n\r\nx{200000}\r\n/)
    const query = JSON.parse(await post(origin, '/app/search', "form.method = 'GET'; field('f[a|b]', '100% ^')"))
    t.match(query, { method: 'GET', url: '/app/search?f%5Ba%7Cb%5D=100%25+%5E' })
    // Cookies know no ports: the token does come along.
    const refused = await post(upstream, '/app/form', "field('name', 'x')")
    t.match(refused, /ERR_ORIGIN_NOT_ALLOWED/)
  }) // biome-ignore format: scripts of a page

  t.test('an EventSource gets its events, and comes back with the id of the last one', async (t) => {
    const page = await open(origin)
    for (const [route, id] of [['app', '1'], ['bytes', 'é1']]) {
      const events = await page.run<string[]>(`new Promise((resolve, reject) => {
        const news = new EventSource('/${route}/news'), events = []
        news.onmessage = ({ data }) => { if (events.push(data) === 2) { news.close(); resolve(events) } }
        news.onerror = () => { if (news.readyState === EventSource.CLOSED) reject(Error('refused after ' + events)) }
      })`)
      t.same(events, ['Zoë after undefined', `Zoë after ${id}`])
    }
  }) // biome-ignore format: scripts of a page

  t.test('a WebSocket carries texts, a mebibyte, a subprotocol and the reason of its end', async (t) => {
    const page = await open(origin)
    const told = await page.run<unknown[]>(`new Promise((resolve) => {
      const socket = new WebSocket(location.origin.replace('http', 'ws') + '/app/socket', ['a', 'b'])
      const told = []
      socket.binaryType = 'arraybuffer'
      socket.onopen = () => { told.push(socket.protocol); socket.send('Zoë'); socket.send(new Uint8Array(1 << 20).fill(7)); socket.send('close') }
      socket.onmessage = ({ data }) => told.push(typeof data === 'string' ? data : data.byteLength)
      socket.onclose = ({ code, reason }) => resolve([...told, code, reason])
    })`)
    t.same(told, ['b', 'Zoë', 1 << 20, 4001, 'until tomorrow, Zoë'])
  }) // biome-ignore format: scripts of a page

  t.test('import() of [id] loads the module and those that it names', async (t) => {
    const page = await open(origin)
    const loaded = await page.run<string>(
      "import('/app/routes/[id]/page.js').then(({ id, slug }) => id + slug)",
    )
    t.equal(loaded, 'idslug')
    t.equal(await page.run("import('/app/a|b^c.js').then(({ name }) => name)"), 'a|b^c')
    await t.rejects(page.run("import('/app/secret/[id].js')"), /in the page/)
  })

  t.test('cookies with accents arrive as the page wrote them, and the policy sees them', async (t) => {
    const page = await open(origin)
    await page.run("document.cookie = 'name=Zoë Bjørn; path=/'; document.cookie = 'city=Boà; path=/'")
    const told = JSON.parse(await page.run("fetch('/app/a').then((answer) => answer.text())"))
    t.equal(told.cookie, 'name=Zoë Bjørn; city=Boà')
    t.match(decodeURIComponent(told.policy.replaceAll('+', ' ')), /; name=Zoë Bjørn; city=Boà$/)
  }) // biome-ignore format: one line

  t.test('six event streams of one page take no place from requests', async (t) => {
    const page = await open(origin)
    const stream = (from: number, to: number): Promise<number> =>
      page.run(`Promise.all(Array.from({ length: ${to - from} }, (_, i) => new Promise((resolve, reject) => {
        const source = new EventSource('/streams/' + (${from} + i))
        ;(globalThis.sources ??= []).push(source)
        source.onmessage = ({ data }) => { source.got = data; resolve() }
        source.onerror = () => reject(Error('stream ' + (${from} + i)))
      }))).then(() => sources.length)`)
    const ask = `Promise.all(Array.from({ length: 20 }, (_, i) => fetch('/streams/a', { method: i % 2 ? 'POST' : 'GET' }).then(({ status }) => status)))`
    t.equal(await stream(0, 5), 5)
    t.same(new Set(await page.run<number[]>(ask)), new Set([200]), 'beside five, in the same page')
    t.equal(await stream(5, 6), 6)
    // Chromium itself opens six connections to a host and no more, so the requests beside all six are those of another host.
    const beside = await open(`http://localhost:${port}`)
    t.same(new Set(await beside.run<number[]>(ask)), new Set([200]), 'beside six, all places that requests have')
    t.equal(app.streams.size, 6)
    for (const each of app.streams) each.write('data: last\n\n')
    await until('all six go on', async () => (await page.run<string[]>('sources.map(({ got }) => got)')).every((got) => got === 'last'))
    await page.run('sources.forEach((source) => source.close())')
    await until('they are gone', () => app.streams.size === 0)
  }) // biome-ignore format: scripts of a page
}

if (withoutChromium !== false) {
  const named = ['form posts', 'EventSource', 'WebSocket', 'import() of [id]', 'cookies with accents', 'six event streams'] // biome-ignore format: one line
  for (const name of named) t.test(name, { skip: withoutChromium }, async () => {})
} else await walks()
