/** Bodies both ways, what breaks on the way, and what the upstream is told. */
import { createServer, request } from 'node:http'
import { connect } from 'node:net'
import t from 'tap'
import { TestGate } from '../harness/gate.ts'
import { ok, type Seen } from '../harness/upstream.ts'
import { pause, until } from '../harness/wait.ts'

const open = { auth: 'none', labels: { visibility: 'public' } }
const hasty = createServer((_req, res) => {
  res.writeHead(413, { connection: 'close', 'content-length': 2 })
  res.end('no')
})
await new Promise<void>((resolve) => hasty.listen(0, '127.0.0.1', resolve))
t.teardown(() => hasty.close())
const early = `http://127.0.0.1:${(hasty.address() as { port: number }).port}`
const gate = await TestGate.start({
  config: { workers: 1 },
  routes: [
    { name: 'orders', path: '/orders' },
    { name: 'kept', path: '/orders/kept', forward: { authorization: 'keep', identity: 'none' } },
    {
      name: 'public',
      path: '/public',
      ...open,
    },
    {
      name: 'hasty',
      path: '/public/hasty',
      ...open,
      timeouts: { connect: '300ms', headers: '400ms', idle: '400ms' },
    },
    { name: 'early', path: '/orders/early', upstream: early },
    { name: 'closed', path: '/closed', ...open, upstream: 'http://127.0.0.1:1' },
    { name: 'narrow', path: '/narrow', ...open, max_connections: 2 },
  ],
  bundle: 'bundles/gate.tar.gz',
})
t.teardown(() => gate.stop())
t.beforeEach(() => {
  gate.upstream.seen.length = 0
  gate.upstream.answer = ok
})
const manager = await gate.issuer.token('maria', {
  claims: { roles: ['manager'], sub: 'mária @ 100%', scope: 'a b', sid: 's 1' },
})

const live = (): number =>
  (gate.gate.status() as { workers: { live_exchanges: number }[] }).workers[0]!.live_exchanges

const headerOf = (seen: Seen, name: string): string[] =>
  seen.headers.filter(([each]) => each === name).map(([, value]) => value)

t.test('what the upstream is told is ours, whatever the client says', async (t) => {
  const forged = {
    'X-Dropgate-Subject': 'root', 'x-dropgate-issuer': 'x', 'X-Forwarded-For': '6.6.6.6', 'X-Forwarded-Host': 'evil', 'X-Forwarded-Port': '1', 'X-Forwarded-Prefix': '/admin', 'X-Forwarded-Proto': 'https',
    Forwarded: 'for=6.6.6.6', 'X-Real-IP': '6.6.6.6', 'X-Original-URL': '/admin', 'X-HTTP-Method-Override': 'DELETE', 'X-Envoy-Original-Path': '/admin',
    Connection: 'keep-alive, x-hop', 'X-Hop': '1', TE: 'trailers', 'Proxy-Authorization': 'Basic x', 'X-Innocent': 'yes',
  } // biome-ignore format: a table
  t.equal((await gate.ask('/orders?x=1', manager, { headers: forged })).status, 200)
  const [seen] = gate.upstream.seen
  t.equal(seen!.requestLine, 'GET /orders?x=1 HTTP/1.1')
  const told: [name: string, ...values: string[]][] = [
    ['x-dropgate-subject', 'm%C3%A1ria%20@%20100%25'], ['x-dropgate-issuer', gate.issuer.url], ['x-dropgate-client', 'app'], ['x-dropgate-session', 's%201'],
    ['x-dropgate-scopes', 'a b'], ['x-dropgate-route', 'orders'], ['x-forwarded-for', '127.0.0.1'], ['x-forwarded-proto', 'http'],
    ['x-forwarded-host', `127.0.0.1:${gate.port}`], ['host', `127.0.0.1:${gate.port}`], ['x-innocent', 'yes'],
    ['authorization'], ['forwarded'], ['x-real-ip', '127.0.0.1'], ['x-forwarded-port', String(gate.port)], ['x-original-url'], ['x-http-method-override'], ['x-envoy-original-path'], ['x-forwarded-prefix'], ['x-hop'], ['te', 'trailers'], ['proxy-authorization'],
  ] // biome-ignore format: a table
  for (const [name, ...values] of told) t.same(headerOf(seen!, name), values, name)
  const [decisionId] = headerOf(seen!, 'x-dropgate-decision-id')
  await until('the record', () => gate.log.some((event) => event.decision_id === decisionId))
})

