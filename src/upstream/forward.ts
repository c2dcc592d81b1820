/**
 * Sends one allowed request to the upstream and passes the response on, event by event. The path is byte for byte the
 * canonical string on which the policy decided. Failures arrive as GateErrors with the code for the client.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { Duplex, Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import { monotonicUs } from '../domain/clock.ts'
import { idempotentMethods, safeMethods } from '../domain/http.ts'
import { type Linked, LinkedList } from '../domain/linked.ts'
import { atEndOfTurn } from '../domain/turn.ts'
import type { UpstreamAnswer } from '../domain/upstream-answer.ts'
import { asGateError, type Code, GateError } from '../errors.ts'
import { type Connection, endedUnanswered } from './connection.ts'
import type { Upstream } from './pools.ts'

export interface UpstreamRequest {
  readonly method: string
  /** Path and query to send: `Target.wire`. */
  readonly path: string
  /** Flat list of names and values, made by `upstreamHeaders`. */
  readonly headers: string[]
  /** Stream of the request body, its bytes if the policy has read them, or null if the request has no body. */
  readonly body: Readable | Buffer | null
  /**
   * Asks the upstream to switch protocols. The request then needs a connection of its own, see `DedicatedConnection`.
   */
  readonly upgrade?: 'websocket'
}

/** A request that is being sent or answered. `abort` ends it so that the upstream never sees it as complete. */
export class Forwarding implements Linked<Forwarding> {
  before: Forwarding | undefined
  after: Forwarding | undefined
  linked = false
  readonly #upstream: Upstream
  #connection: Connection
  readonly #request: UpstreamRequest
  readonly #answer: UpstreamAnswer
  #list: LinkedList<Forwarding> | undefined
  #dispatched = false
  #retried = false
  #hints = 0
  #others = 0
  #controller: Dispatcher.DispatchController | undefined
  #abortedWith: Error | undefined
  #settled = false
  #failed = false
  /** It has left its place among the requests for one among the streams. */
  #stream = false
  /** undici has written all of the request, though the upstream may not have taken it. */
  #written = false
  /** Part of the request had not gone out when the sweep looked last. */
  #goingUp = false
  #takenBytes = 0
  /** Monotonic µs since which the sweep counts: of the last progress until the answer begins, then of its begin. */
  #sinceUs = monotonicUs()

  private constructor(upstream: Upstream, request: UpstreamRequest, answer: UpstreamAnswer) {
    this.#upstream = upstream
    this.#connection = upstream.admit()
    this.#request = request
    this.#answer = answer
  }

