/** A client that sends bytes as they are given and reads answers strictly, one after the other, without a clock. */
import { connect, type Socket } from 'node:net'
import { readChunks } from './recorder.ts'

export interface WireAnswer {
  readonly status: number
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly body: string
  /** `code` of the problem document, if it is one. */
  readonly code: string | undefined
  /** Status codes of the interim answers before it. */
  readonly interim: readonly number[]
}

/** Nothing takes longer than this; only a test that fails waits for it. */
const patienceMs = 10_000

export class Wire {
  readonly socket: Socket
  /** What came and is not read as an answer yet. */
  rest = ''
  #over = false
  #wake: (() => void) | undefined

  private constructor(socket: Socket) {
    this.socket = socket
    socket.on('error', () => {})
    socket.on('data', (data) => {
      this.rest += data.toString('latin1')
      this.#wake?.()
    })
    socket.on('close', () => {
      this.#over = true
      this.#wake?.()
    })
  }

  static open(port: number): Promise<Wire> {
    return new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => resolve(new Wire(socket)))
      socket.once('error', reject)
    })
  }

  get closed(): boolean {
    return this.#over
  }

  write(bytes: string): void {
    this.socket.write(bytes, 'latin1')
  }

  /** The next answer; undefined when the connection ends without one. */
  async answer(method = 'GET'): Promise<WireAnswer | undefined> {
    const interim: number[] = []
    for (;;) {
      const read = parseAnswer(this.rest, method, this.#over)
      if (read !== undefined) {
        this.rest = this.rest.slice(read.length)
        if (read.answer.status >= 200) return { ...read.answer, interim }
        interim.push(read.answer.status)
      } else if (this.#over) return undefined
      else await this.#more('an answer')
    }
  }

  /** Resolves when the gate has closed the connection. */
  async end(): Promise<void> {
    while (!this.#over) await this.#more('the end of the connection')
  }

  destroy(): void {
    this.socket.destroy()
  }

  #more(what: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`waited for ${what}, got ${JSON.stringify(this.rest)}`)),
        patienceMs,
      )
      this.#wake = () => {
        clearTimeout(timer)
        this.#wake = undefined
        resolve()
      }
    })
  }
}

function parseAnswer(
  text: string,
  method: string,
  over: boolean,
): { answer: Omit<WireAnswer, 'interim'>; length: number } | undefined {
  const end = text.indexOf('\r\n\r\n')
  if (end === -1) return undefined
  const [line = '', ...lines] = text.slice(0, end).split('\r\n')
  const status = Number(/^HTTP\/1\.1 ([1-5][0-9][0-9]) /.exec(line)?.[1])
  if (Number.isNaN(status)) throw new Error(`no status line: ${JSON.stringify(text)}`)
  const headers = lines.map((each) => {
    const split = each.indexOf(': ')
    return [each.slice(0, split).toLowerCase(), each.slice(split + 2)] as const
  })
  const headerOf = (name: string): string | undefined =>
    headers.find(([each]) => each === name)?.[1]
  const start = end + 4
  const made = (body: string, length: number) => {
    const code = /"code":"(\w+)"/.exec(body)?.[1]
    return { answer: { status, headers, body, code }, length }
  }
  if (status < 200 || status === 204 || status === 304 || method === 'HEAD') return made('', start)
  if (headerOf('transfer-encoding') === 'chunked') {
    const chunked = readChunks(text, start)
    return chunked === undefined ? undefined : made(chunked.body, chunked.end)
  }
  const length = headerOf('content-length')
  if (length === undefined) return over ? made(text.slice(start), text.length) : undefined
  const stop = start + Number(length)
  return text.length < stop ? undefined : made(text.slice(start, stop), stop)
}
