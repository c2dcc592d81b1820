/**
 * Watches a session with PostgreSQL: a server that owes an answer and sends no byte for too long counts as dead, and the
 * socket is destroyed. Nothing else ends such a session: without an RST neither side hears that the connection is gone.
 */
import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { GateError } from '../errors.ts'

const lookMs = 50
const longestText = 60

interface WatchOptions {
  /** The socket of the network: under TLS the session reads from another one, which counts no byte of a handshake. */
  readonly socket: Socket
  /** The socket that the session reads from and that is destroyed. */
  readonly readFrom: () => Socket
  readonly silenceMs: number
  /** Called when the session is given up, before its socket is destroyed. */
  readonly onSilence: () => void
}

export class Watch {
  /** How long the server may be silent while it owes an answer. It need not complete the answer in that time. */
  silenceMs: number
  readonly #name: string
  readonly #options: WatchOptions
  #lost = false
  /** What the server owes now. */
  #owed: { readonly what: string; readonly isUnread: () => boolean } | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(name: string, options: WatchOptions) {
    this.#name = name
    this.#options = options
    this.silenceMs = options.silenceMs
  }

  /** True when the session was given up. */
  get lost(): boolean {
    return this.#lost
  }

  get owes(): boolean {
    return this.#owed !== undefined
  }

  /** @param what What is waited for, as the operator shall read it; a statement is shortened. */
  async during<T>(what: string, answer: Promise<T>): Promise<T> {
    const done = this.#begin(what, () => false)
    try {
      return await answer
    } finally {
      done()
    }
  }

  /** Watches a COPY. While its reader has not taken what came, the silence is not the server's. */
  duringCopy(what: string, stream: Readable): void {
    const done = this.#begin(what, () => stream.readableLength > 0)
    for (const event of ['end', 'error', 'close']) stream.once(event, done)
  }

  #begin(what: string, isUnread: () => boolean): () => void {
    const owed = { what, isUnread }
    this.#owed = owed
    this.#look()
    return () => {
      // The next statement may have begun: a COPY ends more than once.
      if (this.#owed !== owed) return
      this.#owed = undefined
      clearInterval(this.#timer)
    }
  }

  #look(): void {
    clearInterval(this.#timer)
    const { socket, readFrom } = this.#options
    let bytes = socket.bytesRead
    let silentMs = 0
    let lookedAt = performance.now()
    this.#timer = setInterval(() => {
      const now = performance.now()
      const passedMs = now - lookedAt
      lookedAt = now
      if (socket.bytesRead !== bytes || readFrom().readableLength > 0 || this.#owed!.isUnread()) {
        bytes = socket.bytesRead
        silentMs = 0
        // Time in which this thread itself did not run does not count as silence of the server.
      } else silentMs += Math.min(passedMs, 2 * lookMs)
      if (silentMs > this.silenceMs) this.#giveUp(readFrom())
    }, lookMs)
  }

  #giveUp(socket: Socket): void {
    clearInterval(this.#timer)
    const { what } = this.#owed!
    const text = what.replace(/\s+/g, ' ')
    const short = text.length > longestText ? `${text.slice(0, longestText)} …` : text
    this.#lost = true
    this.#options.onSilence()
    // The limit and not the time that has passed: the same failure is logged once, by its text.
    const error = new GateError(
      'ERR_DATABASE_UNREACHABLE',
      `the session "${this.#name}" got no answer for ${Math.round(this.silenceMs)} ms to: ${short}`,
      { hint: 'check the network to the database server, and whether the server is overloaded' },
    )
    socket.destroy(error)
  }
}
