/** The listener alone, in the thread of the test: what a drain must not do to a client in the middle of an exchange. */
import type { ServerResponse } from 'node:http'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { type ListenConfig, Listener } from '../../src/listener/server.ts'
import { pause, until } from '../harness/wait.ts'

const limits = {
  header_bytes: 16_384,
  header_timeout: 10_000,
  request_timeout: 0,
  connections: 100,
  requests: 100,
  read_idle: 60_000,
}

async function listening(
  serve: (res: ServerResponse) => void,
): Promise<{ listener: Listener; port: number }> {
  const listener = new Listener({
    limits,
    metrics: { count: () => {} },
    onRequest: (_req, res) => serve(res),
    onUpgrade: () => {},
    onRefused: () => {},
  })
  const config = {
    host: '127.0.0.1',
    port: 0,
    client_header: 'x-forwarded-for',
    proxy_protocol: 'none',
    takeover: false,
  } as ListenConfig
  return { listener, port: await listener.listen(config, { port: 0, reusePort: false }) }
}

function ask(port: number): Socket {
  const socket = connect(port, '127.0.0.1', () => socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n'))
  socket.on('error', () => {})
  return socket
}

t.test('a thread that is late while it drains gives up no exchange before the time', async (t) => {
  const held: ServerResponse[] = []
  const { listener, port } = await listening((res) => held.push(res))
  const socket = ask(port)
  let text = ''
  socket.on('data', (data) => {
    text += data.toString('latin1')
  })
  await until('it is under way', () => held.length === 1)
  let cut = false
  const drained = listener.drain(20_000, () => {
    cut = true
  })
  for (let i = 0; i < 5; i++) {
    const until = performance.now() + 300
    while (performance.now() < until);
    await pause(5)
  }
  t.equal(cut, false)
  held[0]!.end('ok')
  await drained
  t.equal(cut, false)
  t.match(text, /^HTTP\/1\.1 200[\s\S]*ok/)
})

t.test('an answer that is written and on its way is not broken off by a drain', async (t) => {
  const size = 12_000_000
  const { listener, port } = await listening((res) => {
    res.writeHead(200, { 'content-length': size })
    res.end(Buffer.alloc(size))
  })
  const socket = ask(port)
  const closed = new Promise((resolve) => socket.once('close', resolve))
  let bytes = 0
  await new Promise((resolve) => socket.once('readable', resolve))
  const drained = listener.drain(20_000, () => {})
  await pause(200)
  socket.on('data', (data) => {
    bytes += data.length
  })
  await closed
  await drained
  t.ok(bytes > size, `${bytes} bytes came`)
})
