/** What stands around a request: proxies in front, pages of other origins, limits, the upstream's address. */
import { connect, createServer, type Socket } from 'node:net'
import t from 'tap'
import { type DecisionEvent, TestGate } from '../harness/gate.ts'
import { ok, type Seen } from '../harness/upstream.ts'
import { pause, until } from '../harness/wait.ts'

const open = { auth: 'none', labels: { visibility: 'public' } }
const app = 'https://app.example'
const gate = await TestGate.start({
  config: {
    workers: 1,
    listen: [
      { host: '127.0.0.1', port: 0 },
      { host: '127.0.0.1', port: 0, trusted_proxies: ['127.0.0.0/8', '10.0.0.0/8'] },
      {
        host: '127.0.0.1',
        port: 0,
        trusted_proxies: ['127.0.0.1'],
        proxy_protocol: 'required',
      },
    ],
    limits: { body_idle: '300ms', read_idle: '1s', cookies: 3, header_value_bytes: '1KiB', requests: 40 },
  },
  routes: [
    { name: 'public', path: '/public', ...open, forward: { remove: ['X-Tenant'] }, timeouts: { headers: '2s', idle: '2s' } },
    { name: 'orders', path: '/orders', methods: ['GET', 'PUT'], cors: { origins: [app], headers: ['Authorization'], credentials: true } },
    { name: 'inside', path: '/inside', ...open, upstream: 'http://localtest.localhost.invalid:1' },
    { name: 'slow', path: '/slow', ...open, max_connections: 1000 },
  ],
}) // biome-ignore format: a table
t.teardown(() => gate.stop())
t.beforeEach(() => {
  gate.upstream.seen.length = 0
  gate.upstream.answer = ok
})
const [, behind, proxied] = gate.gate.address().ports as [number, number, number]
const alice = await gate.issuer.token('alice')
const manager = await gate.issuer.token('maria', { claims: { roles: ['manager'] } })

const headerOf = (seen: Seen | undefined, name: string): string[] =>
  (seen?.headers ?? []).filter(([each]) => each === name).map(([, value]) => value)

async function sendTo(port: number, bytes: string): Promise<string> {
  const plain = gate.port
  gate.port = port
  try {
    return await gate.raw(bytes)
  } finally {
    gate.port = plain
  }
}
const get = (...headers: string[]): string =>
  `GET /public HTTP/1.1\r\n${['Host: a.example', ...headers].join('\r\n')}\r\n\r\n`

const sourceOf = (event: DecisionEvent | undefined): unknown =>
  (event?.input as { attributes: { source: { address: { socketAddress: unknown } } } } | undefined)
    ?.attributes.source.address.socketAddress

async function recorded(seen: Seen | undefined): Promise<DecisionEvent> {
  const [id] = headerOf(seen, 'x-dropgate-decision-id')
  const find = (): DecisionEvent | undefined => gate.log.find((each) => each.decision_id === id)
  await until('the record', () => find() !== undefined)
  return find()!
}

t.test('the client that a trusted proxy names is told to policy, log and upstream', async (t) => {
  const forged = [
    'X-Forwarded-For: 6.6.6.6, "unknown, 198.51.100.1, 10.0.0.9',
    'X-Forwarded-Proto: wss',
  ]
  t.match(await sendTo(behind, get(...forged)), /^HTTP\/1\.1 200/)
  const [seen] = gate.upstream.seen
  t.same(headerOf(seen, 'x-forwarded-for'), ['198.51.100.1, 10.0.0.9, 127.0.0.1'])
  t.same(headerOf(seen, 'x-real-ip'), ['198.51.100.1'])
  t.same(headerOf(seen, 'x-forwarded-proto'), ['https'])
  t.same(headerOf(seen, 'x-forwarded-port'), ['443'])
  const event = await recorded(seen)
  t.match(sourceOf(event), { address: '198.51.100.1', portValue: 0 })
  t.equal(event.requested_by, '198.51.100.1')
  t.match(event.input, { attributes: { request: { http: { scheme: 'https' } } } })

  t.match(await gate.raw(get(...forged)), /^HTTP\/1\.1 200/, 'on a port without trust')
  t.same(headerOf(gate.upstream.seen[1], 'x-forwarded-for'), ['127.0.0.1'])
  t.match(await sendTo(behind, get('X-Forwarded-For: nonsense')), /400[\s\S]*ERR_HEADER_MALFORMED/)
  t.equal(gate.upstream.seen.length, 2)
})

