/** What is sent again, and what never: once, where nothing was sent, or where nothing was answered and asking changes nothing. */

import { readFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import { createServer as createTlsServer } from 'node:tls'
import t from 'tap'
import type { GateError } from '../../src/errors.ts'
import type { Connection } from '../../src/upstream/connection.ts'
import { Forwarding, type UpstreamRequest } from '../../src/upstream/forward.ts'
import { type PoolOptions, type Upstream, UpstreamPool } from '../../src/upstream/pools.ts'
import { until } from '../harness/wait.ts'

interface Outcome {
  readonly dispatched: number
  readonly code: string
}

function poolOf(origin: string, over: Partial<PoolOptions> = {}): UpstreamPool {
  const limits = {
    ...{ maxConnections: 4, maxStreams: 1, maxWebSockets: 1, maxAgeMs: 0 },
    ...{ connectMs: 500, headersMs: 500, idleMs: 500 },
  }
  const rules = { deny: [], adminPort: 0 }
  return new UpstreamPool({ origin, ...limits, tls: undefined, ...over }, rules)
}

/** Sends one request to an origin and counts how often undici was asked to. */
async function send(
  origin: string,
  method: string,
  body: Readable | Buffer | null = null,
): Promise<Outcome> {
  const pool = poolOf(origin)
  let dispatched = 0
  const counted = (connection: Connection): Connection => {
    const { client } = connection
    const dispatch = client.dispatch.bind(client)
    client.dispatch = (...args) => {
      dispatched++
      return dispatch(...args)
    }
    return connection
  }
  const counting: Upstream = {
    options: pool.options,
    serverName: pool.serverName,
    admit: () => counted(pool.admit()),
    renew: (connection) => counted(pool.renew(connection)),
    becomeStream: () => pool.becomeStream(),
    release: (connection, end) => pool.release(connection, end),
  }
  const error = await new Promise<GateError>((resolve, reject) => {
    Forwarding.start(
      counting,
      { method, path: '/', headers: ['host', 'a'], body },
      {
        onEarlyHints: () => {},
        onHead: () => reject(new Error('answered')),
        onData: () => {},
        onEnd: () => reject(new Error('ended')),
        onError: resolve,
        onSwitched: () => reject(new Error('switched')),
      },
    )
  })
  t.equal(pool.inFlight, 0, 'its place is given back')
  pool.close()
  return { dispatched, code: error.code }
}

t.test('a request without a connection is tried once more where that does no harm', async (t) => {
  const closed = 'http://127.0.0.1:1'
  const code = 'ERR_UPSTREAM_UNREACHABLE'
  t.same(await send(closed, 'GET'), { dispatched: 2, code })
  t.same(await send(closed, 'DELETE'), { dispatched: 2, code })
  t.same(await send(closed, 'POST'), { dispatched: 1, code }, 'not what may not be repeated')
  t.same(await send(closed, 'PUT', Readable.from(['x'])), { dispatched: 1, code }, 'nor a body')
})

t.test('what was sent on a new connection is never sent again', async (t) => {
  let connections = 0
  const server = createServer((socket) => {
    connections++
    socket.once('data', () => socket.resetAndDestroy())
    socket.on('error', () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const outcome = await send(`http://127.0.0.1:${port}`, 'GET')
  t.same(outcome, { dispatched: 1, code: 'ERR_UPSTREAM_UNREACHABLE' })
  t.equal(connections, 1)
})

const pem = (name: string): string => readFileSync(`test/harness/certificates/${name}`, 'utf8')

/**
 * A GET and then another request to an upstream that answers the first on each connection and ends it at the second:
 * with no answer, in the middle of one, while the request is given up here, or never.
 * @returns how they end, and what the upstream read.
 */
async function sendTwice(
  method: string,
  second: 'silent' | 'begun' | 'cut' | 'late',
  { encrypted = false, body = null as Buffer | null } = {},
): Promise<{ ends: string[]; seen: string[] }> {
  const seen: string[] = []
  let sending: Forwarding | undefined
  const accept = (socket: Socket): void => {
    let asked = 0
    socket.on('error', () => {})
    socket.on('data', (bytes) => {
      const [, path] = String(bytes).split(' ', 2)
      seen.push(path!)
      if (++asked === 1) socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n')
      else if (second === 'begun') socket.end('HTTP/1.1 2')
      else if (second !== 'late') {
        if (second === 'cut') sending!.abort(new Error('cut'))
        socket.destroy()
      }
    })
  }
  const server = encrypted
    ? createTlsServer({ key: pem('server.key'), cert: pem('server.pem') }, accept)
    : createServer(accept)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const pool = poolOf(`${encrypted ? 'https' : 'http'}://127.0.0.1:${port}`, {
    tls: encrypted ? { ca: pem('authority.pem'), server_name: 'localhost' } : undefined,
  })
  const ask = (request: Pick<UpstreamRequest, 'method' | 'path' | 'body'>): Promise<string> =>
    new Promise((resolve) => {
      sending = Forwarding.start(
        pool,
        { ...request, headers: ['host', 'a'] },
        {
          onEarlyHints: () => {},
          onHead: () => {},
          onData: () => {},
          onEnd: () => resolve('answered'),
          onError: ({ code }) => resolve(code),
          onSwitched: () => resolve('switched'),
        },
      )
    })
  const first = await ask({ method: 'GET', path: '/1', body: null })
  const ends = [first, await ask({ method, path: '/2', body })]
  t.equal(pool.inFlight, 0, 'its place is given back')
  pool.close()
  server.close()
  return { ends, seen }
}

t.test(
  'a kept connection that ends unanswered: what changes nothing is sent once more',
  async (t) => {
    const lost = ['answered', 'ERR_UPSTREAM_UNREACHABLE']
    const repeated = { ends: ['answered', 'answered'], seen: ['/1', '/2', '/2'] }
    for (const encrypted of [false, true]) {
      for (const method of ['GET', 'HEAD', 'OPTIONS'])
        t.same(await sendTwice(method, 'silent', { encrypted }), repeated, method)
      for (const method of ['POST', 'PUT', 'DELETE', 'PATCH']) {
        const { ends, seen } = await sendTwice(method, 'silent', { encrypted })
        t.same([ends, seen], [lost, ['/1', '/2']], method)
      }
      const body = Buffer.from('x')
      t.same((await sendTwice('GET', 'silent', { encrypted, body })).ends, lost, 'nor a body')
      const begun = await sendTwice('GET', 'begun', { encrypted })
      t.same(begun.seen, ['/1', '/2'], 'nor what was answered in part')
      const cut = await sendTwice('GET', 'cut', { encrypted })
      t.same([cut.ends, cut.seen], [lost, ['/1', '/2']], 'nor what was cut')
      const late = await sendTwice('GET', 'late', { encrypted })
      t.same([late.ends[1], late.seen], ['ERR_UPSTREAM_TIMEOUT', ['/1', '/2']], 'nor what is late')
    }
  },
)

t.test('a request that undici refuses for its arguments takes no place with it', async (t) => {
  const server = createHttpServer((_req, res) => res.end('here'))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const pool = poolOf(`http://127.0.0.1:${port}`, { maxConnections: 1 })
  t.teardown(() => pool.close())
  const ask = (headers: string[], path = '/'): Promise<number | string> =>
    new Promise((resolve) => {
      Forwarding.start(
        pool,
        { method: 'GET', path, headers, body: null },
        {
          onEarlyHints: () => {},
          onHead: resolve,
          onData: () => {},
          onEnd: () => {},
          onError: ({ code }) => resolve(code),
          onSwitched: () => resolve('switched'),
        },
      )
    })
  // Twice as often as the pool has connections.
  for (let i = 0; i < 2 * (pool.options.maxConnections + 1); i++) {
    t.equal(await ask(['host', 'a', 'x', 'a\nb']), 'ERR_UPSTREAM_MALFORMED')
    t.equal(await ask(['host', 'a'], '/ x'), 'ERR_UPSTREAM_MALFORMED')
  }
  t.equal(await ask(['host', 'a']), 200)
  await until('its place is given back', () => pool.inFlight === 0)
})

t.test(
  'what an upstream has answered is read, however late, before it is said to have hung up',
  async (t) => {
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => {
        socket.write('HTTP/1.1 413 Too Much\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno')
        socket.resetAndDestroy()
        // Before this thread reads again: the write fails, and it is held up for longer than a failure is kept back.
        setImmediate(() => {
          body.push('more')
          const end = performance.now() + 200
          while (performance.now() < end);
        })
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    t.teardown(() => server.close())
    const { port } = server.address() as AddressInfo
    const own = { maxConnections: 1, headersMs: 2000, idleMs: 2000 }
    const pool = poolOf(`http://127.0.0.1:${port}`, own)
    t.teardown(() => pool.close())
    const body = new Readable({ read: () => {} })
    body.push('some')
    let answer = ''
    const ended = await new Promise<string>((resolve) => {
      Forwarding.start(
        pool,
        { method: 'POST', path: '/', headers: ['host', 'a'], body },
        {
          onEarlyHints: () => {},
          onHead: (status) => {
            answer += `${status} `
          },
          onData: (chunk) => {
            answer += chunk
          },
          onEnd: () => resolve('answered'),
          onError: ({ code }) => resolve(code),
          onSwitched: () => resolve('switched'),
        },
      )
    })
    t.same([ended, answer], ['answered', '413 no'])
    await until('its place is given back', () => pool.inFlight === 0)
  },
)

t.test('a request that is given up while its connection is being opened frees its place at once', async (t) => {
  // It never answers the TLS handshake.
  const accepted: Socket[] = []
  const server = createServer((socket) => accepted.push(socket.on('error', () => {})))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const origin = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
  const pool = poolOf(origin, { maxConnections: 1, connectMs: 0, headersMs: 0, idleMs: 0 })
  const codes: string[] = []
  for (let i = 0; i < 3; i++) {
    const sending = Forwarding.start(
      pool,
      { method: 'GET', path: '/', headers: ['host', 'a'], body: null },
      {
        onEarlyHints: () => {},
        onHead: () => {},
        onData: () => {},
        onEnd: () => {},
        onError: ({ code }) => codes.push(code),
        onSwitched: () => {},
      },
    )
    await until('it is being opened', () => accepted.length > i)
    sending.abort(new Error('cut'))
    t.equal(pool.inFlight, 0)
    accepted[i]!.resume()
    await until('nothing is opened any more', () => accepted[i]!.destroyed)
  }
  t.equal(codes.length, 3)
  pool.close()
}) // biome-ignore format: short

t.test('connections that rest after a HEAD count as connections', async (t) => {
  let most = 0
  let open = 0
  const server = createServer((socket) => {
    most = Math.max(most, ++open)
    socket.on('close', () => open--).on('error', () => {})
    socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n'))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const pool = poolOf(origin, { maxConnections: 2, connectMs: 0, headersMs: 0, idleMs: 0 })
  t.teardown(() => pool.close())
  for (let i = 0; i < 30; i++)
    await new Promise<void>((resolve, reject) => {
      Forwarding.start(
        pool,
        { method: 'HEAD', path: '/', headers: ['host', 'a'], body: null },
        {
          onEarlyHints: () => {},
          onHead: () => {},
          onData: () => {},
          onEnd: () => resolve(),
          onError: reject,
          onSwitched: () => {},
        },
      )
    })
  // One that is ended may be noticed here only after the next one has come.
  t.ok(most <= pool.options.maxConnections + 1, `${most} at once`)
}) // biome-ignore format: short

t.test('no request follows one that its upstream answered before it took all of it', async (t) => {
  let connections = 0
  const server = createServer((socket) => {
    connections++
    socket.on('error', () => {}).once('data', () => {
      socket.pause()
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n')
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const pool = poolOf(origin, { maxConnections: 2, connectMs: 0, headersMs: 2000, idleMs: 0 })
  t.teardown(() => pool.close())
  const ask = (method: string, body: Readable | Buffer | null): Promise<string> =>
    new Promise((resolve) => {
      Forwarding.start(
        pool,
        { method, path: '/', headers: ['host', 'a'], body },
        {
          onEarlyHints: () => {},
          onHead: () => {},
          onData: () => {},
          onEnd: () => resolve('answered'),
          onError: ({ code }) => resolve(code),
          onSwitched: () => {},
        },
      )
    })
  // More than the operating system takes for a connection that is not read.
  const large = Buffer.alloc(32 << 20)
  t.equal(await ask('POST', large), 'answered')
  t.equal(await ask('POST', Readable.from([large])), 'answered')
  t.equal(await ask('GET', null), 'answered')
  t.equal(connections, 3)
}) // biome-ignore format: short
