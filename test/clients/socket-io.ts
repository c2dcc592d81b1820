/** Socket.IO: polling, then its upgrade to a WebSocket, and the end of it when the caller is revoked. */
import { createServer, type Server } from 'node:http'
import { until } from '../harness/wait.ts'
import { type Client, demand, type Entrance, listen } from './client.ts'
import { load } from './packages.ts'

interface Socket {
  readonly connected: boolean
  readonly io: { readonly engine: { readonly transport: { readonly name: string } } }
  on(event: string, listener: (...values: never[]) => void): void
  emitWithAck(event: string, ...values: unknown[]): Promise<unknown>
  disconnect(): void
}

interface ServedSocket {
  on(event: string, listener: (value: unknown, answer: (value: unknown) => void) => void): void
}

interface Packages {
  readonly Server: new (
    server: Server,
  ) => {
    on(event: 'connection', listener: (socket: ServedSocket) => void): void
  }
  readonly io: (url: string, options: object) => Socket
}

export function socketIo(): Client {
  const transports: string[] = []
  const server = createServer()
  const io = new (load<Packages>('socket.io').Server)(server)
  io.on('connection', (socket) => socket.on('say', (value, answer) => answer(value)))
  // After socket.io, which would call them for other paths only.
  server.prependListener('request', (req) => transports.push(`polling by ${req.method}`))
  server.prependListener('upgrade', () => transports.push('websocket'))
  return {
    name: 'socket.io',
    upstream: () => listen(server),
    route: {},
    run: (entrance) => walk(entrance, transports),
    close: () => server.close(),
  }
}

async function walk(entrance: Entrance, transports: readonly string[]): Promise<string> {
  const authorization = `Bearer ${await entrance.token('socket')}`
  const socket = load<Packages>('socket.io-client').io(entrance.origin, {
    extraHeaders: { authorization },
    reconnectionDelay: 50,
  })
  const ends: string[] = []
  socket.on('disconnect', (reason: string) => ends.push(reason))
  socket.on('connect_error', ({ message }: Error) => ends.push(message))
  try {
    await until(
      () => `a WebSocket: ${transports.join()}; ${ends.join()}`,
      () => socket.connected && socket.io.engine.transport.name === 'websocket',
    )
    demand(transports[0] === 'polling by GET', `it began with ${transports[0]}`)
    demand(transports.includes('polling by POST'), 'nothing was posted')
    const text = await socket.emitWithAck('say', 'Zoë')
    demand(text === 'Zoë', `the text came back as ${text}`)
    const bytes = (await socket.emitWithAck('say', Buffer.alloc(500_000, 7))) as Buffer
    demand(bytes.length === 500_000 && bytes.every((each) => each === 7), 'other bytes came back')
    demand(ends.length === 0, `it ended: ${ends.join()}`)
    await entrance.revoke('socket')
    await until('cut, and not let in again', () => ends.length >= 2)
    demand(!socket.connected, 'it is connected again')
  } finally {
    socket.disconnect()
  }
  return `polled, upgraded, got a text and 500 kB back; revoked: ${ends[0]}, then ${ends[1]}`
}