t.test('the PROXY protocol names the client; a connection without it is refused', async (t) => {
  const head = 'PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n'
  t.match(await sendTo(proxied, head + get()), /^HTTP\/1\.1 200/, 'in one piece')
  const [seen] = gate.upstream.seen
  t.same(headerOf(seen, 'x-forwarded-for'), ['198.51.100.7'])
  t.match(sourceOf(await recorded(seen)), { address: '198.51.100.7', portValue: 4711 })

  const answers = await new Promise<string>((resolve) => {
    let text = ''
    const socket = connect(proxied, '127.0.0.1', async () => {
      for (const byte of head) {
        socket.write(byte)
        await pause(1)
      }
      socket.write(get())
      await until('the first answer', () => /ok$/.test(text))
      socket.write(get('Connection: close'))
    })
    socket.on('data', (data) => {
      text += data.toString('latin1')
    })
    socket.on('close', () => resolve(text))
  })
  t.equal(answers.match(/HTTP\/1\.1 200/g)?.length, 2, 'byte by byte, and kept alive')

  for (const bytes of [
    get(),
    `proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n${get()}`,
    'PROXY TCP4 1.1.1.1 2.2.2.2 70000 2\r\n',
  ])
    t.equal(await sendTo(proxied, bytes), '', JSON.stringify(bytes.slice(0, 30)))
  t.equal(gate.upstream.seen.length, 3)

  // The load balancer could not name the client, and has read nothing of what it sends.
  const version2 = Buffer.from('\r\n\r\n\0\r\nQUIT\n\x20\0\0\0', 'latin1').toString('latin1')
  for (const nameless of ['PROXY UNKNOWN\r\n', version2]) {
    t.match(await sendTo(proxied, nameless + get('X-Forwarded-For: 6.6.6.6')), /^HTTP\/1\.1 200/)
    t.same(headerOf(gate.upstream.seen.at(-1), 'x-forwarded-for'), ['127.0.0.1'])
  }
})

t.test(
  'a page of another origin gets preflights by the rules, and answers that say who may read',
  async (t) => {
    const ask = (headers: Record<string, string>, method = 'OPTIONS', token?: string) =>
      gate.ask('/orders', token, { method, headers })
    const asked = { origin: app, 'access-control-request-method': 'PUT' }
    const yes = await ask({ ...asked, 'access-control-request-headers': 'authorization' })
    t.equal(yes.status, 204)
    t.match(yes.headers, {
      'access-control-allow-origin': app,
      'access-control-allow-methods': 'GET, PUT',
      'access-control-allow-credentials': 'true',
      vary: /Origin/,
    })
    for (const no of [
      { ...asked, origin: 'https://evil.example' },
      { ...asked, 'access-control-request-method': 'DELETE' },
      { ...asked, 'access-control-request-headers': 'x-other' },
    ]) {
      const answer = await ask(no)
      t.same([answer.status, answer.code], [403, 'ERR_CORS_REFUSED'])
      t.equal(answer.headers['access-control-allow-methods'], undefined)
    }
    t.equal(
      (await ask({ origin: app })).code,
      'ERR_METHOD_NOT_ALLOWED',
      'OPTIONS that is no preflight',
    )
    t.equal(gate.upstream.seen.length, 0, 'the upstream saw none of it')

    gate.upstream.answer = (socket) =>
      socket.write(
        'HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\nvary: accept\r\ncontent-length: 0\r\n\r\n',
      )
    const allowed = await ask({ origin: app }, 'GET', alice)
    t.equal(
      allowed.headers['access-control-allow-origin'],
      app,
      "the route's rules, not the upstream's",
    )
    t.match(allowed.headers.vary, /accept.*Origin/)
    const denied = await ask({ origin: app }, 'PUT', alice)
    t.same([denied.status, denied.headers['access-control-allow-origin']], [403, app])
    t.equal(
      (await ask({ origin: app }, 'GET')).headers['access-control-allow-origin'],
      app,
      '401 too',
    )
    const stranger = await ask({ origin: 'https://evil.example' }, 'GET', alice)
    t.equal(stranger.headers['access-control-allow-origin'], undefined)
    t.match(stranger.headers.vary, /Origin/)
    t.equal(
      (await gate.ask('/public', undefined, { headers: { origin: app } })).headers.vary,
      'accept',
    )
  },
)

t.test('headers that a route never takes from a client do not reach the upstream', async (t) => {
  await gate.raw(get('X-Tenant: root', 'X-Other: 1'))
  t.same(headerOf(gate.upstream.seen[0], 'x-tenant'), [])
  t.same(headerOf(gate.upstream.seen[0], 'x-other'), ['1'])
})

t.test('proofs that are bound to a connection are refused, and not offered', async (t) => {
  for (const scheme of ['NTLM TlRMTVNTUAAB', 'Negotiate YII=', 'negotiate'])
    t.match(await gate.raw(get(`Authorization: ${scheme}`)), /401[\s\S]*ERR_CREDENTIAL_BOUND/)
  gate.upstream.answer = (socket) =>
    socket.write(
      'HTTP/1.1 401 x\r\nwww-authenticate: Negotiate\r\nwww-authenticate: Basic realm="x"\r\ncontent-length: 0\r\n\r\n',
    )
  const answer = await gate.raw(get())
  t.match(answer, /www-authenticate: Basic/)
  t.notMatch(answer, /Negotiate/)
})

