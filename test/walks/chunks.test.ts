/**
 * Clients that cut their bodies small, over whole gates: what they send arrives byte for byte and in few pieces, and
 * other callers are neither turned away nor lose their worker. What costs by the piece is counted, not timed.
 */
import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { readChunks } from '../harness/recorder.ts'
import type { Answer } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'
import { Wire } from '../harness/wire.ts'

const open = { auth: 'none', labels: { visibility: 'public' } }
const gate = await TestGate.start({
  // The limits are those of a gate: a client that is turned away here is turned away there.
  config: { workers: 1, limits: { max_lag: '500ms', body_bytes: '1MiB' } },
  routes: [
    { name: 'public', path: '/public', ...open },
    // Its bodies stream, whatever the policy reads.
    { name: 'orders', path: '/orders', policy_body: 'withhold' },
  ],
})
t.teardown(() => gate.stop())

/** Once the whole body is there. */
const whole: Answer = (socket, seen) => {
  const look = (): void => {
    if (seen.complete) socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok')
    else if (!seen.closed) setTimeout(look, 2)
  }
  look()
}
t.beforeEach(() => {
  gate.upstream.seen.length = 0
  gate.upstream.answer = whole
})

const restarts = (): number =>
  (gate.gate.status() as { workers: readonly { restarts: number }[] }).workers[0]!.restarts

/** A body that says where each of its bytes belongs, without the end of a chunked one in it. */
const bodyOf = (length: number): string =>
  Array.from({ length: Math.ceil(length / 8) }, (_, i) => String(i).padStart(8, '.'))
    .join('')
    .slice(0, length)

function chunked(body: string, size: number, trailers = ''): string {
  const pieces: string[] = []
  for (let at = 0; at < body.length; at += size) {
    const piece = body.slice(at, at + size)
    pieces.push(`${piece.length.toString(16)}\r\n${piece}\r\n`)
  }
  return `${pieces.join('')}0\r\n${trailers}\r\n`
}

const headOf = (path: string, more = ''): string =>
  `GET ${path} HTTP/1.1\r\nHost: a\r\n${more}Transfer-Encoding: chunked\r\n\r\n`

/** What the upstream got for `path`: the bytes, and in how many pieces. */
function arrived(t: Test, path: string): { body: string; pieces: number } {
  const seen = gate.upstream.seen.filter(({ target }) => target === path)
  t.equal(seen.length, 1, path)
  t.equal(seen[0]!.complete, true)
  const { body, headers } = seen[0]!
  // What is there as a whole before it is sent on is sent as one.
  if (headers.some(([name]) => name === 'content-length')) return { body, pieces: 1 }
  const pieces = body.match(/(?:^|\r\n)[0-9a-f]+\r\n/g)!.length - 1
  return { body: readChunks(body, 0)!.body, pieces }
}

async function dial(): Promise<Socket> {
  const socket = connect(gate.port, '127.0.0.1')
  socket.on('error', () => {})
  await new Promise((resolve) => socket.once('connect', resolve))
  return socket
}

t.test(
  '100,000 chunks of one byte arrive whole and in few pieces, no more than large ones make',
  async (t) => {
    const body = bodyOf(100_000)
    const pieces: number[] = []
    for (const [path, size] of [
      ['/public/small', 1],
      ['/public/large', 4096],
    ] as const) {
      const wire = await Wire.open(gate.port)
      wire.write(
        `${headOf(path)}${chunked(body, size, 'X-Sum: 7\r\n')}${headOf('/public/behind')}0\r\n\r\n`,
      )
      t.equal((await wire.answer())?.status, 200)
      t.equal((await wire.answer())?.status, 200, 'the request behind it')
      const got = arrived(t, path)
      t.ok(got.body === body, path)
      pieces.push(got.pieces)
      wire.destroy()
      gate.upstream.seen.length = 0
    }
    t.comment(`${pieces} pieces`)
    // One each turn: a read brings some kB at least, however the machine cuts them.
    t.ok(pieces[0]! <= 1000, `${pieces[0]} pieces`)
    t.ok(pieces[1]! <= 25, `${pieces[1]} pieces`)
    t.equal(restarts(), 0)
  },
)

t.test('chunks that come before their token is verified arrive in few pieces too', async (t) => {
  const body = bodyOf(3000)
  const token = await gate.issuer.token('alice')
  const wire = await Wire.open(gate.port)
  wire.write(headOf('/orders/early', `Authorization: Bearer ${token}\r\n`) + chunked(body, 1))
  t.equal((await wire.answer())?.status, 200)
  const got = arrived(t, '/orders/early')
  t.ok(got.body === body)
  t.ok(got.pieces <= 30, `${got.pieces} pieces`)
  wire.destroy()
})

