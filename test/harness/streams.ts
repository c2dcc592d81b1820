/**
 * Long exchanges of every kind with contents that can be checked byte for byte: an upstream that serves them, and
 * clients that hold them open. Byte i of every stream is `byteAt(i)`.
 */
import {
  createServer,
  type IncomingMessage,
  request,
  type Server,
  type ServerResponse,
} from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { type WebSocket as ServedSocket, WebSocket, WebSocketServer } from 'ws'
import { pause } from './wait.ts'

/** The kinds of exchange that stay open for long. */
export const kinds = ['events', 'chunks', 'download', 'upload', 'websocket'] as const
export type Kind = (typeof kinds)[number]

export function byteAt(i: number): number {
  return (i * 31 + (i >>> 8) * 7) & 0xff
}

/** Bytes `from` to `to` of the stream. */
export function bytesOf(from: number, to: number): Buffer {
  const bytes = Buffer.allocUnsafe(to - from)
  for (let i = 0; i < bytes.length; i++) bytes[i] = byteAt(from + i)
  return bytes
}

/** Counts a stream and says where it first differs. */
export class Checked {
  bytes = 0
  wrongAt = -1

  take(chunk: Buffer): void {
    for (let i = 0; i < chunk.length && this.wrongAt === -1; i++) {
      if (chunk[i] !== byteAt(this.bytes + i)) this.wrongAt = this.bytes + i
    }
    this.bytes += chunk.length
  }
}

/** One exchange as the upstream saw it. */
export interface Served {
  readonly name: string
  readonly kind: Kind
  readonly got: Checked
  /** `end`: complete. `abort`: broken off. A WebSocket's close code, 1006 without a frame. */
  ended: 'end' | 'abort' | number | undefined
}

const pieceBytes = 997
const pieceMs = 5
/** The length that a download announces: no test waits for all of it. */
const downloadBytes = 1e9

export class StreamUpstream {
  origin = ''
  readonly served = new Map<string, Served>()
  readonly sockets = new Set<Socket>()
  #server: Server | undefined
  readonly #ws = new WebSocketServer({ noServer: true })

  async open(): Promise<void> {
    const server = createServer((req, res) => void this.#serve(req, res))
    this.#server = server
    server.on('connection', (socket) => {
      this.sockets.add(socket)
      socket.on('close', () => this.sockets.delete(socket))
    })
    server.on('upgrade', (req, socket, head) => {
      const { name, delay } = readName(req)
      socket.on('error', () => {})
      setTimeout(
        () => this.#ws.handleUpgrade(req, socket, head, (ws) => this.#serveSocket(name, ws)),
        delay,
      )
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    this.origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  #note(name: string, kind: Kind): Served {
    const served: Served = { name, kind, got: new Checked(), ended: undefined }
    this.served.set(name, served)
    return served
  }

  async #serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const { name, kind, delay } = readName(req)
    const served = this.#note(name, kind)
    req.on('error', () => {})
    res.on('error', () => {})
    if (kind === 'upload') {
      req.on('data', (chunk) => served.got.take(chunk))
      req.on('close', () => {
        served.ended = req.complete ? 'end' : 'abort'
        if (req.complete) res.end('ok')
      })
      return
    }
    res.on('close', () => {
      served.ended = res.writableFinished ? 'end' : 'abort'
    })
    await pause(delay)
    const type = kind === 'events' ? 'text/event-stream' : 'application/octet-stream'
    res.writeHead(200, {
      'content-type': type,
      ...(kind === 'download' ? { 'content-length': downloadBytes } : {}),
    })
    for (let sent = 0; !res.destroyed; ) {
      const piece =
        kind === 'events' ? Buffer.from(`data: ${sent}\n\n`) : bytesOf(sent, sent + pieceBytes)
      res.write(piece)
      sent += kind === 'events' ? 1 : pieceBytes
      await pause(pieceMs)
    }
  }

  #serveSocket(name: string, ws: ServedSocket): void {
    const served = this.#note(name, 'websocket')
    ws.on('error', () => {})
    ws.on('message', (data: Buffer) => served.got.take(data))
    ws.on('close', (code) => {
      served.ended = code
    })
    let sent = 0
    const timer = setInterval(() => {
      if (ws.readyState !== WebSocket.OPEN) {
        clearInterval(timer)
        return
      }
      ws.send(bytesOf(sent, sent + pieceBytes))
      sent += pieceBytes
    }, pieceMs)
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy()
    this.#server?.close()
  }
}

function readName(req: IncomingMessage): { name: string; kind: Kind; delay: number } {
  const url = new URL(req.url!, 'http://x')
  return {
    name: url.searchParams.get('n') ?? '',
    kind: url.pathname.split('/').at(-1) as Kind,
    delay: Number(url.searchParams.get('delay') ?? 0),
  }
}

/** A stream that a client holds open through the gate: what came of it, and how it ended, as the client sees it. */
export class OpenStream {
  readonly name: string
  readonly kind: Kind
  readonly got = new Checked()
  status: number | undefined
  /** `end`: complete. `cut`: broken off. A WebSocket's close code, 1006 without a frame. */
  ended: 'end' | 'cut' | number | undefined
  endedAtMs = 0
  #stop: () => void = () => {}
  #events = 0