t.test('a route may keep the token and tell nothing', async (t) => {
  t.equal((await gate.ask('/orders/kept', manager)).status, 200)
  const [seen] = gate.upstream.seen
  t.same(headerOf(seen!, 'authorization'), [`Bearer ${manager}`])
  t.notMatch(seen!.head, /x-dropgate/i)
})

t.test(
  'of an answer no header of the gate is taken from the upstream, and hop-by-hop headers end here',
  async (t) => {
    gate.upstream.answer = (socket) =>
      socket.write(
        'HTTP/1.1 201 Made\r\nX-Dropgate-Subject: root\r\nx_dropgate_subject: root\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Odd: caf\xe9\r\ncontent-length: 2\r\n\r\nok',
        'latin1',
      )
    const { status, headers, body } = await gate.ask('/public')
    t.same([status, body], [201, 'ok'])
    t.same(headers['set-cookie'], ['a=1', 'b=2'])
    t.equal(headers['x-odd'], 'caf\xe9')
    for (const name of ['x-dropgate-subject', 'x_dropgate_subject', 'x-hop'])
      t.notOk(name in headers, name)
  },
)

t.test('HEAD, 204, 304 and an answer after interim ones arrive whole', async (t) => {
  gate.upstream.answer = (socket) => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n')
  const head = await gate.ask('/public', undefined, { method: 'HEAD' })
  t.same([head.status, head.headers['content-length'], head.body], [200, '100', ''])
  for (const line of ['204 No Content', '304 Not Modified']) {
    gate.upstream.answer = (socket) => socket.write(`HTTP/1.1 ${line}\r\n\r\n`)
    t.equal((await gate.ask('/public')).status, Number(line.slice(0, 3)))
  }
  gate.upstream.answer = (socket, seen) => {
    socket.write('HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n')
    ok(socket, seen)
  }
  t.same([(await gate.ask('/public')).status, (await gate.ask('/public')).body], [200, 'ok'])
})

t.test('a small answer is the same, byte for byte, however it comes', async (t) => {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
  const head = 'HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n'
  const chunked = Buffer.concat([
    Buffer.from(`${head}Transfer-Encoding: chunked\r\n\r\n100\r\n`),
    bytes,
    Buffer.from('\r\n0\r\n\r\n'),
  ])
  const whole = Buffer.concat([Buffer.from(`${head}Content-Length: 256\r\n\r\n`), bytes])
  const last = Buffer.concat([Buffer.from(`${head}Connection: close\r\n\r\n`), bytes])
  for (const answer of [whole, chunked, last]) {
    for (const pieces of [1, 2, 5, answer.length]) {
      gate.upstream.answer = async (socket) => {
        const size = Math.ceil(answer.length / pieces)
        for (let at = 0; at < answer.length; at += size) {
          socket.write(answer.subarray(at, at + size))
          if (pieces > 1 && pieces < 10) await pause(2)
        }
        if (answer === last) socket.end()
      }
      const response = await fetch(`http://127.0.0.1:${gate.port}/orders`, {
        headers: { authorization: `Bearer ${manager}` },
      })
      t.ok(Buffer.from(await response.arrayBuffer()).equals(bytes), `in ${pieces} pieces`)
    }
  }
})

t.test('an answer in another transfer coding is not passed on as if it had none', async (t) => {
  gate.upstream.answer = (socket) => {
    socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nnot plain')
  }
  const { status, code } = await gate.ask('/orders', manager)
  t.same([status, code], [502, 'ERR_UPSTREAM_MALFORMED'])
})

t.test('a client that waits for events has the head before the first of them', async (t) => {
  gate.upstream.answer = (socket) => {
    socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n')
  }
  const leave = new AbortController()
  const response = await fetch(`http://127.0.0.1:${gate.port}/orders`, {
    headers: { authorization: `Bearer ${manager}` },
    signal: leave.signal,
  })
  t.equal(response.status, 200)
  leave.abort()
  await until('gone', () => live() === 0)
})

