/**
 * Limits what Node reads from a connection to the admin port: the headers of one request and nothing after them. From
 * the bytes of a single read, Node would run thousands of pipelined requests without a pause, and a client that sends
 * them could delay revocations for seconds.
 */
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'

const headEnd = '\r\n\r\n'

export class OneRequest extends Duplex {
  readonly #socket: Socket

  /** @param maxHeadBytes Longer request headers are passed on as far as they have arrived, and Node refuses them. */
  constructor(socket: Socket, maxHeadBytes: number) {
    super()
    this.#socket = socket
    let head = Buffer.alloc(0)
    const read = (bytes: Buffer): void => {
      const from = Math.max(0, head.length - headEnd.length + 1)
      head = Buffer.concat([head, bytes.subarray(0, maxHeadBytes + 1 - head.length)])
      // Empty lines before a request are skipped (RFC 9112 section 2.2).
      while (head[0] === 13 && head[1] === 10) head = head.subarray(2)
      const end = head.indexOf(headEnd, from)
      if (end === -1 && head.length <= maxHeadBytes) return
      socket.off('data', read)
      socket.pause()
      this.push(end === -1 ? head : head.subarray(0, end + headEnd.length))
    }
    socket.on('data', read)
    // 'close' follows ECONNRESET. Without an 'error' listener the process would crash.
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

  /** Ends without waiting for the client: what it has sent meanwhile is never read. */
  override _final(done: () => void): void {
    this.#socket.destroySoon()
    done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy()
    done(error)
  }
}
