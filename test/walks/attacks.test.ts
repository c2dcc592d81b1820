/** What an attacker with raw sockets once found open, each with what must happen instead. */
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { readAuthority } from '../../src/route/target.ts'
import { TestGate } from '../harness/gate.ts'
import { ok } from '../harness/upstream.ts'
import { pause, until } from '../harness/wait.ts'
import { Wire } from '../harness/wire.ts'

const open = { auth: 'none', labels: { visibility: 'public' } }
const gate = await TestGate.start({
  config: { workers: 1, limits: { body_idle: '300ms', read_idle: '300ms', requests: 200 } },
  routes: [
    { name: 'public', path: '/public', ...open },
    { name: 'dead', path: '/public/dead', ...open, upstream: 'http://127.0.0.1:1' },
    { name: 'narrow', path: '/public/narrow', ...open, max_connections: 1 },
    { name: 'orders', path: '/orders' },
  ],
})
t.teardown(() => gate.stop())
t.beforeEach(() => {
  gate.upstream.seen.length = 0
  gate.upstream.answer = ok
})

interface Worker {
  readonly restarts: number
  readonly problem: string | null
}
const restarts = (): number =>
  (gate.gate.status() as { workers: readonly Worker[] }).workers[0]!.restarts

function dial(): Promise<Socket> {
  return new Promise((resolve) => {
    const socket = connect(gate.port, '127.0.0.1', () => resolve(socket))
    socket.on('error', () => {})
    t.teardown(() => socket.destroy())
  })
}

t.test('a host seen under one scheme is not another host under the other', async (t) => {
  readAuthority('sapi.example.com', 'http')
  t.equal(readAuthority('api.example.com', 'https').host, 'api.example.com')
})

t.test('a body that stops after its request was answered ends no other exchange', async (t) => {
  const half = (path: string): string =>
    `GET ${path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789`
  const unreachable = await dial()
  unreachable.write(half('/public/dead'))

  const held: Socket[] = []
  gate.upstream.answer = (socket) => held.push(socket)
  const first = gate.ask('/public/narrow')
  await until('the one place is taken', () => held.length === 1)
  const full = await dial()
  full.write(half('/public/narrow'))
  await pause(1000)
  t.equal(restarts(), 0)
  ok(held[0]!, gate.upstream.seen[0]!)
  t.equal((await first).status, 200, 'whoever was there before is served')
})

t.test('a client that leaves far ahead of its answers takes nothing from others', async (t) => {
  gate.upstream.answer = () => {}
  const socket = await dial()
  const one = 'GET /public HTTP/1.1\r\nHost: a\r\n\r\n'
  for (let i = 0; i < 500; i++) socket.write(one.repeat(100))
  await pause(500)
  socket.resetAndDestroy()
  gate.upstream.answer = ok
  const began = performance.now()
  t.equal((await gate.ask('/public')).status, 200)
  t.ok(performance.now() - began < 5000)
  t.equal(restarts(), 0)

  gate.upstream.seen.length = 0
  const few = await gate.raw(one.repeat(64), 2000)
  t.equal(few.match(/HTTP\/1\.1 200/g)?.length, 64, 'who is a little ahead gets every answer')
})

t.test(
  'what waits behind an answer is bounded, on one connection and on all of them',
  async (t) => {
    const held: Socket[] = []
    gate.upstream.answer = (socket) => held.push(socket)
    const one = 'GET /public HTTP/1.1\r\nHost: a\r\n\r\n'
    const ahead = async (count: number): Promise<Wire> => {
      const wire = await Wire.open(gate.port)
      t.teardown(() => wire.destroy())
      wire.write(one.repeat(1 + count))
      return wire
    }
    const far = await ahead(65)
    await far.end()
    t.equal(far.rest, '', 'too far: the connection is over')
    await until('the record', () => gate.log.some(({ custom }) => custom.code === 'ERR_OVERLOADED'))

    // `limits.requests` is 200: three times 60 may wait and the next 60 may not.
    gate.upstream.seen.length = 0
    const all: Wire[] = []
    for (let i = 0; i < 3; i++) all.push(await ahead(60))
    await until('each has begun', () => gate.upstream.seen.length === 3)
    const more = await ahead(60)
    await more.end()
    t.same(
      all.map(({ closed }) => closed),
      [false, false, false],
      'nobody else is touched',
    )
    gate.upstream.answer = ok
    t.equal((await gate.ask('/public')).status, 200, 'nor is anybody turned away')
    for (const socket of held) ok(socket, gate.upstream.seen[0]!)
    for (const wire of all) for (let i = 0; i < 61; i++) t.equal((await wire.answer())?.status, 200)
    const again = await ahead(60)
    t.equal((await again.answer())?.status, 200, 'the room is there again')
  },
)

