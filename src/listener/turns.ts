/**
 * One exchange at a time on each connection. Node parses ahead: it hands on the second of two pipelined requests while
 * the first is under way, and even behind an answer that closes the connection, so that what a refusal meant to leave
 * unread would be decided and sent. Here the next request waits for its turn, and behind a last answer nobody gets one
 * (http-security R2; RFC 9112 sections 9.3.2 and 9.6).
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { GateError } from '../errors.ts'

/**
 * Requests that may wait on one connection: more than the reads of one turn bring. Node takes time by the square of
 * their number to give them up, so should the pause below ever stop holding, this does.
 */
const maxAhead = 8192

type Serve = (req: IncomingMessage, res: ServerResponse) => void

interface Turn {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly serve: Serve
}

/** Of one connection. */
interface Line {
  current: Turn | undefined
  readonly waiting: Turn[]
  /** What the bytes behind those that wait are refused with. */
  failed: GateError | undefined
  /** The last answer is written or on its way. */
  over: boolean
}

export class Turns {
  readonly #refuse: (socket: Duplex, error: GateError) => void
  readonly #limits: () => { readonly read_idle: number }
  readonly #onUnread: () => void
  readonly #lines = new WeakMap<Duplex, Line>()
  #inFlight = 0
  #seized = 0

  /**
   * @param refuse Answers on the bare socket and closes it.
   * @param limits Read at each answer; `read_idle` in ms.
   * @param onUnread A client has left the end of its answer unread for longer.
   */
  constructor(
    refuse: (socket: Duplex, error: GateError) => void,
    limits: () => { readonly read_idle: number },
    onUnread: () => void,
  ) {
    this.#refuse = refuse
    this.#limits = limits
    this.#onUnread = onUnread
  }

  /** Connections that have left the line and are still open. */
  get seized(): number {
    return this.#seized
  }

  /** Exchanges under way. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** Serves the request now, or when those before it are answered, or never. */
  take(req: IncomingMessage, res: ServerResponse, serve: Serve): void {
    const { socket } = req
    const line = this.#lineOf(socket)
    if (line.over) return
    if (line.current === undefined) {
      this.#serve(line, { req, res, serve })
      return
    }
    if (line.waiting.length >= maxAhead) {
      line.over = true
      line.waiting.length = 0
      socket.destroy()
      return
    }
    line.waiting.push({ req, res, serve })
    // Whoever sends ahead is not read ahead: what came before is complete, so nothing that is awaited is held back.
    stopReading(socket)
  }

  /** The connection's bytes make no request, or one that is not for us. */
  fail(socket: Duplex, error: GateError): void {
    const line = this.#lineOf(socket)
    const { current } = line
    if (line.over || line.failed !== undefined) return
    if (current === undefined) this.#end(socket, line, error)
    else if (!current.req.complete) {
      // Its own body is malformed or late: it never becomes complete, neither here nor at the upstream.
      if (current.res.headersSent) socket.destroy()
      else this.#end(socket, line, error)
    } else {
      line.failed = error
      if (line.waiting.at(-1)?.req.complete === false) line.waiting.pop()
    }
  }

  /** Takes the connection out of the line for good; false where an answer is under way or was the last. */
  seize(socket: Duplex): boolean {
    const line = this.#lineOf(socket)
    if (line.over || line.current !== undefined) return false
    line.over = true
    this.#seized++
    socket.once('close', () => this.#seized--)
    return true
  }

  /** Whether an answer is under way that a bare one would run into. */
  busy(socket: Duplex): boolean {
    return this.#lines.get(socket)?.current !== undefined
  }

  #lineOf(socket: Duplex): Line {
    let line = this.#lines.get(socket)
    if (line === undefined) {
      line = { current: undefined, waiting: [], failed: undefined, over: false }
      this.#lines.set(socket, line)
    }
    return line
  }

  #serve(line: Line, turn: Turn): void {
    const { req, res, serve } = turn
    line.current = turn
    this.#inFlight++
    // Node loses the bytes behind an offer to upgrade that nobody takes up: what follows would begin in its middle.
    if (req.headers.upgrade !== undefined) res.shouldKeepAlive = false
    // Both come once.
    res.on('close', () => this.#next(line, req.socket))
    res.on('prefinish', () => this.#watch(res, req.socket))
    serve(req, res)
  }

  /** All of the answer is written; the client has to take it. What it refuses to take is not kept for ever. */
  #watch(res: ServerResponse, socket: Duplex): void {
    if (res.writableFinished || socket.writableLength === 0) return
    let left = socket.writableLength
    const timer = setInterval(() => {
      if (socket.writableLength < left) {
        left = socket.writableLength
        return
      }
      this.#onUnread()
      socket.destroy()
    }, this.#limits().read_idle)
    res.once('close', () => clearInterval(timer))
  }

  #next(line: Line, socket: Duplex): void {
    this.#inFlight--
    line.current = undefined
    if (socket.destroyed || socket.writableEnded) {
      line.over = true
      line.waiting.length = 0
      return
    }
    const next = line.waiting.shift()
    if (next !== undefined) {
      if (line.waiting.length === 0) readOn(socket)
      this.#serve(line, next)
    } else if (line.failed !== undefined) this.#end(socket, line, line.failed)
  }

  #end(socket: Duplex, line: Line, error: GateError): void {
    line.over = true
    this.#refuse(socket, error)
  }
}

/**
 * Node's own brake against clients that do not read their answers. `pause` alone is undone at the end of every message;
 * the flag keeps it and stops the parser behind the bytes that are read already. Node takes it off at `drain`.
 */
function stopReading(socket: Duplex & { _paused?: boolean }): void {
  socket._paused = true
  socket.pause()
}

function readOn(socket: Duplex): void {
  socket.emit('drain')
}
