/**
 * One exchange at a time on each connection. Node parses ahead: it hands on the second of two pipelined requests while
 * the first is under way, and even behind an answer that closes the connection, so that what a refusal meant to leave
 * unread would be decided and sent. Here each request waits until the answer before it is finished, and no request behind
 * an answer that closes the connection is answered (RFC 9112 sections 9.3.2 and 9.6).
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { GateError } from '../errors.ts'

/**
 * Requests that may wait on one connection. One read of Node's brings thousands where they are short, and what Node has
 * made of each of them stays until the connection ends: whoever sends more than this ahead loses it.
 */
const maxAhead = 64

type Serve = (req: IncomingMessage, res: ServerResponse) => void

interface PendingRequest {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly serve: Serve
}

/** Of one connection. */
interface Pipeline {
  current: PendingRequest | undefined
  readonly waiting: PendingRequest[]
  /** What the bytes behind those that wait are refused with. */
  failed: GateError | undefined
  /** The last answer is written or on its way. */
  over: boolean
}

export class PipelineQueue {
  readonly #refuse: (socket: Duplex, error: GateError) => void
  readonly #limits: () => { readonly read_idle: number; readonly requests: number }
  readonly #onUnread: () => void
  readonly #onTooFar: (socket: Duplex) => void
  readonly #pipelines = new WeakMap<Duplex, Pipeline>()
  #inFlight = 0
  #seized = 0
  /** On all connections. */
  #waiting = 0

  /**
   * @param refuse Answers on the bare socket and closes it.
   * @param limits Read each time; `read_idle` in ms, `requests` also bounds those that wait.
   * @param onUnread A client has left the end of its answer unread for longer.
   * @param onTooFar A connection was destroyed because its client had sent too much ahead.
   */
  constructor(
    refuse: (socket: Duplex, error: GateError) => void,
    limits: () => { readonly read_idle: number; readonly requests: number },
    onUnread: () => void,
    onTooFar: (socket: Duplex) => void,
  ) {
    this.#refuse = refuse
    this.#limits = limits
    this.#onUnread = onUnread
    this.#onTooFar = onTooFar
  }

  /** Connections that have left the pipeline and are still open. */
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
    const pipeline = this.#pipelineOf(socket)
    // Behind a refusal that is still to be said nothing counts: its answer would come before that, or never.
    if (pipeline.over || pipeline.failed !== undefined) return
    if (pipeline.current === undefined) {
      this.#serve(pipeline, { req, res, serve })
      return
    }
    if (pipeline.waiting.length >= maxAhead || this.#waiting >= this.#limits().requests) {
      this.#giveUp(pipeline)
      socket.destroy()
      this.#onTooFar(socket)
      return
    }
    pipeline.waiting.push({ req, res, serve })
    this.#waiting++
    // Whoever sends ahead is not read ahead: what came before is complete, so nothing that is awaited is held back.
    stopReading(socket)
  }

  /** The connection's bytes make no request, or one that is not for us. */
  fail(socket: Duplex, error: GateError): void {
    const pipeline = this.#pipelineOf(socket)
    const { current } = pipeline
    if (pipeline.over || pipeline.failed !== undefined) return
    if (current === undefined) this.#end(socket, pipeline, error)
    else if (!current.req.complete) {
      // Its own body is malformed or late: it never becomes complete, neither here nor at the upstream.
      if (current.res.headersSent) socket.destroy()
      else this.#end(socket, pipeline, error)
    } else {
      pipeline.failed = error
      if (pipeline.waiting.at(-1)?.req.complete === false) {
        pipeline.waiting.pop()
        this.#waiting--
      }
    }
  }

  /** Takes the connection out of the pipeline for good; false where an answer is under way or was the last. */
  seize(socket: Duplex): boolean {
    const pipeline = this.#pipelineOf(socket)
    if (pipeline.over || pipeline.current !== undefined) return false
    pipeline.over = true
    this.#seized++
    socket.once('close', () => this.#seized--)
    return true
  }

  #pipelineOf(socket: Duplex): Pipeline {
    let pipeline = this.#pipelines.get(socket)
    if (pipeline === undefined) {
      pipeline = { current: undefined, waiting: [], failed: undefined, over: false }
      this.#pipelines.set(socket, pipeline)
    }
    return pipeline
  }

  #serve(pipeline: Pipeline, pending: PendingRequest): void {
    const { req, res, serve } = pending
    pipeline.current = pending
    this.#inFlight++
    // Node loses the bytes behind an offer to upgrade that nobody takes up: what follows would begin in its middle.
    if (req.headers.upgrade !== undefined) res.shouldKeepAlive = false
    res.on('close', () => this.#next(pipeline, req.socket))
    this.watch(res, req.socket)
    serve(req, res)
  }

  /** Once all of the answer is written, the client has to take it: what it does not take is not kept for ever. */
  watch(res: ServerResponse, socket: Duplex): void {
    // Comes once.
    res.on('prefinish', () => this.#unread(res, socket))
  }

  #unread(res: ServerResponse, socket: Duplex): void {
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

  #next(pipeline: Pipeline, socket: Duplex): void {
    this.#inFlight--
    pipeline.current = undefined
    if (socket.destroyed || socket.writableEnded) {
      this.#giveUp(pipeline)
      return
    }
    const next = pipeline.waiting.shift()
    if (next !== undefined) {
      this.#waiting--
      if (pipeline.waiting.length === 0 && pipeline.failed === undefined) readOn(socket)
      this.#serve(pipeline, next)
    } else if (pipeline.failed !== undefined) this.#end(socket, pipeline, pipeline.failed)
  }

  #giveUp(pipeline: Pipeline): void {
    pipeline.over = true
    this.#waiting -= pipeline.waiting.length
    pipeline.waiting.length = 0
  }

  #end(socket: Duplex, pipeline: Pipeline, error: GateError): void {
    pipeline.over = true
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
