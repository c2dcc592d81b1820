/** The opening handshake of a WebSocket (RFC 6455 section 4), from both sides. */
import { createHash } from 'node:crypto'
import { type Answer, ok } from './upstream.ts'

/** `Sec-WebSocket-Accept` for a key. */
export function acceptOf(key: string | undefined): string {
  return createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
}

/** What a page of the application sends. */
export const handshake = {
  connection: 'Upgrade',
  upgrade: 'websocket',
  'sec-websocket-version': '13',
  'sec-websocket-key': Buffer.alloc(16).toString('base64'),
  origin: 'https://app.example',
}

/** An upstream that switches where it is asked to, and is well otherwise. */
export const switchOrOk: Answer = (socket, seen) => {
  const key = Object.fromEntries(seen.headers)['sec-websocket-key']
  if (key === undefined) ok(socket, seen)
  else
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${acceptOf(key)}\r\n\r\n`,
    )
}