t.test('each limit of the head has its code', async (t) => {
  t.match(await gate.raw(get(`X-A: ${'a'.repeat(1025)}`)), /431[\s\S]*ERR_HEADERS_TOO_LARGE/)
  t.match(
    await gate.raw(get('Cookie: a=1; b=2', 'Cookie: c=3; d=4')),
    /431[\s\S]*ERR_HEADERS_TOO_LARGE/,
  )
  t.match(await gate.raw(get('Cookie: a=1; b=2; c=3')), /^HTTP\/1\.1 200/)
})

t.test(
  'a body that stops coming is given up: 408, and the upstream never sees its end',
  async (t) => {
    gate.upstream.answer = () => {}
    const answer = await new Promise<string>((resolve) => {
      let text = ''
      const socket = connect(gate.port, '127.0.0.1', () =>
        socket.write(
          `PUT /orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${manager}\r\nContent-Length: 10\r\n\r\nabc`,
        ),
      )
      socket.on('data', (data) => {
        text += data.toString('latin1')
      })
      socket.on('close', () => resolve(text))
    })
    t.match(answer, /408[\s\S]*ERR_BODY_TIMEOUT/)
    t.match(answer, /connection: close/i)
    await until('the upstream is told', () => gate.upstream.seen[0]?.closed === true)
    t.equal(gate.upstream.seen[0]!.complete, false)
  },
)

t.test(
  'a large answer that comes in one burst with its head is read, and no unread one',
  async (t) => {
    const size = 400_000
    gate.upstream.answer = (socket) => {
      const head = Buffer.from(`HTTP/1.1 200 OK\r\ncontent-length: ${size + 10}\r\n\r\n`)
      socket.write(Buffer.concat([head, Buffer.alloc(size, 'x')]))
      // Longer than `read_idle` after the burst was read.
      let left = 10
      const timer = setInterval(() => {
        socket.write('y')
        if (--left === 0) clearInterval(timer)
      }, 160)
    }
    const answers = await Promise.all(Array.from({ length: 6 }, () => gate.ask('/orders', manager)))
    for (const { status, body } of answers) t.same([status, body.length], [200, size + 10])
    t.notOk(/^dropgate_unread_answers_total [1-9]/m.test(await metrics()))
  },
)

t.test('an answer that its client does not read is given up and counted', async (t) => {
  const chunk = Buffer.alloc(1 << 20)
  gate.upstream.answer = (socket) => {
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${64 * chunk.length}\r\n\r\n`)
    for (let i = 0; i < 64; i++) socket.write(chunk)
  }
  const socket = connect(gate.port, '127.0.0.1', () => socket.write(get()))
  socket.pause()
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  await until('it is counted', async () =>
    /^dropgate_unread_answers_total 1$/m.test(await metrics()),
  )
  await until('the upstream is let go', () => gate.upstream.sockets.size === 0 || !busy())
  function busy(): boolean {
    return [...gate.upstream.sockets].some((each) => each.writableLength > 0)
  }
})

async function metrics(): Promise<string> {
  const answer = await fetch(`${gate.admin}/metrics`, {
    headers: { authorization: `Bearer ${gate.adminToken}` },
  })
  return await answer.text()
}

t.test(
  'requests beyond the limit get 503 while health answers; then all is well again',
  async (t) => {
    const held: Socket[] = []
    gate.upstream.answer = (socket) => held.push(socket)
    const waiting = Array.from({ length: 40 }, () => gate.ask('/slow'))
    await until('all are at the upstream', () => gate.upstream.seen.length === 40)
    const over = await gate.ask('/slow')
    t.same([over.status, over.code, over.headers['retry-after']], [503, 'ERR_OVERLOADED', '1'])
    t.equal((await fetch(`${gate.admin}/readyz`)).status, 200)
    gate.upstream.answer = ok
    for (const [i, socket] of held.entries()) ok(socket, gate.upstream.seen[i]!)
    for (const answer of await Promise.all(waiting)) t.equal(answer.status, 200)
    t.equal((await gate.ask('/slow')).status, 200)
  },
)

t.test('a name that means this machine is not dialled', async (t) => {
  // Any name under .localhost is this machine; a name outside that resolves there may have been registered by any stranger.
  const other = createServer((socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'))
  t.teardown(() => other.close())
  const answer = await gate.ask('/inside')
  t.equal(answer.status, 502)
  t.match(answer.code, /^ERR_UPSTREAM_(?:ADDRESS|UNREACHABLE)$/)
})