t.test('an upstream that is away, sends nonsense or nothing in time is a 502 or 504', async (t) => {
  t.equal((await gate.ask('/closed')).code, 'ERR_UPSTREAM_UNREACHABLE')
  const nonsense: [name: string, bytes: string | null, status: number, code: string][] = [
    ['closes', null, 502, 'ERR_UPSTREAM_UNREACHABLE'],
    ['is no HTTP', 'hello\r\n\r\n', 502, 'ERR_UPSTREAM_MALFORMED'],
    ['length and chunks', 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n', 502, 'ERR_UPSTREAM_MALFORMED'],
    ['NUL in a header', 'HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 0\r\n\r\n', 502, 'ERR_UPSTREAM_MALFORMED'],
    ['headers without end', `HTTP/1.1 200 OK\r\nx: ${'a'.repeat(40_000)}\r\n\r\n`, 502, 'ERR_UPSTREAM_MALFORMED'],
    ['interim answers without end', 'HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(20), 502, 'ERR_UPSTREAM_MALFORMED'],
    ['silence', '', 504, 'ERR_UPSTREAM_TIMEOUT'],
  ] // biome-ignore format: a table
  for (const [name, bytes, status, code] of nonsense) {
    gate.upstream.answer = (socket) => {
      if (bytes === null) socket.destroy()
      else socket.write(bytes, 'latin1')
    }
    const answer = await gate.ask(bytes === '' ? '/public/hasty' : '/public')
    t.same([answer.status, answer.code], [status, code], name)
  }
  gate.upstream.answer = ok
  for (let i = 0; i < 10; i++)
    t.equal((await gate.ask('/public')).status, 200, 'and goes on after it')
})

t.test('an upstream that answers before it has read, and hangs up, is heard', async (t) => {
  const body = Buffer.alloc(3_000_000, 'x')
  const statuses = new Map<number, number>()
  for (let i = 0; i < 40; i++) {
    const url = `http://127.0.0.1:${gate.port}/orders/early`
    const headers = { authorization: `Bearer ${manager}` }
    const answer = await fetch(url, { method: 'POST', headers, body })
    statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1)
    await answer.text()
  }
  t.same([...statuses], [[413, 40]])
})

t.test('an answer cut short never looks complete', async (t) => {
  for (const [name, head] of [
    ['with a length', 'content-length: 100\r\n\r\nhalf'],
    ['in chunks', 'transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n'],
    ['in the middle of a chunk', 'transfer-encoding: chunked\r\n\r\n64\r\nhalf'],
  ] as const) {
    gate.upstream.answer = (socket) => {
      socket.write(`HTTP/1.1 200 OK\r\n${head}`)
      setTimeout(() => socket.destroy(), 30)
    }
    const answer = await gate.ask('/public')
    t.same([answer.status, answer.complete], [200, false], name)
  }
  gate.upstream.answer = (socket) =>
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf')
  t.equal((await gate.ask('/public/hasty')).complete, false, 'silence after half of it')
})

t.test('a request cut short never looks complete', async (t) => {
  for (const [name, framing] of [
    ['with a length', 'Content-Length: 100\r\n\r\nhalf'],
    ['in chunks', 'Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n'],
  ] as const) {
    gate.upstream.seen.length = 0
    gate.upstream.answer = () => {}
    const socket = connect(gate.port, '127.0.0.1', () =>
      socket.write(
        `POST /orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${manager}\r\n${framing}`,
      ),
    )
    await until('it is under way', () => gate.upstream.seen[0]?.body.includes('half') === true)
    socket.destroy()
    await until('the upstream is told', () => gate.upstream.seen[0]!.closed)
    t.equal(gate.upstream.seen[0]!.complete, false, name)
  }
})

t.test('bodies arrive whole, with 100-continue and without', async (t) => {
  const body = Buffer.alloc(3_000_000, 'abcdefghij')
  gate.upstream.answer = () => {}
  for (const headers of [
    { 'content-length': String(body.length) },
    { 'transfer-encoding': 'chunked' },
  ] as Record<string, string>[]) {
    gate.upstream.seen.length = 0
    const answer = gate.ask('/orders', manager, { method: 'POST', body, headers })
    await until('the whole body', () => gate.upstream.seen[0]?.complete === true)
    ok([...gate.upstream.sockets].at(-1)!, gate.upstream.seen[0]!)
    t.equal((await answer).status, 200)
    const text = gate.upstream.seen[0]!.body.replace(/(?:^|\r\n)[0-9a-f]+\r\n/g, '')
    t.ok(text.startsWith(body.toString('latin1', 0, 1000)))
  }
  gate.upstream.answer = ok
  const expecting = await gate.raw(
    `POST /orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${manager}\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi`,
    5000,
  )
  t.match(expecting, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK/)
  const refused = await gate.raw(
    'POST /orders HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n',
  )
  t.match(refused, /^HTTP\/1\.1 401 /, 'no invitation to send what is refused')
})

async function standsStill(count: () => number): Promise<void> {
  let before = -1
  await until('it stands still', async () => {
    const still = count() === before
    before = count()
    await pause(300)
    return still
  })
}

t.test('backpressure: a slow reader holds the writer back, in both directions', async (t) => {
  const chunk = Buffer.alloc(64 * 1024, 'x')
  const total = 64 << 20
  let written = 0
  gate.upstream.answer = (socket) => {
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${total}\r\n\r\n`)
    const more = (): void => {
      while (written < total) {
        written += chunk.length
        if (!socket.write(chunk)) {
          socket.once('drain', more)
          return
        }
      }
    }
    more()
  }
  let received = 0
  const done = new Promise<void>((resolve) => {
    request({ host: '127.0.0.1', port: gate.port, path: '/public', agent: false }, async (res) => {
      res.pause()
      // Every buffer on the way fills up, then nothing moves any more.
      await standsStill(() => written)
      t.ok(written < total / 2, `${written >> 20} MiB left the upstream while nobody read`)
      res.on('data', (data: Buffer) => {
        received += data.length
      })
      res.on('close', () => resolve())
      res.resume()
    }).end()
  })
  await done
  t.equal(received, total)

  gate.upstream.answer = (socket) => socket.pause()
  let sent = 0
  const client = request({
    host: '127.0.0.1',
    port: gate.port,
    path: '/orders',
    method: 'POST',
    agent: false,
    headers: { authorization: `Bearer ${manager}` },
  })
  client.on('error', () => {})
  const push = (): void => {
    while (sent < total) {
      sent += chunk.length
      if (!client.write(chunk)) {
        client.once('drain', push)
        return
      }
    }
  }
  push()
  await standsStill(() => sent)
  t.ok(sent < total / 2, `${sent >> 20} MiB left the client while the upstream did not read`)
  client.destroy()
  // The gate does not read from a client that it holds back, so it notices that the client has left only when the
  // upstream goes on or ends.
  for (const socket of gate.upstream.sockets) socket.destroy()
  await until('nothing is open', () => live() === 0)
})

t.test('no more under way than the route allows; the places come back', async (t) => {
  const held: (() => void)[] = []
  gate.upstream.answer = (socket, seen) => held.push(() => ok(socket, seen))
  const first = [gate.ask('/narrow'), gate.ask('/narrow')]
  await until('both are there', () => held.length === 2)
  const third = await gate.ask('/narrow')
  t.same([third.status, third.code, third.headers['retry-after']], [503, 'ERR_OVERLOADED', '1'])
  for (const end of held) end()
  t.same(
    (await Promise.all(first)).map(({ status }) => status),
    [200, 200],
  )
  gate.upstream.answer = (socket) => socket.destroy()
  for (let i = 0; i < 20; i++) t.equal((await gate.ask('/narrow')).code, 'ERR_UPSTREAM_UNREACHABLE')
  gate.upstream.answer = ok
  for (let i = 0; i < 20; i++) t.equal((await gate.ask('/narrow')).status, 200)
})

t.test(
  'a client that leaves ends the exchange upstream, and nothing stays registered',
  async (t) => {
    gate.upstream.answer = (socket) =>
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf')
    const client = request({
      host: '127.0.0.1',
      port: gate.port,
      path: '/orders',
      agent: false,
      headers: { authorization: `Bearer ${manager}` },
    })
    client.on('error', () => {})
    client.on('response', (res) => res.on('error', () => {}))
    client.end()
    await until('it is live', () => live() === 1)
    client.destroy()
    await until('it is not', () => live() === 0)
    t.pass()
  },
)