t.test('chunks that come slowly go on one by one', async (t) => {
  const wire = await Wire.open(gate.port)
  wire.write(headOf('/public/paced', 'Expect: 100-continue\r\n'))
  await until('it is asked to go on', () => wire.rest.startsWith('HTTP/1.1 100 '))
  let sent = ''
  for (const piece of ['a', 'b', 'c', 'd'.repeat(5000), 'e']) {
    wire.write(`${piece.length.toString(16)}\r\n${piece}\r\n`)
    sent += piece
    // Each goes on by itself: nothing waits for more.
    await until(
      `${piece[0]} is there`,
      () => gate.upstream.seen[0]?.body.includes(`\r\n${piece}`) === true,
    )
  }
  wire.write('0\r\n\r\n')
  t.equal((await wire.answer())?.status, 200)
  t.equal(arrived(t, '/public/paced').body, sent)
  wire.destroy()
})

t.test('the limit of a body is met at the same byte', async (t) => {
  const limit = 2 ** 20
  for (const [extra, size] of [
    [0, 16],
    [1, 16],
    [0, 40_000],
    [1, 40_000],
  ] as const) {
    gate.upstream.seen.length = 0
    const wire = await Wire.open(gate.port)
    wire.write(headOf('/public/limit') + chunked(bodyOf(limit + extra), size))
    const answer = await wire.answer()
    if (extra === 0) {
      t.equal(answer?.status, 200)
      t.equal(arrived(t, '/public/limit').body.length, limit)
    } else {
      t.same([answer?.status, answer?.code], [413, 'ERR_BODY_TOO_LARGE'])
      await until('it is closed', () => gate.upstream.seen[0]?.closed === true)
      t.equal(gate.upstream.seen[0]!.complete, false)
    }
    wire.destroy()
  }
})

t.test('a body that breaks off in the turn that brought it is never whole', async (t) => {
  const wrong = ['', '1\r\nx', '1\r\nxy\r\n', 'zz\r\n', '0\r\n']
  for (const [i, last] of wrong.entries()) {
    const socket = await dial()
    socket.end(`${headOf(`/public/${i}`)}${'1\r\nx\r\n'.repeat(1000)}${last}`, 'latin1')
    const over = new Promise((resolve) => socket.once('close', resolve))
    socket.resume()
    await over
  }
  await until('nothing is open', () => gate.live === 0)
  await until('nothing is on its way', () => gate.upstream.seen.every(({ closed }) => closed))
  t.notOk(gate.upstream.seen.some(({ complete }) => complete))
  t.equal(restarts(), 0)
})

t.test('an upstream that does not read holds the client up, and then gets it all', async (t) => {
  const held: Socket[] = []
  gate.upstream.answer = (socket, seen) => {
    socket.pause()
    held.push(socket)
    whole(socket, seen)
  }
  const body = bodyOf(1_000_000)
  const wire = await Wire.open(gate.port)
  wire.write(headOf('/public/held') + chunked(body, 3))
  await until('it is there', () => held.length === 1)
  t.equal(gate.upstream.seen[0]!.complete, false)
  for (let i = 0; i < 50; i++) t.equal((await gate.ask('/orders')).status, 401)
  t.equal(gate.upstream.seen[0]!.complete, false)
  held[0]!.resume()
  t.equal((await wire.answer())?.status, 200)
  t.ok(arrived(t, '/public/held').body === body)
  wire.destroy()
})

t.test('other callers are served while thousands of chunks arrive', async (t) => {
  const token = await gate.issuer.token('alice')
  const body = chunked(bodyOf(100_000), 1)
  let sending = 0
  const senders = ['a', 'b'].map(async (name) => {
    sending++
    const wire = await Wire.open(gate.port)
    for (let i = 0; i < 2; i++) {
      wire.write(headOf(`/public/${name}${i}`) + body)
      t.equal((await wire.answer())?.status, 200)
    }
    wire.destroy()
    sending--
  })
  const statuses: number[] = []
  const others = Array.from({ length: 4 }, async () => {
    while (sending > 0)
      statuses.push((await gate.ask('/orders', token).catch(() => ({ status: 0 }))).status)
  })
  await Promise.all([...senders, ...others])
  t.ok(statuses.length >= 4, `${statuses.length} requests of others`)
  t.same([...new Set(statuses)], [200])
  t.equal(restarts(), 0)
})

t.test(
  'a body that the policy reads is taken in as few pieces, and capped at the same byte',
  async (t) => {
    const reads = await TestGate.start({
      bundle: null,
      ready: false,
      beside: gate,
      config: { workers: 1, limits: { policy_body: '2KiB' } },
    })
    t.teardown(() => reads.stop())
    reads.put(compile('default decision := false\ndecision if input.parsed_body.amount == 1'))
    await until('ready', () => reads.gate.readiness().ready)
    const token = await reads.issuer.token('alice')
    const headers = `Authorization: Bearer ${token}\r\nContent-Type: application/json\r\n`
    for (const [length, status] of [
      [2048, 200],
      [2049, 413],
    ] as const) {
      const body = `{"amount":1${' '.repeat(length - 12)}}`
      const wire = await Wire.open(reads.port)
      wire.write(headOf('/orders', headers) + chunked(body, 1))
      t.equal((await wire.answer())?.status, status, `${length}`)
      if (status === 200) t.equal(reads.upstream.seen[0]!.body, body)
      wire.destroy()
    }
  },
)
