/** What is sent again, and what never: once, where no connection came about and a repetition could do no harm. */
import { createServer as createHttpServer } from 'node:http'
import { createServer } from 'node:net'
import { Readable } from 'node:stream'
import t from 'tap'
import type { Dispatcher } from 'undici'
import type { GateError } from '../../src/errors.ts'
import { Sending } from '../../src/upstream/forward.ts'
import { type Upstream, UpstreamPool } from '../../src/upstream/pools.ts'
import { until } from '../harness/wait.ts'

interface Outcome {
  readonly dispatched: number
  readonly code: string
}

/** Sends one request to an origin and counts how often undici was asked to. */
async function send(
  origin: string,
  method: string,
  body: Readable | Buffer | null = null,
): Promise<Outcome> {
  const limits = {
    maxConnections: 4,
    maxWebSockets: 1,
    connectMs: 500,
    headersMs: 500,
    idleMs: 500,
  }
  const pool = new UpstreamPool({ origin, ...limits, tls: undefined }, { deny: [], adminPort: 0 })
  let dispatched = 0
  const counting: Upstream = {
    options: pool.options,
    serverName: pool.serverName,
    admit: () => {
      const undici = pool.admit()
      const dispatch: Dispatcher['dispatch'] = (...args) => {
        dispatched++
        return undici.dispatch(...args)
      }
      return { dispatch } as Dispatcher
    },
    release: () => pool.release(),
    replace: () => {},
  }
  const error = await new Promise<GateError>((resolve, reject) => {
    Sending.start(
      counting,
      { method, path: '/', headers: ['host', 'a'], body },
      {
        onHead: () => reject(new Error('answered')),
        onData: () => {},
        onEnd: () => reject(new Error('ended')),
        onError: resolve,
        onSwitched: () => reject(new Error('switched')),
      },
    )
  })
  t.equal(pool.inFlight, 0, 'its place is given back')
  await pool.close()
  return { dispatched, code: error.code }
}

t.test('no connection: tried once more where that can do no harm', async (t) => {
  const closed = 'http://127.0.0.1:1'
  const code = 'ERR_UPSTREAM_UNREACHABLE'
  t.same(await send(closed, 'GET'), { dispatched: 2, code })
  t.same(await send(closed, 'DELETE'), { dispatched: 2, code })
  t.same(await send(closed, 'POST'), { dispatched: 1, code }, 'not what may not be repeated')
  t.same(await send(closed, 'PUT', Readable.from(['x'])), { dispatched: 1, code }, 'nor a body')
})

t.test('what was sent is never sent again', async (t) => {
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

t.test('a request that undici refuses for its arguments takes no place with it', async (t) => {
  const server = createHttpServer((_req, res) => res.end('here'))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const limits = {
    maxConnections: 1,
    maxWebSockets: 1,
    connectMs: 500,
    headersMs: 500,
    idleMs: 500,
  }
  const pool = new UpstreamPool(
    { origin: `http://127.0.0.1:${port}`, ...limits, tls: undefined },
    { deny: [], adminPort: 0 },
  )
  t.teardown(() => pool.close())
  const ask = (headers: string[], path = '/'): Promise<number | string> =>
    new Promise((resolve) => {
      Sending.start(
        pool,
        { method: 'GET', path, headers, body: null },
        {
          onHead: resolve,
          onData: () => {},
          onEnd: () => {},
          onError: ({ code }) => resolve(code),
          onSwitched: () => resolve('switched'),
        },
      )
    })
  // Twice as often as the pool has connections.
  for (let i = 0; i < 2 * (limits.maxConnections + 1); i++) {
    t.equal(await ask(['host', 'a', 'x', 'a\nb']), 'ERR_UPSTREAM_MALFORMED')
    t.equal(await ask(['host', 'a'], '/ x'), 'ERR_UPSTREAM_MALFORMED')
  }
  t.equal(await ask(['host', 'a']), 200)
  await until('its place is given back', () => pool.inFlight === 0)
})