t.test('a client that is gone when it is accepted is no other, and ends no worker', async (t) => {
  const revoker = await gate.revoker()
  gate.upstream.answer = () => {}
  const two = 'GET /public HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(2)
  for (let i = 0; i < 300; i++) {
    await new Promise<void>((resolve) => {
      const socket = connect(gate.port, '127.0.0.1', () => {
        socket.write(two)
        socket.resetAndDestroy()
        resolve()
      })
      socket.on('error', () => {})
    })
  }
  for (const { headers } of gate.upstream.seen)
    t.same(headers.find(([name]) => name === 'x-forwarded-for')?.[1], '127.0.0.1')
  // From now on whatever is open is asked where it comes from.
  await revoker.query("INSERT INTO dropgate.revocations (network) VALUES ('10.99.0.0/16')")
  await revoker.query("INSERT INTO dropgate.revocations (network) VALUES ('10.98.0.0/16')")
  await pause(1000)
  gate.upstream.answer = ok
  t.equal((await gate.ask('/public')).status, 200)
  t.equal(restarts(), 0)
})

t.test('a CONNECT behind the last answer, and then a reset, takes no worker with it', async (t) => {
  const bytes = `POST /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nokCONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n`
  for (let i = 0; i < 200; i++) {
    const socket = await dial()
    socket.write(bytes)
    if (i % 2 === 0) await pause(1)
    socket.resetAndDestroy()
  }
  await pause(200)
  t.equal((await gate.ask('/public')).status, 200)
  t.equal(restarts(), 0)
})

t.test('a refusal reaches a client that is still sending', async (t) => {
  const body = Buffer.alloc(20_000_000, 'x')
  for (let i = 0; i < 10; i++) {
    const answer = await fetch(`http://127.0.0.1:${gate.port}/orders`, { method: 'POST', body })
    t.equal(answer.status, 401)
    await answer.text()
  }
  t.equal(gate.upstream.seen.length, 0)
})

t.test('an answer of our own that its client does not read is not kept for ever', async (t) => {
  const socket = await dial()
  socket.pause()
  let closed = false
  socket.on('close', () => {
    closed = true
  })
  const one = 'GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n'
  const writing = setInterval(() => socket.write(one.repeat(20)), 1)
  t.teardown(() => clearInterval(writing))
  await until(
    'it is let go',
    async () => {
      // A paused socket does not notice that it was closed; a write to it does.
      const text = await (
        await fetch(`${gate.admin}/metrics`, {
          headers: { authorization: `Bearer ${gate.adminToken}` },
        })
      ).text()
      return closed || /^dropgate_unread_answers_total [1-9]/m.test(text)
    },
    30_000,
  )
  t.equal(restarts(), 0)
})

t.test(
  'no other spelling of a header of ours gets through, and the policy sees what the upstream gets',
  async (t) => {
    for (const name of [
      'X-Dropgate!Subject',
      "X-Forwarded'For",
      'X-User~Id',
      'X*Real*IP',
      'X+Dropgate+Issuer',
    ])
      t.match(
        await gate.raw(`GET /public HTTP/1.1\r\nHost: a\r\n${name}: x\r\n\r\n`),
        /400[\s\S]*ERR_HEADER_MALFORMED/,
        name,
      )
    t.equal(gate.upstream.seen.length, 0)

    const forged = [
      'Connection: x-tenant',
      'X-Tenant: mine',
      'X-Dropgate-Subject: admin',
      'X-Forwarded-For: 6.6.6.6',
      'Client-Cert: :x:',
      'SSL-Client-S-DN: admin',
      'X-Kept: 1',
    ]
    t.match(
      await gate.raw(`GET /public HTTP/1.1\r\nHost: a\r\n${forged.join('\r\n')}\r\n\r\n`),
      /^HTTP\/1\.1 200/,
    )
    const [seen] = gate.upstream.seen
    const id = seen!.headers.find(([name]) => name === 'x-dropgate-decision-id')![1]
    await until('the record', () => gate.log.some((event) => event.decision_id === id))
    const { input } = gate.log.find((event) => event.decision_id === id)!
    const { headers } = (
      input as { attributes: { request: { http: { headers: Record<string, string> } } } }
    ).attributes.request.http
    t.same(Object.keys(headers).sort(), ['host', 'x-kept'])
    const names = seen!.headers.map(([name]) => name)
    for (const name of ['x-tenant', 'x-dropgate-subject', 'client-cert', 'ssl-client-s-dn'])
      t.notOk(names.includes(name), name)
  },
)