  /** @throws GateError ERR_OVERLOADED; every other failure goes to `answer.onError`. */
  static start(upstream: Upstream, request: UpstreamRequest, answer: UpstreamAnswer): Forwarding {
    try {
      const sending = new Forwarding(upstream, request, answer)
      sending.#file(unanswered)
      atEndOfTurn(sending.#begin)
      return sending
    } catch (error) {
      giveUp(request)
      throw error
    }
  }

  readonly #begin = (): void => {
    // If the request was cut in this turn, nothing of it is sent.
    if (this.#abortedWith === undefined) this.#dispatch()
    else this.onResponseError(undefined, this.#abortedWith)
  }

  #dispatch(): void {
    const { method, path, headers, body, upgrade = null } = this.#request
    const { serverName: servername } = this.#upstream
    this.#dispatched = true
    try {
      const options = {
        method: method as Dispatcher.HttpMethod,
        path,
        headers,
        body,
        upgrade,
        servername,
        // undici would close the connection after each HEAD; the pool lets it rest instead.
        reset: method === 'HEAD' ? false : null,
      }
      this.#connection.client.dispatch(options as Dispatcher.DispatchOptions, this)
    } catch (error) {
      this.onResponseError(undefined, error as Error)
    }
  }

  /** True if the upstream ended the request too early, false if the gate did. */
  get failed(): boolean {
    return this.#failed
  }

  abort(why: Error): void {
    if (this.#settled) return
    this.#abortedWith ??= why
    if (this.#controller !== undefined) this.#controller.abort(why)
    // The connection is not open yet. undici would tell of the end only then, and the place would be taken until then.
    else if (this.#dispatched) this.onResponseError(undefined, why)
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    this.#sinceUs = monotonicUs()
    this.#connection.expectAnswer()
    if (this.#settled || this.#abortedWith !== undefined) {
      controller.abort(this.#abortedWith ?? new Error('the gate gave the request up'))
    }
  }

  onRequestSent(): void {
    this.#written = true
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
    reason?: string,
  ): void {
    const raw = (controller.rawHeaders ?? []) as Buffer[]
    if (status < 200) {
      this.#onInterim(status, raw)
      return
    }
    this.#file(undefined)
    if (isEventStream(headers['content-type'])) {
      if (!this.#upstream.becomeStream()) {
        this.abort(
          new GateError('ERR_OVERLOADED', 'The limit of open streams to the upstream is reached.'),
        )
        return
      }
      this.#stream = true
    } else {
      this.#sinceUs = monotonicUs()
      this.#file(answered)
    }
    try {
      this.#answer.onHead(status, raw, controller, reason ?? '')
    } catch (error) {
      this.abort(asGateError(error, 'ERR_UPSTREAM_MALFORMED'))
    }
  }

  /** Interim answers do not count as progress: an upstream could put its answer off with them for ever. */
  #onInterim(status: number, raw: Buffer[]): void {
    const tooMany = status === 103 ? ++this.#hints > maxHints : ++this.#others > maxOthers
    if (tooMany) this.abort(new GateError('ERR_UPSTREAM_MALFORMED'))
    else if (status === 103 && this.#abortedWith === undefined) this.#answer.onEarlyHints(raw)
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#answer.onData(chunk, controller)
  }

  onRequestUpgrade(
    controller: Dispatcher.DispatchController,
    _status: number,
    _headers: unknown,
    socket: Duplex,
  ): void {
    if (this.#settle(false))
      this.#answer.onSwitched((controller.rawHeaders ?? []) as Buffer[], socket)
    else socket.destroy()
  }

  onResponseEnd(controller: Dispatcher.DispatchController): void {
    const trailers = (controller.rawTrailers ?? none) as Buffer[]
    if (this.#settle(true)) this.#answer.onEnd(trailers)
  }

  onResponseError(_controller: unknown, error: Error): void {
    if (this.#mayRetry(error)) {
      this.#retried = true
      this.#controller = undefined
      this.#sinceUs = monotonicUs()
      this.#connection = this.#upstream.renew(this.#connection)
      this.#dispatch()
      return
    }
    if (!this.#settle(false)) return
    this.#failed = this.#abortedWith === undefined
    this.#answer.onError(toGateError(this.#abortedWith ?? error))
  }

  /**
   * Returns true if the request may be sent once more: it has no body, and either no connection was made (so nothing
   * was sent), or a kept-alive connection was closed while a request with a safe method was on its way (RFC 9110
   * section 9.2.2, RFC 9112 section 9.3.1). A request that timed out is not repeated: its client has waited long
   * enough.
   */
  #mayRetry(error: Error): boolean {
    const { method, body } = this.#request
    if (this.#retried || this.#settled || this.#abortedWith !== undefined || body !== null)
      return false
    return this.#controller === undefined
      ? idempotentMethods.has(method) && unconnected.has(codeOf(error))
      : safeMethods.has(method) && endedUnanswered(error)
  }

  /** Called by the sweep until the answer begins. Ends the request if its upstream is too slow. */
  endIfLate(nowUs: number): void {
    const limitMs = this.#limitMs(nowUs)
    if (limitMs === 0 || nowUs - this.#sinceUs < limitMs * 1000) return
    this.abort(new GateError('ERR_UPSTREAM_TIMEOUT'))
    // undici has not told of the end.
    if (this.#settle(false)) this.#answer.onError(new GateError('ERR_UPSTREAM_TIMEOUT'))
  }

  /**
   * Returns how long in ms the present step may take; 0 for no limit. There are three steps. The connection is opened.
   * The request goes up: then the time counts anew whenever the upstream has taken a piece, and not at all while the
   * gate itself waits for the client. All of it has gone out: then nothing but the answer is progress.
   */
  #limitMs(nowUs: number): number {
    const { connectMs, idleMs, headersMs } = this.#upstream.options
    if (this.#controller === undefined) return connectMs === 0 ? 0 : connectMs + stallMs
    const { waitingBytes, takenBytes } = this.#connection
    if (this.#written && waitingBytes === 0) {
      if (this.#goingUp) this.#sinceUs = nowUs
      this.#goingUp = false
      return headersMs
    }
    if (waitingBytes === 0 || takenBytes !== this.#takenBytes) this.#sinceUs = nowUs
    this.#goingUp = true
    this.#takenBytes = takenBytes
    return idleMs
  }

  /**
   * Called by the sweep while the answer goes on. An answer that lasts takes a place among the streams, if one is free.
   * @returns false when this answer, and so each later one, is still young.
   */
  leaveIfLong(nowUs: number): boolean {
    if (nowUs - this.#sinceUs < longMs * 1000) return false
    this.#stream = this.#upstream.becomeStream()
    if (this.#stream) this.#file(undefined)
    return true
  }

  /** Takes it out of its list and puts it into another one. */
  #file(list: LinkedList<Forwarding> | undefined): void {
    this.#list?.delete(this)
    this.#list = list
    list?.add(this)
  }

  #settle(clean: boolean): boolean {
    if (this.#settled) return false
    this.#settled = true
    this.#file(undefined)
    this.#upstream.release(this.#connection, {
      clean,
      stream: this.#stream,
      head: this.#request.method === 'HEAD',
    })
    giveUp(this.#request)
    return true
  }
}

/** The rest of the body is not read any more, so its timer must stop too. */
function giveUp({ body }: UpstreamRequest): void {
  if (body !== null && !Buffer.isBuffer(body)) body.destroy()
}

const eventStream = /^text\/event-stream\b/i

function isEventStream(type: string | string[] | undefined): boolean {
  return typeof type === 'string' && eventStream.test(type)
}

/** Requests of this thread whose answer has not begun, in the order in which they came. */
const unanswered = new LinkedList<Forwarding>()
/** Requests of this thread whose answer goes on, in the order in which it began; without those in a stream's place. */
const answered = new LinkedList<Forwarding>()

/** How often in ms all requests are looked through: a limit may be exceeded by this much. */
const sweepMs = 200
/** How much longer in ms than its own timeout undici may take to report that a connection cannot be opened. */
const stallMs = 1000
/** How long in ms an answer may go on before it counts as a stream. */
const longMs = 10_000

function sweep(): void {
  const nowUs = monotonicUs()
  for (const sending of unanswered) sending.endIfLate(nowUs)
  for (const sending of answered) if (!sending.leaveIfLong(nowUs)) break
}

// An answer that arrived while this thread was held up is read first: timers run before sockets in a turn.
setInterval(() => setImmediate(sweep), sweepMs).unref()

const none: readonly Buffer[] = []

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code
  return typeof code === 'string' ? code : ''
}

/** Most answers 103 (Early Hints) to one request; they are passed on. */
const maxHints = 16
/** Most other interim answers to one request. They end here: 102 only says that the upstream is at work. */
const maxOthers = 1000
const unconnected = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'EAI_AGAIN'])

const timeouts = new Set([
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  'ETIMEDOUT',
])

/**
 * Turns errors of undici and sockets into GateErrors. It compares `code`, as undici's documentation asks; errors of
 * undici's HTTP parser have only a name.
 */
function toGateError(error: unknown): GateError {
  if (error instanceof GateError) return error
  const code = codeOf(error)
  const mapped: Code = timeouts.has(code)
    ? 'ERR_UPSTREAM_TIMEOUT'
    : (error as Error | undefined)?.name === 'HTTPParserError' ||
        code === 'UND_ERR_HEADERS_OVERFLOW' ||
        code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH' ||
        code.startsWith('UND_ERR_INVALID')
      ? 'ERR_UPSTREAM_MALFORMED'
      : 'ERR_UPSTREAM_UNREACHABLE'
  return new GateError(mapped, undefined, { cause: error })
}
