/** An upstream that records what reached it, byte for byte, and answers as told. */
import { createServer, type Server, type Socket } from 'node:net'

export interface Seen {
  /** Head of the request as it came, latin1. */
  readonly head: string
  readonly requestLine: string
  readonly target: string
  readonly headers: readonly (readonly [name: string, value: string])[]
  /** The body's bytes, still chunked where it was. */
  body: string
  /** The message came to its end. */
  complete: boolean
  closed: boolean
}

export type Answer = (socket: Socket, seen: Seen) => void

export const ok: Answer = (socket) => {
  socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok')
}

export class Upstream {
  readonly seen: Seen[] = []
  answer: Answer = ok
  origin = ''
  readonly sockets = new Set<Socket>()
  #server: Server | undefined

  async open(): Promise<void> {
    this.#server = createServer((socket) => {
      this.sockets.add(socket)
      socket.on('error', () => {})
      this.#read(socket)
    })
    await new Promise<void>((resolve) => this.#server!.listen(0, '127.0.0.1', resolve))
    this.origin = `http://127.0.0.1:${(this.#server.address() as { port: number }).port}`
  }

  #read(socket: Socket): void {
    let rest = ''
    let current: Seen | undefined
    let want = 0
    let chunked = false
    const finish = (): void => {
      current!.complete = true
      current = undefined
    }
    const take = (): void => {
      for (;;) {
        if (current === undefined) {
          const end = rest.indexOf('\r\n\r\n')
          if (end === -1) return
          const head = rest.slice(0, end)
          rest = rest.slice(end + 4)
          const [requestLine = '', ...lines] = head.split('\r\n')
          const headers = lines.map((line) => {
            const split = line.indexOf(':')
            return [
              line.slice(0, split).toLowerCase(),
              line.slice(split + 1).replace(/^[ \t]+|[ \t]+$/g, ''),
            ] as const
          })
          const headerOf = (name: string): string | undefined =>
            headers.find(([each]) => each === name)?.[1]
          current = {
            head,
            requestLine,
            target: requestLine.split(' ')[1]!,
            headers,
            body: '',
            complete: false,
            closed: false,
          }
          this.seen.push(current)
          chunked = headerOf('transfer-encoding') !== undefined
          want = Number(headerOf('content-length') ?? 0)
          const seen = current
          if (!chunked && want === 0) finish()
          this.answer(socket, seen)
          if (current === undefined) continue
        }
        current.body += rest
        rest = ''
        if (chunked ? current.body.endsWith('0\r\n\r\n') : current.body.length >= want) {
          finish()
          continue
        }
        return
      }
    }
    socket.on('data', (data) => {
      rest += data.toString('latin1')
      take()
    })
    socket.on('close', () => {
      this.sockets.delete(socket)
      if (current !== undefined) current.closed = true
    })
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy()
    this.#server?.close()
  }
}
