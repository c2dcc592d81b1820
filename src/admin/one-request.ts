/**
 * What Node gets to read of a connection to the admin port: the head of one request, in one piece, and nothing behind it.
 * From the bytes of a single read Node makes thousands of requests before anything else gets its turn (it cannot be
 * stopped within them), and revocations would wait for seconds behind whoever sends requests ahead.
 */
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'

const headEnd = '\r\n\r\n'

export class OneRequest extends Duplex {
  readonly #socket: Socket

  /** @param maxHeadBytes A longer head is passed on as far as it came, for Node to refuse. */
  constructor(socket: Socket, maxHeadBytes: number) {
    super()
    this.#socket = socket
    let head = Buffer.alloc(0)
    const read = (bytes: Buffer): void => {
      const from = Math.max(0, head.length - headEnd.length + 1)
      head = Buffer.concat([head, bytes.subarray(0, maxHeadBytes + 1 - head.length)])
      // RFC 9112 section 2.2: empty lines before a request are nothing.
      while (head[0] === 13 && head[1] === 10) head = head.subarray(2)
      const end = head.indexOf(headEnd, from)
      if (end === -1 && head.length <= maxHeadBytes) return
      socket.off('data', read)
      socket.pause()
      this.push(end === -1 ? head : head.subarray(0, end + headEnd.length))
    }
    socket.on('data', read)
    // Who resets is gone, and `close` comes behind it; unheard it would end the gate.
    socket.on('error', () => {})
    socket.on('end', () => this.destroy())
    socket.on('close', () => this.destroy())
  }

  override _read(): void {}

  override _write(
    bytes: Buffer,
    _encoding: BufferEncoding,
    done: (error?: Error | null) => void,
  ): void {
    this.#socket.write(bytes, done)
  }

  /** What the client has sent on meanwhile is never read, so its end is not waited for. */
  override _final(done: () => void): void {
    this.#socket.destroySoon()
    done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy()
    done(error)
  }
}
