/** What opens a tunnel and what does not; where a cut falls between frames; which credentials a browser can send. */
import { connect, createServer, type Socket } from 'node:net'
import t from 'tap'
import { WebSocket } from 'ws'
import { TestGate } from '../harness/gate.ts'
import { pause, until } from '../harness/wait.ts'
import { acceptOf } from '../harness/websocket.ts'

/** One connection as a hand-made upstream sees it. */
interface Peer {
  readonly socket: Socket
  head: string
  /** What came after the head. */
  bytes: Buffer
  closed: boolean
}

/** What comes beyond is read and forgotten. */
const keptBytes = 200_000
const peers: Peer[] = []
let onHead: (peer: Peer) => void = () => {}
const server = createServer((socket) => {
  const peer: Peer = { socket, head: '', bytes: Buffer.alloc(0), closed: false }
  let begun = Buffer.alloc(0)
  socket.on('error', () => {})
  socket.on('close', () => {
    peer.closed = true
  })
  socket.on('data', (data) => {
    if (peer.head !== '') {
      if (peer.bytes.length < keptBytes) peer.bytes = Buffer.concat([peer.bytes, data])
      return
    }
    begun = Buffer.concat([begun, data])
    const end = begun.indexOf('\r\n\r\n')
    if (end === -1) return
    peer.head = begun.subarray(0, end).toString('latin1')
    peer.bytes = begun.subarray(end + 4)
    peers.push(peer)
    onHead(peer)
  })
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const upstream = `http://127.0.0.1:${(server.address() as { port: number }).port}`

const open = { auth: 'none', labels: { visibility: 'public' } }
const page = 'https://app.example.com'
const gate = await TestGate.start({
  config: { workers: 1 },
  issuer: { from: ['authorization', 'cookie:session', 'websocket-protocol'] },
  routes: [
    { name: 'orders', path: '/orders', upstream, origins: [page], limits: { idle: '2s' } },
    { name: 'kept', path: '/orders/kept', upstream, origins: [page], forward: { authorization: 'keep' } },
    { name: 'public', path: '/public', upstream, ...open, max_websockets: 3 },
  ],
}) // biome-ignore format: a table
const revoker = await gate.revoker()
t.teardown(async () => {
  for (const { socket } of peers) socket.destroy()
  server.close()
  await gate.stop()
})
t.beforeEach(() => {
  peers.length = 0
  onHead = accept
})

const headerOf = ({ head }: { head: string }, name: string): string | undefined =>
  new RegExp(`^${name}: *(.*)$`, 'im').exec(head)?.[1]
const acceptFor = (peer: Peer): string => acceptOf(headerOf(peer, 'sec-websocket-key'))
const switching = (peer: Peer, ...more: string[]): string =>
  [
    'HTTP/1.1 101 Switching Protocols',
    'Upgrade: websocket',
    'Connection: Upgrade',
    `Sec-WebSocket-Accept: ${acceptFor(peer)}`,
    ...more,
    '',
    '',
  ].join('\r\n')
const accept = (peer: Peer): void => void peer.socket.write(switching(peer)) // biome-ignore format: one line each

const key = 'dGhlIHNhbXBsZSBub25jZQ=='
const handshake = [
  'Host: 127.0.0.1',
  'Connection: Upgrade',
  'Upgrade: websocket',
  `Sec-WebSocket-Key: ${key}`,
  'Sec-WebSocket-Version: 13',
]
const request = (line: string, ...headers: string[]): string => [line, ...headers, '', ''].join('\r\n') // biome-ignore format: one line each

/** A hand-made client: everything that came, and whether it is over. */
class Raw {
  text = ''
  bytes = Buffer.alloc(0)
  closed = false
  readonly socket: Socket

  constructor(bytes: string) {
    this.socket = connect(gate.port, '127.0.0.1', () => this.socket.write(bytes, 'latin1'))
    this.socket.on('error', () => {})
    this.socket.on('data', (data) => {
      if (this.bytes.length >= keptBytes) return
      this.text += data.toString('latin1')
      this.bytes = Buffer.concat([this.bytes, data])
    })
    this.socket.on('close', () => {
      this.closed = true
    })
  }

  get status(): number {
    return Number(/^HTTP\/1\.1 (\d+)/.exec(this.text)?.[1] ?? 0)
  }

  /** What came behind the head. */
  get frames(): Buffer {
    return this.bytes.subarray(this.bytes.indexOf('\r\n\r\n') + 4)
  }
}

const without = (name: string): string[] =>
  handshake.filter((line) => !line.toLowerCase().startsWith(name))
const smuggled = 'GET /public/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'

const wrong: [name: string, bytes: string, status: number, code: string][] = [
  ['a body by its length', `${request('GET /public HTTP/1.1', ...handshake, 'Content-Length: 5')}hello`, 400, 'ERR_UPGRADE_MALFORMED'],
  ['POST', `${request('POST /public HTTP/1.1', ...handshake, `Content-Length: ${smuggled.length}`)}${smuggled}`, 400, 'ERR_UPGRADE_MALFORMED'],
  ['a body in chunks', `${request('GET /public HTTP/1.1', ...handshake, 'Transfer-Encoding: chunked')}0\r\n\r\n`, 400, 'ERR_UPGRADE_MALFORMED'],
  ['a request behind it', request('GET /public HTTP/1.1', ...handshake) + smuggled, 400, 'ERR_UPGRADE_MALFORMED'],
  ['frames behind it', `${request('GET /public HTTP/1.1', ...handshake)}\x81\x80abcd`, 400, 'ERR_UPGRADE_MALFORMED'],
  ['HTTP/1.0', request('GET /public HTTP/1.0', ...handshake), 400, 'ERR_UPGRADE_MALFORMED'],
  ['websocket or h2c', request('GET /public HTTP/1.1', ...without('upgrade'), 'Upgrade: websocket, h2c'), 400, 'ERR_UPGRADE_MALFORMED'],
  ['Upgrade twice', request('GET /public HTTP/1.1', ...handshake, 'Upgrade: h2c'), 400, 'ERR_UPGRADE_MALFORMED'],
  ['a longer word', request('GET /public HTTP/1.1', ...without('upgrade'), 'Upgrade: websockets'), 400, 'ERR_UPGRADE_MALFORMED'],
  ['no key', request('GET /public HTTP/1.1', ...without('sec-websocket-key')), 400, 'ERR_UPGRADE_MALFORMED'],
  ['a short key', request('GET /public HTTP/1.1', ...without('sec-websocket-key'), 'Sec-WebSocket-Key: x'), 400, 'ERR_UPGRADE_MALFORMED'],
  ['two keys', request('GET /public HTTP/1.1', ...handshake, `Sec-WebSocket-Key: ${key}`), 400, 'ERR_UPGRADE_MALFORMED'],
  ['an expectation', request('GET /public HTTP/1.1', ...handshake, 'Expect: 100-continue'), 400, 'ERR_UPGRADE_MALFORMED'],
  ['another version', request('GET /public HTTP/1.1', ...without('sec-websocket-version'), 'Sec-WebSocket-Version: 8'), 426, 'ERR_UPGRADE_VERSION'],
  ['no version', request('GET /public HTTP/1.1', ...without('sec-websocket-version')), 426, 'ERR_UPGRADE_VERSION'],
  ['no credential', request('GET /orders HTTP/1.1', ...handshake), 401, 'ERR_CREDENTIAL_MISSING'],
  ['no route', request('GET /nowhere HTTP/1.1', ...handshake), 404, 'ERR_ROUTE_NOT_FOUND'],
  ['an ambiguous target', request('GET /public/../orders HTTP/1.1', ...handshake), 400, 'ERR_TARGET_MALFORMED'],
] // biome-ignore format: a table

t.test(
  'what is no handshake, or may not be one, opens no tunnel and reaches no upstream',
  async (t) => {
    for (const [name, bytes, status, code] of wrong) {
      const raw = new Raw(bytes)
      await until(`${name} is over`, () => raw.closed)
      t.same([raw.status, raw.text.includes(`"${code}"`)], [status, true], name)
      t.equal(raw.text.match(/^HTTP\/1\.1 /gm)?.length, 1, `${name}: one answer`)
      t.match(raw.text, /connection: close/i, name)
      if (status === 426) t.match(raw.text, /sec-websocket-version: 13/i)
    }
    t.equal(peers.length, 0)
  },
)

t.test('an offer of h2c is not taken up, and the request is served', async (t) => {
  onHead = ({ socket }) =>
    socket.write('HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok')
  const raw = new Raw(
    request(
      'GET /public HTTP/1.1',
      'Host: a',
      'Connection: Upgrade, HTTP2-Settings',
      'Upgrade: h2c',
      'HTTP2-Settings: AAMAAABkAAQAAP__',
    ),
  )
  await until('answered', () => raw.text.endsWith('ok'))
  t.equal(raw.status, 200)
  t.notMatch(peers[0]!.head, /upgrade|http2/i)
  raw.socket.destroy()
})

t.test('bytes before the switch, from either side, open no tunnel', async (t) => {
  onHead = (peer) => setTimeout(() => accept(peer), 150)
  const raw = new Raw(request('GET /public HTTP/1.1', ...handshake))
  await until('it is under way', () => peers.length === 1)
  raw.socket.write(smuggled)
  await until('broken off', () => raw.closed)
  t.equal(raw.text, '')
  await until('at the upstream as well', () => peers[0]!.closed)
  t.equal(peers[0]!.bytes.length, 0)
  onHead = (peer) => void peer.socket.write(`hello\r\n${switching(peer)}`)
  const other = new Raw(request('GET /public HTTP/1.1', ...handshake))
  await until('refused', () => other.closed)
  t.equal(other.status, 502)
})

t.test('only a right 101 opens the tunnel', async (t) => {
  const answers: [name: string, answer: (peer: Peer) => string, status: number][] = [
    ['200 with Upgrade', () => 'HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok', 200],
    ['426 with Upgrade', () => 'HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok', 426],
    ['a foreign key', (peer) => switching(peer).replace(acceptFor(peer), 's3pPLMBiTxaQ9kYGzzhZRbK+xOo='), 502],
    ['no key', (peer) => switching(peer).replace(/Sec-WebSocket-Accept.*\r\n/, ''), 502],
    ['two keys', (peer) => switching(peer, `Sec-WebSocket-Accept: ${acceptFor(peer)}`), 502],
    ['another protocol', (peer) => switching(peer).replace('Upgrade: websocket', 'Upgrade: h2c'), 502],
    ['no protocol', (peer) => switching(peer).replace('Upgrade: websocket\r\n', ''), 502],
    ['two protocols', (peer) => switching(peer, 'Upgrade: h2c'), 502],
  ]
  for (const [name, answer, status] of answers) {
    onHead = (peer) => void peer.socket.write(answer(peer))
    // Its key is not that of the sample in RFC 6455, for which one answer is right.
    const raw = new Raw(request('GET /public HTTP/1.1', ...without('sec-websocket-key'), 'Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA=='))
    raw.socket.on('data', () => raw.socket.write('\x81\x80abcd'))
    await until(`${name} is over`, () => raw.closed)
    t.equal(raw.status, status, name)
    t.notMatch(raw.text, /^upgrade:/im, name)
    await until(`${name}: the upstream connection is over`, () => peers.at(-1)!.closed)
    t.equal(peers.at(-1)!.bytes.length, 0, `${name}: nothing went on`)
  }
  onHead = (peer) => void peer.socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n')
  const unasked = new Raw(request('GET /public HTTP/1.1', 'Host: a'))
  await until('refused', () => unasked.status !== 0)
  t.equal(unasked.status, 502, 'a switch that nobody asked for')
  unasked.socket.destroy()
}) // biome-ignore format: a table

t.test(
  'each tunnel has an upstream connection of its own, and as many as the route allows',
  async (t) => {
    const raws = [1, 2, 3].map(() => new Raw(request('GET /public HTTP/1.1', ...handshake)))
    await until('all are open', () => raws.every(({ status }) => status === 101))
    t.equal(new Set(peers.map(({ socket }) => socket.remotePort)).size, 3)
    const fourth = new Raw(request('GET /public HTTP/1.1', ...handshake))
    await until('refused', () => fourth.closed)
    t.equal(fourth.status, 503)
    for (const { socket } of raws) socket.destroy()
    await until('both sides are gone', () => peers.every(({ closed }) => closed))
    await until('there is room again', async () => {
      const fifth = new Raw(request('GET /public HTTP/1.1', ...handshake))
      await until('answered', () => fifth.status !== 0)
      fifth.socket.destroy()
      return fifth.status === 101
    })
  },
)

/** A frame of a server, or masked of a client, with a payload of zeros (which a mask of zeros leaves). */
function frame(length: number, masked: boolean): Buffer {
  const head = Buffer.from([0x82, (masked ? 0x80 : 0) | 126, length >> 8, length & 0xff])
  return Buffer.concat([head, Buffer.alloc(masked ? 4 : 0), Buffer.alloc(length)])
}

async function tunnelOf(subject: string): Promise<{ raw: Raw; peer: Peer }> {
  const token = await gate.issuer.token(subject)
  const raw = new Raw(
    request('GET /orders HTTP/1.1', ...handshake, `Authorization: Bearer ${token}`),
  )
  await until('it is open', () => raw.status === 101)
  return { raw, peer: peers.at(-1)! }
}

const revoke = (subject: string) =>
  revoker.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [subject])

t.test('between frames both sides get a close frame, the upstream a masked one', async (t) => {
  const { raw, peer } = await tunnelOf('between')
  peer.socket.write(frame(300, false))
  raw.socket.write(frame(200, true))
  await until('they came', () => raw.frames.length === 304 && peer.bytes.length === 208)
  await revoke('between')
  await until('both are over', () => raw.closed && peer.closed)
  const close = raw.frames.subarray(304)
  t.same(
    [close[0], close[1], close.readUInt16BE(2), close.subarray(4).toString()],
    [0x88, 9, 1008, 'revoked'],
  )
  const masked = peer.bytes.subarray(208)
  const mask = masked.subarray(2, 6)
  const text = Buffer.from(masked.subarray(6).map((byte, i) => byte ^ mask[i % 4]!))
  t.same(
    [masked[0], masked[1], text.readUInt16BE(0), text.subarray(2).toString()],
    [0x88, 0x89, 1008, 'revoked'],
  )
})

t.test(
  'inside a frame of the client nothing follows: the upstream sees it broken off',
  async (t) => {
    const { raw, peer } = await tunnelOf('inside')
    raw.socket.write(frame(200, true).subarray(0, 100))
    await until('half of it came', () => peer.bytes.length === 100)
    await revoke('inside')
    await until('both are over', () => raw.closed && peer.closed)
    t.equal(peer.bytes.length, 100)
    t.equal(raw.frames.readUInt16BE(2), 1008, 'the client is told')
  },
)

t.test('a frame to the client may come to its end, but not wait for it', async (t) => {
  const { raw, peer } = await tunnelOf('finish')
  const long = frame(30_000, false)
  peer.socket.write(long.subarray(0, 10_000))
  await until('a part came', () => raw.frames.length === 10_000)
  const cutAt = performance.now()
  let ended = 0
  raw.socket.on('close', () => {
    ended = performance.now()
  })
  await revoke('finish')
  await until('over', () => raw.closed && peer.closed)
  t.equal(raw.frames.length, 10_000, 'no close frame inside a frame')
  t.ok(ended - cutAt < 2000, `after ${Math.round(ended - cutAt)} ms`)

  const second = await tunnelOf('finish-2')
  second.peer.socket.write(long.subarray(0, 10_000))
  await until('a part came', () => second.raw.frames.length === 10_000)
  const rest = setInterval(() => second.peer.socket.write(long.subarray(10_000, 10_010)), 1)
  await revoke('finish-2')
  await until('over', () => second.raw.closed && second.peer.closed)
  clearInterval(rest)
  const third = await tunnelOf('finish-3')
  third.peer.socket.write(long.subarray(0, 10_000))
  await until('a part came', () => third.raw.frames.length === 10_000)
  // The rest is on its way when the cut comes: written as soon as the row commits.
  await revoke('finish-3')
  third.peer.socket.write(Buffer.concat([long.subarray(10_000), frame(5000, false)]))
  await until('over', () => third.raw.closed && third.peer.closed)
  const { frames } = third.raw
  const told = frames.length === long.length + 11 && frames.readUInt16BE(long.length + 2) === 1008
  const early = frames.length === 10_000
  const late = frames.length === long.length + 5004 + 11
  t.ok(told || early || late, `${frames.length} bytes`)
})

t.test('bytes that are no frame of their side end both sides', async (t) => {
  for (const [name, bytes] of [
    ['no mask', '\x82\x01a'],
    ['HTTP', smuggled],
  ] as const) {
    const { raw, peer } = await tunnelOf(`junk-${name}`)
    raw.socket.write(bytes, 'latin1')
    await until('both are over', () => raw.closed && peer.closed)
    t.equal(peer.bytes.length, 0, `${name}: not passed on`)
    t.equal(raw.frames.readUInt16BE(2), 1002, name)
  }
  const { raw, peer } = await tunnelOf('junk-upstream')
  peer.socket.write(frame(5, true))
  await until('both are over', () => raw.closed && peer.closed)
  await until('recorded', () =>
    gate.log.some(
      ({ custom }) => custom.subject === 'junk-upstream' && custom.ended === 'protocol',
    ),
  )
})

t.test('a tunnel with nothing either way for the idle time ends', async (t) => {
  const { raw, peer } = await tunnelOf('idle')
  await until('both are over', () => raw.closed && peer.closed)
  t.equal(raw.frames.readUInt16BE(2), 1001)
})

t.test('a side that does not read holds the other back, both ways', async (t) => {
  for (const side of ['client', 'upstream'] as const) {
    const { raw, peer } = await tunnelOf(`slow-${side}`)
    const [reader, writer] =
      side === 'client' ? [raw.socket, peer.socket] : [peer.socket, raw.socket]
    reader.pause()
    const piece = frame(60_000, side === 'upstream')
    let accepted = 0
    while (writer.writableLength < 4_000_000 && accepted < 400_000_000) {
      writer.write(piece)
      accepted += piece.length
      if (accepted % (piece.length * 16) === 0) await pause(1)
    }
    const passed = accepted - writer.writableLength
    t.ok(passed < 40_000_000, `${side}: ${passed} bytes went on before it stopped`)
    reader.resume()
    await until('the rest comes', () => writer.writableLength === 0)
    raw.socket.destroy()
    await until('both are over', () => peer.closed)
  }
})

t.test('a token may come in a cookie or a subprotocol, where the route says so', async (t) => {
  const token = await gate.issuer.token('browser')
  const ask = async (path: string, ...headers: string[]): Promise<Raw> => {
    const raw = new Raw(request(`GET ${path} HTTP/1.1`, ...handshake, ...headers))
    await until('answered', () => raw.status !== 0)
    raw.socket.destroy()
    return raw
  }
  const cases: [name: string, headers: string[], status: number, code?: string][] = [
    ['a cookie', [`Cookie: a=1; session=${token}; b=2`, `Origin: ${page}`], 101],
    ['a cookie in quotes', [`Cookie: session="${token}"`, `Origin: ${page}`], 101],
    ['a cookie without Origin', [`Cookie: session=${token}`], 403, 'ERR_ORIGIN_NOT_ALLOWED'],
    ['a cookie from elsewhere', [`Cookie: session=${token}`, 'Origin: https://evil.example'], 403, 'ERR_ORIGIN_NOT_ALLOWED'],
    ['a cookie and an Origin that begins alike', [`Cookie: session=${token}`, `Origin: ${page}.evil.example`], 403, 'ERR_ORIGIN_NOT_ALLOWED'],
    ['Origin null', [`Cookie: session=${token}`, 'Origin: null'], 403, 'ERR_ORIGIN_NOT_ALLOWED'],
    ['a header without Origin', [`Authorization: Bearer ${token}`], 101],
    ['a header from elsewhere', [`Authorization: Bearer ${token}`, 'Origin: https://evil.example'], 403, 'ERR_ORIGIN_NOT_ALLOWED'],
    ['a subprotocol', [`Sec-WebSocket-Protocol: chat, bearer.${token}`], 101],
    ['a cookie and a header', [`Cookie: session=${token}`, `Authorization: Bearer ${token}`, `Origin: ${page}`], 400, 'ERR_CREDENTIAL_REPEATED'],
    ['a cookie twice', [`Cookie: session=${token}; session=${token}`, `Origin: ${page}`], 400, 'ERR_CREDENTIAL_REPEATED'],
    ['a cookie in two crumbs', [`Cookie: session=${token}`, `Cookie: session=x`, `Origin: ${page}`], 400, 'ERR_CREDENTIAL_REPEATED'],
    ['a subprotocol and a cookie', [`Sec-WebSocket-Protocol: bearer.${token}`, `Cookie: session=${token}`, `Origin: ${page}`], 400, 'ERR_CREDENTIAL_REPEATED'],
    ['two subprotocols', [`Sec-WebSocket-Protocol: bearer.${token}, bearer.x`], 400, 'ERR_CREDENTIAL_REPEATED'],
    ['a bad cookie', ['Cookie: session=x', `Origin: ${page}`], 401, 'ERR_TOKEN_MALFORMED'],
    ['an empty cookie', ['Cookie: session=', `Origin: ${page}`], 401, 'ERR_TOKEN_MALFORMED'],
  ]
  for (const [name, headers, status, code] of cases) {
    peers.length = 0
    const raw = await ask('/orders', ...headers)
    t.equal(raw.status, status, name)
    if (code !== undefined) t.match(raw.text, code, name)
    t.equal(peers.length, status === 101 ? 1 : 0, name)
    if (status === 101) t.notMatch(peers[0]!.head, token, `${name}: the upstream does not get it`)
  }
  peers.length = 0
  await ask('/orders', `Cookie: a=1; session=${token}; b=2`, `Origin: ${page}`)
  t.equal(headerOf(peers[0]!, 'cookie'), 'a=1; b=2', 'other cookies go on')
  await ask('/orders', `Sec-WebSocket-Protocol: chat, bearer.${token}`)
  t.equal(headerOf(peers[1]!, 'sec-websocket-protocol'), 'chat')
  const echoed = await ask('/orders', `Sec-WebSocket-Protocol: bearer.${token}`)
  t.match(echoed.text, `Sec-WebSocket-Protocol: bearer.${token}`, 'a browser must see its own chosen')
  await ask('/orders/kept', `Cookie: session=${token}`, `Origin: ${page}`)
  t.equal(headerOf(peers[3]!, 'cookie'), `session=${token}`, 'where the route keeps it')
  await until('the log', () => gate.log.length > 0)
  t.notMatch(JSON.stringify(gate.log), token, 'and no log holds it')
}) // biome-ignore format: a table

t.test('a request with a cookie that reads needs no Origin, one that changes does', async (t) => {
  onHead = ({ socket }) =>
    socket.write('HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok')
  const token = await gate.issuer.token('browser', { claims: { roles: ['manager'] } })
  const cookie = `session=${token}`
  const origin = (value: string) => ({ cookie, origin: value })
  t.equal((await gate.ask('/orders', undefined, { headers: { cookie } })).status, 200)
  t.equal(
    (await gate.ask('/orders', undefined, { headers: origin('https://evil.example') })).code,
    'ERR_ORIGIN_NOT_ALLOWED',
  )
  const post = { method: 'POST', body: 'x' }
  t.equal(
    (await gate.ask('/orders', undefined, { ...post, headers: { cookie } })).code,
    'ERR_ORIGIN_NOT_ALLOWED',
  )
  t.equal((await gate.ask('/orders', undefined, { ...post, headers: origin(page) })).status, 200)
  const basic = { cookie, authorization: 'Basic eDp5' }
  t.equal(
    (await gate.ask('/orders', undefined, { headers: basic })).status,
    200,
    'another scheme is no credential',
  )
})

t.test(
  'compressed messages of a WebSocket of the ws library arrive as sent, its close does too',
  async (t) => {
    const { WebSocketServer } = await import('ws')
    const wss = new WebSocketServer({
      port: 0,
      host: '127.0.0.1',
      perMessageDeflate: { threshold: 0 },
    })
    await new Promise((resolve) => wss.once('listening', resolve))
    const { port } = wss.address() as { port: number }
    let closedWith = 0
    wss.on('connection', (ws) => {
      ws.on('message', (data, binary) => ws.send(data, { binary }))
      ws.on('close', (code) => {
        closedWith = code
      })
    })
    // The hand-made upstream hands its connection on.
    onHead = (peer) => {
      const there = connect(port, '127.0.0.1', () => there.write(`${peer.head}\r\n\r\n`))
      peer.socket.pipe(there).pipe(peer.socket)
      there.on('error', () => {})
    }
    const ws = new WebSocket(`ws://127.0.0.1:${gate.port}/orders`, {
      headers: { authorization: `Bearer ${await gate.issuer.token('ws')}` },
      perMessageDeflate: { threshold: 0 },
    })
    const got: Buffer[] = []
    ws.on('message', (data: Buffer) => got.push(data))
    await new Promise((resolve) => ws.once('open', resolve))
    t.match(ws.extensions, 'permessage-deflate')
    const sent = [Buffer.from('short'), Buffer.alloc(3_000_000, 'dropgate '), Buffer.from('last')]
    for (const each of sent) ws.send(each)
    await until('all came back', () => got.length === 3)
    t.ok(got.every((each, i) => each.equals(sent[i]!)))
    ws.close(4001, 'enough')
    await until('closed', () => closedWith !== 0)
    t.equal(closedWith, 4001)
    await until('recorded as done', () =>
      gate.log.some(({ custom }) => custom.subject === 'ws' && custom.ended === 'done'),
    )
    wss.close()
  },
)
