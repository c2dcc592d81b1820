/** The upstream of the live benchmark: WebSockets that stay silent or send, event streams that stay silent, downloads. Prints its port. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { acceptOf } from '../harness/websocket.ts'

const piece = Buffer.alloc(64 * 1024, 'dropgate')
const frame = Buffer.concat([Buffer.from([0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]), piece])

/** Writes this many pieces, as fast as they are taken. */
function pour(
  to: Duplex | NodeJS.WritableStream,
  what: Buffer,
  pieces: number,
  end: boolean,
): void {
  let left = pieces
  const more = (): void => {
    while (left > 0) {
      left--
      if (!to.write(what)) {
        to.once('drain', more)
        return
      }
    }
    if (end) to.end()
  }
  more()
}

const server = createServer((req, res) => {
  if (req.url === '/events') {
    res.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
    return
  }
  const pieces = Number(/\d+$/.exec(req.url!)?.[0] ?? 0) * 16
  res.writeHead(200, { 'content-length': pieces * piece.length })
  pour(res, piece, pieces, true)
})
server.on('upgrade', (req, socket) => {
  socket.on('error', () => {})
  socket.on('data', () => {})
  const accept = acceptOf(req.headers['sec-websocket-key'])
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
  )
  pour(socket, frame, Number(/\d+$/.exec(req.url!)?.[0] ?? 0) * 16, false)
})
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () =>
  process.stdout.write(`${(server.address() as AddressInfo).port}\n`),
)
