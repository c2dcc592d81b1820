/**
 * What the gate changes in Node's internals, each on real sockets: that the change still acts, and, where that can be seen,
 * that Node by itself still does what makes it necessary. A failure here after an update of Node is read with
 * src/node-quirks.ts beside it.
 */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import {
  createServer as createHttpServer,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import {
  type AddressInfo,
  connect,
  createServer,
  type Server as NetServer,
  type Socket,
} from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import t from 'tap'
import {
  closeLastBy,
  hookReads,
  hookWrites,
  keepIdleWhile,
  readOn,
  setMaxHeaderSize,
  socketBeneathTls,
  startTimeouts,
  stopReading,
  wrapConnections,
} from '../src/node-quirks.ts'
import { until } from './harness/wait.ts'

interface Test {
  teardown(end: () => void): void
}

async function listen(t: Test, server: NetServer | Server): Promise<number> {
  const open = new Set<Socket>()
  server.on('connection', (socket: Socket) => open.add(socket.on('error', () => {})))
  t.teardown(() => {
    for (const socket of open) socket.destroy()
    server.close()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}

function client(
  t: Test,
  port: number,
): { socket: Socket; received: () => string; closed: () => boolean } {
  const socket = connect(port, '127.0.0.1').on('error', () => {})
  t.teardown(() => socket.destroy())
  let text = ''
  let closed = false
  socket.on('data', (bytes: Buffer) => {
    text += bytes.toString('latin1')
  })
  socket.on('close', () => {
    closed = true
  })
  return { socket, received: () => text, closed: () => closed }
}

const get = (path: string, more = ''): string => `GET ${path} HTTP/1.1\r\nHost: a\r\n${more}\r\n`

/** Everything that was sent before has had its turn on this server: so many answers have come since, on a connection of its own. */
async function roundTrips(t: Test, port: number): Promise<void> {
  const { socket, received } = client(t, port)
  for (let i = 1; i <= 20; i++) {
    socket.write(get('/round'))
    await until('an answer', () => received().split('HTTP/1.1 200').length > i)
  }
}

t.test(
  'stopReading: no request behind it is parsed until readOn; pause alone does not last',
  async (t) => {
    for (const stop of [stopReading, (socket: Socket) => void socket.pause()]) {
      const paths: string[] = []
      let held: IncomingMessage | undefined
      const server = createHttpServer((req, res) => {
        if (req.url === '/round') return void res.end()
        paths.push(req.url!)
        if (held !== undefined) return
        held = req
        stop(req.socket)
      })
      const port = await listen(t, server)
      const { socket } = client(t, port)
      socket.write(get('/first'))
      await until('the first request', () => paths.length === 1)
      socket.write(get('/second'))
      if (stop === stopReading) {
        await roundTrips(t, port)
        t.same(paths, ['/first'])
        readOn(held!.socket)
      }
      await until('the second request', () => paths.length === 2)
    }
  },
)

t.test('socketBeneathTls: the connection that was handed to the TLS server', async (t) => {
  const pem = (name: string): string => readFileSync(`test/harness/certificates/${name}`, 'utf8')
  const tls = createTlsServer({ cert: pem('server.pem'), key: pem('server.key') })
  let raw: Socket | undefined
  let secure: Socket | undefined
  tls.on('secureConnection', (socket) => {
    secure = socket
  })
  const front = createServer((socket) => {
    raw = socket
    tls.emit('connection', socket)
  })
  const port = await listen(t, front)
  const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
  t.teardown(() => socket.destroy())
  await until('the handshake', () => secure !== undefined)
  t.equal(socketBeneathTls(secure!), raw)
  t.equal(socketBeneathTls(raw!), undefined)
})

t.test(
  'hookWrites: told before each write, and a failure does nothing until it is told',
  async (t) => {
    let accepted: Socket | undefined
    const port = await listen(
      t,
      createServer((socket) => {
        accepted = socket
      }),
    )
    const socket = connect(port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    // So that only a write can notice the end.
    socket.pause()
    let error: Error | undefined
    socket.on('error', (thrown) => {
      error = thrown
    })
    let writes = 0
    let tell: (() => void) | undefined
    await until('it is connected', () => accepted !== undefined && !socket.connecting)
    hookWrites(socket, {
      onWrite: () => {
        writes++
      },
      onFailed: (_error, told) => {
        tell = told
      },
    })
    await new Promise((resolve) => socket.write('a', resolve))
    t.equal(writes, 1)
    socket.cork()
    socket.write('b')
    const flushed = new Promise((resolve) => socket.write('c', resolve))
    socket.uncork()
    await flushed
    t.equal(writes, 2, 'two pieces in one write')
    accepted!.resetAndDestroy()
    await until('a write fails', () => {
      if (tell === undefined) socket.write('d')
      return tell !== undefined
    })
    await new Promise((resolve) => setImmediate(resolve))
    t.equal(socket.destroyed, false)
    t.equal(error, undefined)
    tell!()
    await until('the error is out', () => error !== undefined && socket.destroyed)
  },
)

t.test('hookReads: sees each piece before any reader, and may keep or change it', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const [[accepted], client] = await Promise.all([
    once(server, 'connection') as Promise<[Socket]>,
    connect((server.address() as AddressInfo).port, '127.0.0.1'),
  ])
  let held = ''
  hookReads(accepted, (bytes) => {
    held += bytes ?? '.'
    return bytes === null ? Buffer.from(held) : Buffer.alloc(0)
  })
  client.write('one')
  await new Promise((resolve) => setTimeout(resolve, 20))
  client.end('two')
  const read: Buffer[] = []
  for await (const bytes of accepted) read.push(bytes)
  t.equal(Buffer.concat(read).toString(), 'onetwo.')
})

t.test('closeLastBy: after the last answer the socket is closed as it says', async (t) => {
  let closing: (() => void) | undefined
  const server = createHttpServer((req, res) => {
    if (req.url === '/round') return void res.end()
    closeLastBy(req.socket, (destroySoon) => {
      closing = destroySoon
    })
    res.shouldKeepAlive = false
    res.end('last')
  })
  const port = await listen(t, server)
  const { socket, received, closed } = client(t, port)
  socket.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc')
  await until('the answer is sent', () => closing !== undefined && received().endsWith('last'))
  await roundTrips(t, port)
  t.equal(closed(), false)
  closing!()
  await until('it is closed', closed)
})

t.test('keepIdleWhile: an answer that is written and not yet sent is not broken off', async (t) => {
  const size = 12_000_000
  for (const patched of [true, false]) {
    let res: ServerResponse | undefined
    const server = createHttpServer((_req, answer) => {
      res = answer
      answer.end(Buffer.alloc(size))
    })
    if (patched) keepIdleWhile(server, () => res?.closed === false)
    const port = await listen(t, server)
    const { socket, received, closed } = client(t, port)
    socket.pause()
    socket.write(get('/'))
    await until('it is answered', () => res?.writableEnded === true)
    server.close()
    socket.resume()
    await until('all has come, or the end', () => received().length > size || closed())
    t.equal(received().length > size, patched, patched ? 'as it should be' : 'Node by itself')
    if (patched) {
      await until('the answer is over', () => res!.closed)
      server.closeIdleConnections()
      await until('an idle connection is closed', closed)
    }
  }
})

t.test('setMaxHeaderSize: for connections from then on', async (t) => {
  const server = createHttpServer({ maxHeaderSize: 2000 }, (_req, res) => res.end())
  const port = await listen(t, server)
  const statusOf = async (bytes: number): Promise<string> => {
    const { socket, received } = client(t, port)
    socket.write(get('/', `X: ${'a'.repeat(bytes)}\r\nConnection: close\r\n`))
    await until('an answer', () => received().includes('\r\n\r\n'))
    return received().slice(9, 12)
  }
  t.equal(await statusOf(1000), '200')
  t.equal(await statusOf(4000), '431')
  setMaxHeaderSize(server, 8000)
  t.equal(await statusOf(4000), '200')
  setMaxHeaderSize(server, 500)
  t.equal(await statusOf(1000), '431')
})

t.test(
  'startTimeouts: a server that does not listen itself times slow heads out and knows its connections',
  async (t) => {
    const server = createHttpServer({
      headersTimeout: 50,
      requestTimeout: 0,
      connectionsCheckingInterval: 10,
    })
    t.teardown(() => server.close())
    const late: string[] = []
    let parsed = 0
    server.on('request', () => parsed++)
    server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
      late.push(error.code ?? '')
      socket.destroy()
    })
    const front = createServer((socket) => void server.emit('connection', socket))
    const port = await listen(t, front)
    startTimeouts(server)
    const slow = client(t, port)
    slow.socket.write('GET / HTTP/1.1\r\nHost')
    await until('it is late', () => late.length === 1)
    t.same(late, ['ERR_HTTP_REQUEST_TIMEOUT'])
    await until('and closed', slow.closed)
    const quick = client(t, port)
    quick.socket.write(get('/'))
    await until('a request', () => parsed === 1)
    server.closeAllConnections()
    await until('closed with all', quick.closed)
  },
)

t.test('wrapConnections: the parser reads and writes through what is put between', async (t) => {
  const paths: string[] = []
  const server = createHttpServer((req, res) => {
    paths.push(req.url!)
    res.end('raw answer')
  })
  wrapConnections(server, (socket) => {
    const between = new Duplex({
      read() {},
      write: (bytes: Buffer, _encoding, done) =>
        void socket.write(bytes.toString('latin1').replace('raw', 'new'), () => done()),
    })
    socket.on('data', (bytes: Buffer) => {
      between.push(bytes.toString('latin1').replace('/raw', '/new'))
    })
    socket.on('close', () => between.destroy())
    return between
  })
  const port = await listen(t, server)
  const { socket, received } = client(t, port)
  socket.write(get('/raw'))
  await until('an answer', () => received().endsWith('answer'))
  t.same(paths, ['/new'])
  t.ok(received().endsWith('new answer'))
})
