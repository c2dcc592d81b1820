/**
 * Sends one allowed request upstream and hands the answer on, event by event. The path is the canonical string
 * that was decided on, byte for byte (design law 5). Failures arrive as GateErrors with the code of the answer.
 */
import type { Duplex, Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import { monotonicUs } from '../domain/clock.ts'
import { idempotentMethods, safeMethods } from '../domain/http.ts'
import { type Linked, LinkedList } from '../domain/linked.ts'
import { atEndOfTurn } from '../domain/turn.ts'
import { asGateError, type Code, GateError } from '../errors.ts'
import { endedUnanswered, type Upstream } from './pools.ts'

export interface UpstreamRequest {
  readonly method: string
  /** `Target.wire`. */
  readonly path: string
  /** Flat name, value list made by `upstreamHeaders`. */
  readonly headers: string[]
  /** The request's stream, its bytes where the policy has read them, or null where it has no body. */
  readonly body: Readable | Buffer | null
  /** Asks for the connection itself; it must be one of its own then, see `DedicatedConnection`. */
  readonly upgrade?: 'websocket'
}

/** What the relay does with the answer. Exactly one of `onEnd` and `onError` comes last. */
export interface UpstreamAnswer {
  onHead(status: number, rawHeaders: readonly Buffer[] | readonly string[], flow: Flow): void
  onData(chunk: Buffer, flow: Flow): void
  onEnd(): void
  onError(error: GateError): void
  /** In place of a head: the upstream says that it has switched. Whether rightly is the caller's to see. */
  onSwitched(rawHeaders: readonly Buffer[] | readonly string[], socket: Duplex): void
}

export interface Flow {
  pause(): void
  resume(): void
}

/** A request under way; `abort` ends it so that the upstream never sees it as complete. */
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
  /** Monotonic µs of the last sign of life while no head has come; 0 afterwards, when undici's own timers rule. */
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
    // Cut meanwhile: nothing of it ever goes out.
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

  /** True once the upstream has ended it early; false where the gate did. */
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
      controller.abort(this.#abortedWith ?? new Error('given up'))
    }
  }

  onBodySent(): void {
    this.#waitingSinceUs = monotonicUs()
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number): void {
    // Interim answers (1xx, RFC 9110 section 15.2) end here: the client's answer is the one final answer, and an upstream
    // could send interim ones without end.
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
   * Once, and only what has no body: where no connection came about, so nothing was sent, or where a kept connection was
   * closed while a request that changes nothing was on its way there (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1). A
   * time-out is not repeated: the caller has waited enough.
   */
  #mayRetry(error: Error): boolean {
    const { method, body } = this.#request
    if (this.#retried || this.#settled || this.#abortedWith !== undefined || body !== null)
      return false
    return this.#controller === undefined
      ? idempotentMethods.has(method) && unconnected.has(codeOf(error))
      : safeMethods.has(method) && endedUnanswered(error)
  }

  /** Called by the sweep: undici has neither answered nor failed although every deadline of its own has passed. */
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

/** What is left of the body is not read any more; its timer must not go on either. */
function giveUp({ body }: UpstreamRequest): void {
  if (body !== null && !Buffer.isBuffer(body)) body.destroy()
}

/** Requests of this thread that have no head yet, for the sweep that backs undici's own timers up. */
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

/** Interim answers (1xx) that an upstream may send before the real one. */
const maxInterim = 16
const unconnected = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'EAI_AGAIN'])

const timeouts = new Set([
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  'ETIMEDOUT',
])

/** undici and socket failures by `code`, as undici's documentation asks (never by class); its parser gives a name only. */
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
