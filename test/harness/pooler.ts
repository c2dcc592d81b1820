/** A pooler in transaction mode: a client holds a server connection from a statement until its transaction has ended. */
import { createServer, type Server, type Socket } from 'node:net'
import pg from 'pg'

interface Seat {
  readonly socket: Socket
  client: Socket | undefined
}

export class TransactionPooler {
  readonly #clients: pg.Client[] = []
  readonly #idle: Seat[] = []
  readonly #waiting: (() => void)[] = []
  #server: Server | undefined

  /** @returns the URL that leads through it */
  async open(url: string, connections = 3): Promise<string> {
    for (let i = 0; i < connections; i++) this.#idle.push(await this.#connect(url))
    this.#server = createServer((client) => this.#serve(client))
    await new Promise<void>((resolve) => this.#server!.listen(0, '127.0.0.1', resolve))
    const through = new URL(url)
    through.port = String((this.#server.address() as { port: number }).port)
    return through.href
  }

  /** Logs in by the library, then takes its socket over. */
  async #connect(url: string): Promise<Seat> {
    const client = new pg.Client(url)
    client.on('error', () => {})
    await client.connect()
    this.#clients.push(client)
    const { stream: socket } = (client as unknown as { connection: { stream: Socket } }).connection
    socket.removeAllListeners('data')
    const seat: Seat = { socket, client: undefined }
    let rest: Buffer = Buffer.alloc(0)
    socket.on('data', (data: Buffer) => {
      rest = Buffer.concat([rest, data])
      while (rest.length >= 5 && rest.length >= 1 + rest.readInt32BE(1)) {
        const message = rest.subarray(0, 1 + rest.readInt32BE(1))
        rest = rest.subarray(message.length)
        // Without a client on this connection the message is dropped: no later client may get it.
        seat.client?.write(message)
        if (message[0] === 0x5a && message[5] === 0x49) this.#release(seat)
      }
    })
    socket.on('error', () => {})
    return seat
  }

  #release(seat: Seat): void {
    seat.client = undefined
    this.#idle.push(seat)
    this.#waiting.shift()?.()
  }

  #serve(client: Socket): void {
    let greeted = false
    let seat: Seat | undefined
    client.on('error', () => {})
    client.on('data', (data: Buffer) => {
      if (!greeted) {
        greeted = true
        client.write(welcome)
        return
      }
      const pass = (): void => {
        if (seat?.client !== client) {
          seat = this.#idle.shift()
          if (seat === undefined) {
            this.#waiting.push(pass)
            return
          }
          seat.client = client
        }
        seat.socket.write(data)
      }
      pass()
    })
  }

  close(): void {
    this.#server?.close()
    for (const client of this.#clients) {
      ;(client as unknown as { connection: { stream: Socket } }).connection.stream.destroy()
    }
  }
}

function message(kind: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5)
  head.write(kind)
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

/** Authenticated, text in UTF-8, some key for cancelling, ready. */
const welcome = Buffer.concat([
  message('R', Buffer.alloc(4)),
  message('S', Buffer.from('client_encoding\0UTF8\0')),
  message('S', Buffer.from('standard_conforming_strings\0on\0')),
  message('K', Buffer.alloc(8, 1)),
  message('Z', Buffer.from('I')),
])
