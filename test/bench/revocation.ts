/**
 * Revocation time: from the acknowledgement of the writer's commit to the start of the first request after which
 * every worker denies, for revocation and not for staleness. An upper bracket: each worker is asked over and over.
 */
import { open, stat } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import type pg from 'pg'
import { pause } from '../harness/wait.ts'

export interface RevocationTimes {
  /** ms, one for each revocation, ascending. */
  readonly times: readonly number[]
  /** ms between two requests to one worker, ascending. */
  readonly intervals: readonly number[]
  /** ms by which an idle timer of this process was late, ascending: what the machine alone adds. */
  readonly stalls: readonly number[]
}

class Probe {
  readonly #socket: Socket
  #text = ''
  #resolve: ((answer: string) => void) | undefined

  constructor(port: number) {
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.#socket.on('error', (error) => this.#resolve?.(String(error)))
    this.#socket.on('data', (data) => {
      this.#text += data.toString('latin1')
      const end = this.#text.indexOf('\r\n\r\n')
      const length = Number(/\r\ncontent-length: *(\d+)/i.exec(this.#text)?.[1] ?? 0)
      if (end === -1 || this.#text.length < end + 4 + length) return
      const answer = this.#text
      this.#text = ''
      this.#resolve?.(answer)
    })
  }

  ask(token: string | undefined): Promise<string> {
    const credential = token === undefined ? '' : `Authorization: Bearer ${token}\r\n`
    this.#socket.write(`GET /orders/7 HTTP/1.1\r\nHost: bench\r\n${credential}\r\n`)
    return new Promise((resolve) => {
      this.#resolve = resolve
    })
  }

  close(): void {
    this.#socket.destroy()
  }
}

/** One connection to each worker, told apart by the decision log. */
async function probesOf(port: number, workers: number, decisions: string): Promise<Probe[]> {
  const found = new Map<number, Probe>()
  for (let i = 0; i < 200 && found.size < workers; i++) {
    const probe = new Probe(port)
    const { size } = await stat(decisions)
    const id = /x-dropgate-decision-id: (\S+)/.exec(await probe.ask(undefined))![1]!
    await pause(100)
    const text = await textFrom(decisions, size)
    const line = text.slice(text.lastIndexOf('\n', text.indexOf(id)) + 1).split('\n', 1)[0]!
    const { worker } = JSON.parse(line).custom
    if (found.has(worker)) probe.close()
    else found.set(worker, probe)
  }
  if (found.size < workers) throw new Error('not every worker was reached')
  return [...found.values()]
}

/** What has been written behind a place: all of the log is more than a string holds. */
async function textFrom(path: string, position: number): Promise<string> {
  const file = await open(path)
  try {
    const { size } = await file.stat()
    const bytes = Buffer.alloc(size - position)
    const { bytesRead } = await file.read(bytes, 0, bytes.length, position)
    return bytes.toString('latin1', 0, bytesRead)
  } finally {
    await file.close()
  }
}

export async function measureRevocations(options: {
  readonly port: number
  readonly workers: number
  readonly decisions: string
  readonly revoker: pg.Client
  readonly tokens: readonly { readonly subject: string; readonly token: string }[]
}): Promise<RevocationTimes> {
  const { revoker, tokens } = options
  const probes = await probesOf(options.port, options.workers, options.decisions)
  const times: number[] = []
  const intervals: number[] = []
  const stalls: number[] = []
  let last = performance.now()
  const idle = setInterval(() => {
    const now = performance.now()
    stalls.push(Math.max(0, now - last - 1))
    last = now
  }, 1)
  for (const { subject, token } of tokens) {
    for (const probe of probes) {
      const answer = await probe.ask(token)
      if (!answer.startsWith('HTTP/1.1 200')) throw new Error(`not allowed before: ${answer}`)
    }
    let committed = Number.POSITIVE_INFINITY
    const denied = probes.map(async (probe) => {
      let before = 0
      for (;;) {
        const began = performance.now()
        if (before !== 0) intervals.push(began - before)
        before = began
        const answer = await probe.ask(token)
        if (answer.includes('"ERR_REVOKED"')) return began
        if (!answer.startsWith('HTTP/1.1 200')) throw new Error(`denied otherwise: ${answer}`)
        if (performance.now() > committed + 10_000) throw new Error('never denied')
        if (performance.now() - began < 0.5) await new Promise((resolve) => setImmediate(resolve))
      }
    })
    await revoker.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [subject])
    committed = performance.now()
    const last = Math.max(...(await Promise.all(denied)))
    times.push(Math.max(0, last - committed))
  }
  clearInterval(idle)
  for (const probe of probes) probe.close()
  const ascending = (values: number[]): number[] => values.sort((a, b) => a - b)
  return { times: ascending(times), intervals: ascending(intervals), stalls: ascending(stalls) }
}
