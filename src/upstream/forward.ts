/**
 * Sends one allowed request to the upstream and passes the response on, event by event. The path is byte for byte the
 * canonical string on which the policy decided. Failures arrive as GateErrors with the code for the client.
 */
import type { Duplex, Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import { monotonicUs } from '../domain/clock.ts'
import { idempotentMethods, safeMethods } from '../domain/http.ts'
import { type Linked, LinkedList } from '../domain/linked.ts'
import { atEndOfTurn } from '../domain/turn.ts'
import type { UpstreamAnswer } from '../domain/upstream-answer.ts'
import { asGateError, type Code, GateError } from '../errors.ts'
import { endedUnanswered, type Upstream } from './pools.ts'

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
  readonly #pool: Upstream
  readonly #undici: Dispatcher
  readonly #request: UpstreamRequest
  readonly #answer: UpstreamAnswer
  #retried = false
  #interim = 0
  #controller: Dispatcher.DispatchController | undefined
  #abortedWith: Error | undefined
  #settled = false
  #failed = false
  /**
   * Monotonic µs of the last progress before response headers arrive; 0 afterwards, when undici's own timeouts apply.
   */
  #waitingSinceUs = monotonicUs()

  private constructor(
    pool: Upstream,
    undici: Dispatcher,
    request: UpstreamRequest,
    answer: UpstreamAnswer,
  ) {
    this.#pool = pool
    this.#undici = undici
    this.#request = request
    this.#answer = answer
  }

  /** @throws GateError ERR_OVERLOADED; every other failure goes to `answer.onError`. */
  static start(pool: Upstream, request: UpstreamRequest, answer: UpstreamAnswer): Forwarding {
    try {
      const sending = new Forwarding(pool, pool.admit(), request, answer)
      waiting.add(sending)
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
    const { serverName: servername } = this.#pool
    try {
      const options = {
        method: method as Dispatcher.HttpMethod,
        path,
        headers,
        body,
        upgrade,
        servername,
      }
      this.#undici.dispatch(options, this)
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
    this.#controller?.abort(why)
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    if (this.#settled || this.#abortedWith !== undefined) {
      controller.abort(this.#abortedWith ?? new Error('the gate gave the request up'))
    }
  }

  onBodySent(): void {
    this.#waitingSinceUs = monotonicUs()
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number): void {
    // Interim responses (1xx) are not passed on: only the final response belongs to the decision.
    if (status < 200) {
      if (++this.#interim > maxInterim) this.abort(new GateError('ERR_UPSTREAM_MALFORMED'))
      return
    }
    this.#waitingSinceUs = 0
    waiting.delete(this)
    try {
      this.#answer.onHead(status, (controller.rawHeaders ?? []) as Buffer[], controller)
    } catch (error) {
      this.abort(asGateError(error, 'ERR_UPSTREAM_MALFORMED'))
    }
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
    if (this.#settle()) this.#answer.onSwitched((controller.rawHeaders ?? []) as Buffer[], socket)
    else socket.destroy()
  }

  onResponseEnd(): void {
    if (this.#settle()) this.#answer.onEnd()
  }

  onResponseError(_controller: unknown, error: Error): void {
    if (this.#mayRetry(error)) {
      this.#retried = true
      this.#controller = undefined
      this.#waitingSinceUs = monotonicUs()
      this.#dispatch()
      return
    }
    if (!this.#settle()) return
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

  /**
   * Fails a request for which undici has neither a response nor an error although all of undici's timeouts have
   * passed. The sweep calls it.
   */
  giveUpIfStalled(nowUs: number): void {
    const { connectMs, headersMs } = this.#pool.options
    if (nowUs - this.#waitingSinceUs < (connectMs + headersMs + 1000) * 1000) return
    this.abort(new GateError('ERR_UPSTREAM_TIMEOUT'))
    if (!this.#settle()) return
    this.#pool.replace(this.#undici)
    this.#answer.onError(new GateError('ERR_UPSTREAM_TIMEOUT'))
  }

  #settle(): boolean {
    if (this.#settled) return false
    this.#settled = true
    waiting.delete(this)
    this.#pool.release()
    giveUp(this.#request)
    return true
  }
}

/** The rest of the body is not read any more, so its timer must stop too. */
function giveUp({ body }: UpstreamRequest): void {
  if (body !== null && !Buffer.isBuffer(body)) body.destroy()
}

/** Requests of this thread without response headers yet; the sweep checks them in case undici's own timeouts fail. */
const waiting = new LinkedList<Forwarding>()

const sweep = setInterval(() => {
  const nowUs = monotonicUs()
  for (const sending of waiting) sending.giveUpIfStalled(nowUs)
}, 1000)
sweep.unref()

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code
  return typeof code === 'string' ? code : ''
}

/** Most interim responses (1xx) that an upstream may send before the final one. */
const maxInterim = 16
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