  /** @param options.delay How long the upstream waits before it answers, in ms. */
  constructor(
    kind: Kind,
    name: string,
    port: number,
    token: string | undefined,
    options: { delay?: number; path?: string } = {},
  ) {
    this.kind = kind
    this.name = name
    const { delay = 0, path: prefix = '/orders' } = options
    const path = `${prefix}/${kind}?n=${name}&delay=${delay}`
    const headers: Record<string, string> =
      token === undefined ? {} : { authorization: `Bearer ${token}` }
    if (kind === 'websocket') this.#holdSocket(`ws://127.0.0.1:${port}${path}`, headers)
    else this.#holdRequest(port, path, headers)
  }

  #end(how: 'end' | 'cut' | number): void {
    if (this.ended !== undefined) return
    this.ended = how
    this.endedAtMs = performance.now()
    this.#stop()
  }

  #holdRequest(port: number, path: string, headers: Record<string, string>): void {
    const method = this.kind === 'upload' ? 'POST' : 'GET'
    const req = request({ host: '127.0.0.1', port, path, method, headers, agent: false }, (res) => {
      this.status = res.statusCode
      let text = ''
      res.on('data', (chunk: Buffer) => {
        if (res.statusCode !== 200) return
        if (this.kind !== 'events') {
          this.got.take(chunk)
          return
        }
        text += chunk.toString()
        const lines = text.split('\n\n')
        text = lines.pop()!
        for (const line of lines) {
          if (line !== `data: ${this.#events++}` && this.got.wrongAt === -1)
            this.got.wrongAt = this.got.bytes
        }
        this.got.bytes += chunk.length
      })
      res.on('error', () => {})
      res.on('close', () => this.#end(res.complete ? 'end' : 'cut'))
    })
    req.on('error', () => this.#end('cut'))
    this.#stop = () => req.destroy()
    if (this.kind !== 'upload') {
      req.end()
      return
    }
    let sent = 0
    req.flushHeaders()
    const timer = setInterval(() => {
      if (this.ended !== undefined) {
        clearInterval(timer)
        return
      }
      req.write(bytesOf(sent, sent + pieceBytes))
      sent += pieceBytes
    }, pieceMs)
  }

  #holdSocket(url: string, headers: Record<string, string>): void {
    const ws = new WebSocket(url, { headers })
    let sent = 0
    let timer: NodeJS.Timeout | undefined
    ws.on('open', () => {
      this.status = 101
      timer = setInterval(() => {
        if (ws.readyState !== WebSocket.OPEN) return
        ws.send(bytesOf(sent, sent + pieceBytes))
        sent += pieceBytes
      }, pieceMs)
    })
    ws.on('message', (data: Buffer) => this.got.take(data))
    ws.on('unexpected-response', (_req, res) => {
      this.status = res.statusCode
      res.resume()
      ws.terminate()
    })
    ws.on('error', () => {})
    ws.on('close', (code) => {
      clearInterval(timer)
      this.#end(code)
    })
    this.#stop = () => {
      clearInterval(timer)
      ws.terminate()
    }
  }

  /** True once something has come back from, or has reached, the upstream. */
  under(upstream: StreamUpstream): boolean {
    const there = upstream.served.get(this.name)
    return this.kind === 'upload' ? (there?.got.bytes ?? 0) > 0 : this.got.bytes > 0
  }

  stop(): void {
    this.#end('cut')
  }
}
