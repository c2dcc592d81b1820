/**
 * One exchange at a time on each connection. Node parses ahead: it passes on the second of two pipelined requests while
 * the first is under way, even when the answer to the first will close the connection, so a request that a refusal
 * meant to leave unread would be decided and sent. Here each request waits until the answer before it is finished, and
 * no request after an answer that closes the connection is answered (RFC 9112 sections 9.3.2 and 9.6).
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { GateError } from '../errors.ts'
import { readOn, stopReading } from '../node-quirks.ts'

/**
 * Number of requests that may wait on one connection. One read by Node can bring thousands of short requests, and Node
 * keeps an object for each of them until the connection ends: a connection with more than this many waiting requests is
 * destroyed.
 */
const maxAhead = 64

type Serve = (req: IncomingMessage, res: ServerResponse) => void

interface PendingRequest {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly serve: Serve
}

export interface PipelineOptions {
  /** Answers on the bare socket and closes it. */
  readonly refuse: (socket: Duplex, error: GateError) => void
  /**
   * Called anew each time. `read_idle` is in ms; `requests` also limits the waiting requests of all connections
   * together.
   */
  readonly limits: () => { readonly read_idle: number; readonly requests: number }
  /** A client has left the end of its answer unread for longer than `read_idle`. */
  readonly onUnread: () => void
  /** A connection was destroyed because its client had sent too many requests ahead. */
  readonly onTooManyAhead: (socket: Duplex) => void
}

/** The state of one connection. */
interface Pipeline {
  current: PendingRequest | undefined
  readonly waiting: PendingRequest[]
  /** The error to answer with once the waiting requests are answered. */
  failed: GateError | undefined
  /** True when the last answer of the connection is written or on its way. */
  over: boolean
}

export class PipelineQueue {
  readonly #options: PipelineOptions
  readonly #pipelines = new WeakMap<Duplex, Pipeline>()
  #inFlight = 0
  #detached = 0
  /** Number of waiting requests on all connections. */
  #waiting = 0

  constructor(options: PipelineOptions) {
    this.#options = options
  }

  /** Connections that have left the pipeline and are still open. */
  get detached(): number {
    return this.#detached
  }

  /** Number of exchanges under way. */
  get inFlight(): number {
    return this.#inFlight
  }

  /**
   * Serves the request at once, or after those before it are answered; a request that comes after the last answer is
   * never served.
   */
  enqueue(req: IncomingMessage, res: ServerResponse, serve: Serve): void {
    const { socket } = req
    const pipeline = this.#pipelineOf(socket)
    // A refusal that is still to be sent will be the last answer: requests behind it are dropped.
    if (pipeline.over || pipeline.failed !== undefined) return
    if (pipeline.current === undefined) {
      this.#serve(pipeline, { req, res, serve })
      return
    }
    if (pipeline.waiting.length >= maxAhead || this.#waiting >= this.#options.limits().requests) {
      this.#giveUp(pipeline)
      socket.destroy()
      this.#options.onTooManyAhead(socket)
      return
    }
    pipeline.waiting.push({ req, res, serve })
    this.#waiting++
    // Stop reading while requests wait. The current request is complete, so no byte that is needed is held back.
    stopReading(socket)
  }

  /** The bytes of the connection are not a request, or a request that the gate does not serve. */
  fail(socket: Duplex, error: GateError): void {
    const pipeline = this.#pipelineOf(socket)
    const { current } = pipeline
    if (pipeline.over || pipeline.failed !== undefined) return
    if (current === undefined) this.#end(socket, pipeline, error)
    else if (!current.req.complete) {
      // The body of the current request is malformed or late: the request ends incomplete, both here and at the
      // upstream.
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

  /**
   * Takes the connection out of the pipeline for good. @returns false when an answer is under way or the last one is
   * written
   */
  detach(socket: Duplex): boolean {
    const pipeline = this.#pipelineOf(socket)
    if (pipeline.over || pipeline.current !== undefined) return false
    pipeline.over = true
    this.#detached++
    socket.once('close', () => this.#detached--)
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
    // Node drops bytes that follow an unused Upgrade request, so the next request would be misparsed: close after this one.
    if (req.headers.upgrade !== undefined) res.shouldKeepAlive = false
    res.on('close', () => this.#next(pipeline, req.socket))
    this.watchUnread(res, req.socket)
    serve(req, res)
  }

  /** Destroys the connection when the whole answer is written but its client reads none of it for `read_idle`. */
  watchUnread(res: ServerResponse, socket: Duplex): void {
    // Node emits 'prefinish' once, when the last byte is written to the socket.
    res.on('prefinish', () => this.#unread(res, socket))
  }

  #unread(res: ServerResponse, socket: Duplex): void {
    const { read_idle: idleMs } = this.#options.limits()
    if (res.writableFinished || socket.writableLength === 0 || idleMs === 0) return
    let left = socket.writableLength
    const timer = setInterval(() => {
      if (socket.writableLength < left) {
        left = socket.writableLength
        return
      }
      this.#options.onUnread()
      socket.destroy()
    }, idleMs)
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
    this.#options.refuse(socket, error)
  }
}
