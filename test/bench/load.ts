/**
 * Load from a process of its own: keep-alive connections over raw sockets, one request under way on each. Takes jobs
 * over IPC; a job without `rate` keeps every connection busy, one with a rate sends that many a second, one with `once`
 * sends each request once.
 */
import { connect, type Socket } from 'node:net'
import { pause } from '../harness/wait.ts'

export interface Job {
  readonly port: number
  /** Whole requests; each connection goes through all of them, beginning elsewhere. */
  readonly requests: readonly string[]
  readonly connections: number
  readonly seconds?: number
  /** Sent at this many a second whatever has been answered: an open loop. */
  readonly rate?: number
  readonly once?: boolean
}

export interface Done {
  readonly answered: number
  readonly failed: number
  readonly seconds: number
  /** ms from the writing of a request to the last byte of its answer, of each; only with a rate. */
  readonly times?: readonly number[]
}

class Connection {
  readonly #socket: Socket
  readonly #requests: readonly Buffer[]
  readonly #onAnswer: (ok: boolean, connection: Connection) => void
  #next: number
  #head = ''
  #rest = 0
  #sentAt = 0
  busy = false
  /** ms that the last answer took. */
  took = 0

  constructor(
    port: number,
    requests: readonly Buffer[],
    first: number,
    onAnswer: (ok: boolean, connection: Connection) => void,
  ) {
    this.#requests = requests
    this.#next = first
    this.#onAnswer = onAnswer
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.#socket.on('data', (data) => this.#take(data))
    this.#socket.on('error', () => onAnswer(false, this))
  }

  /** @param bytes Another request than the next of the list. */
  send(bytes?: Buffer): void {
    this.busy = true
    this.#sentAt = performance.now()
    this.#socket.write(bytes ?? this.#requests[this.#next]!)
    if (bytes === undefined) this.#next = (this.#next + 1) % this.#requests.length
  }

  close(): void {
    this.#socket.destroy()
  }

  #take(data: Buffer): void {
    if (this.#rest > 0) {
      this.#rest -= data.length
    } else {
      this.#head += data.toString('latin1')
      const end = this.#head.indexOf('\r\n\r\n')
      if (end === -1) return
      const length = Number(/\r\ncontent-length: *(\d+)/i.exec(this.#head)?.[1] ?? 0)
      this.#rest = length - (this.#head.length - end - 4)
    }
    if (this.#rest > 0) return
    const ok = this.#head.startsWith('HTTP/1.1 200')
    this.#head = ''
    this.busy = false
    this.took = performance.now() - this.#sentAt
    this.#onAnswer(ok, this)
  }
}

async function run({ port, requests, connections, seconds = 0, rate, once }: Job): Promise<Done> {
  const bytes = requests.map((request) => Buffer.from(request, 'latin1'))
  if (once === true) return await runOnce(port, bytes, connections)
  let answered = 0
  let failed = 0
  let going = true
  const times: number[] = []
  const onAnswer = (ok: boolean, connection: Connection): void => {
    if (rate !== undefined) times.push(connection.took)
    if (ok) answered++
    else failed++
    if (going && rate === undefined) connection.send()
  }
  const all = Array.from(
    { length: connections },
    (_, i) => new Connection(port, bytes, Math.floor((i * bytes.length) / connections), onAnswer),
  )
  const began = performance.now()
  let timer: NodeJS.Timeout | undefined
  if (rate === undefined) for (const connection of all) connection.send()
  else {
    let sent = 0
    let turn = 0
    timer = setInterval(() => {
      const due = ((performance.now() - began) / 1000) * rate
      for (let tried = 0; sent < due && tried < all.length; tried++) {
        const connection = all[turn++ % all.length]!
        if (connection.busy) continue
        connection.send()
        sent++
      }
    }, 1)
  }
  await pause(seconds * 1000)
  going = false
  clearInterval(timer)
  const took = (performance.now() - began) / 1000
  for (const connection of all) connection.close()
  return { answered, failed, seconds: took, ...(rate === undefined ? {} : { times }) }
}

/** Each request once: the connections take turns at one list. */
async function runOnce(
  port: number,
  requests: readonly Buffer[],
  connections: number,
): Promise<Done> {
  const began = performance.now()
  const next = requests[Symbol.iterator]()
  const counts = { answered: 0, failed: 0 }
  const turns = Array.from(
    { length: connections },
    () =>
      new Promise<void>((resolve) => {
        const take = (connection: Connection): void => {
          const { value, done } = next.next()
          if (done !== true) connection.send(value)
          else {
            connection.close()
            resolve()
          }
        }
        const onAnswer = (ok: boolean, connection: Connection): void => {
          counts[ok ? 'answered' : 'failed']++
          take(connection)
        }
        take(new Connection(port, requests, 0, onAnswer))
      }),
  )
  await Promise.all(turns)
  return { ...counts, seconds: (performance.now() - began) / 1000 }
}

process.on('message', async (job: Job) => process.send!(await run(job)))
process.on('disconnect', () => process.exit())
