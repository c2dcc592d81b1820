/**
 * An upstream that keeps what it gets and believes nothing: the bytes of each connection are read strictly as
 * HTTP/1.1 requests, and whatever does not read as exactly that is a fault. It answers with the request line it saw.
 */
import { createServer, type Server, type Socket } from 'node:net'

export interface Arrived {
  /** Which connection, in the order they were opened. */
  readonly connection: number
  readonly line: string
  /** As sent, names too. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly framing: 'none' | 'length' | 'chunked'
  /** Without its chunks. */
  readonly body: string
}

const requestLine = /^[A-Z]+ (?:\/[\x21-\x7e]*|\*) HTTP\/1\.1$/
const headerLine = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([\t\x20-\x7e\x80-\xff]*)$/

export class Recorder {
  /** Whole requests. */
  readonly arrived: Arrived[] = []
  /** Heads of requests whose body never came to its end. */
  readonly broken: string[] = []
  readonly faults: string[] = []
  /** Target -> what is answered instead; the empty text is silence. */
  readonly replies = new Map<string, string>()
  origin = ''
  opened = 0
  readonly sockets = new Set<Socket>()
  #server: Server | undefined

  async open(): Promise<void> {
    this.#server = createServer((socket) => this.#serve(socket))
    await new Promise<void>((resolve) => this.#server!.listen(0, '127.0.0.1', resolve))
    this.origin = `http://127.0.0.1:${(this.#server.address() as { port: number }).port}`
  }

  #serve(socket: Socket): void {
    const connection = this.opened++
    this.sockets.add(socket)
    let text = ''
    socket.on('error', () => {})
    socket.on('data', (data) => {
      text += data.toString('latin1')
      try {
        for (let read = readRequest(text); read !== undefined; read = readRequest(text)) {
          text = text.slice(read.length)
          const request = { connection, ...read.request }
          this.arrived.push(request)
          socket.write(this.replies.get(request.line.split(' ')[1]!) ?? echo(request), 'latin1')
        }
      } catch (error) {
        this.faults.push(`${(error as Error).message}: ${JSON.stringify(text)}`)
        socket.destroy()
      }
    })
    socket.on('close', () => {
      this.sockets.delete(socket)
      if (text !== '') this.broken.push(text)
    })
  }

  /** Forgets what came so far. */
  clear(): void {
    this.arrived.length = 0
    this.broken.length = 0
    this.faults.length = 0
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy()
    this.#server?.close()
  }
}

function echo(request: Arrived): string {
  const head = `HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: ${request.line.length}\r\n\r\n`
  return request.line.startsWith('HEAD ') ? head : head + request.line
}

/** The first whole request of `text` and how long it is; undefined while it is not whole. */
function readRequest(
  text: string,
): { request: Omit<Arrived, 'connection'>; length: number } | undefined {
  const end = text.indexOf('\r\n\r\n')
  if (end === -1) return undefined
  const [line = '', ...lines] = text.slice(0, end).split('\r\n')
  if (!requestLine.test(line)) throw new Error('no request line')
  const headers = lines.map((each) => {
    const parts = headerLine.exec(each)
    if (parts === null) throw new Error('no header line')
    return [parts[1]!, parts[2]!] as const
  })
  const valuesOf = (name: string): string[] =>
    headers.filter(([each]) => each.toLowerCase() === name).map(([, value]) => value)
  const lengths = valuesOf('content-length')
  const codings = valuesOf('transfer-encoding')
  const start = end + 4
  if (lengths.length + codings.length > 1) throw new Error('framed more than once')
  if (codings.length === 1) {
    if (codings[0] !== 'chunked') throw new Error('another coding')
    const chunked = readChunks(text, start)
    if (chunked === undefined) return undefined
    const request = { line, headers, framing: 'chunked', body: chunked.body } as const
    return { request, length: chunked.end }
  }
  if (lengths.length === 0) {
    return { request: { line, headers, framing: 'none', body: '' }, length: start }
  }
  if (!/^(?:0|[1-9][0-9]*)$/.test(lengths[0]!)) throw new Error('no length')
  const length = Number(lengths[0])
  if (text.length < start + length) return undefined
  const body = text.slice(start, start + length)
  return { request: { line, headers, framing: 'length', body }, length: start + length }
}

export function readChunks(text: string, from: number): { body: string; end: number } | undefined {
  let body = ''
  let at = from
  for (;;) {
    const eol = text.indexOf('\r\n', at)
    if (eol === -1) return undefined
    const size = text.slice(at, eol)
    if (!/^[0-9a-f]+$/i.test(size)) throw new Error('no chunk size')
    const length = Number.parseInt(size, 16)
    const next = eol + 2 + length
    if (text.length < next + 2) return undefined
    if (text.slice(next, next + 2) !== '\r\n') throw new Error('a chunk without end')
    if (length === 0) return { body, end: next + 2 }
    body += text.slice(eol + 2, next)
    at = next + 2
  }
}
