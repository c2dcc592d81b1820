/**
 * One connection to an upstream, made with undici's Client. It carries one request at a time; the pool decides which.
 * It knows what undici does not tell: how much the upstream has taken, and whether it ended without an answer.
 */
import { isIP, type LookupFunction, type Socket } from 'node:net'
import { buildConnector, Client } from 'undici'
import type { RouteConfig } from '../config/options.ts'
import type { Linked } from '../domain/linked.ts'
import { hookReads, hookWrites } from '../node-quirks.ts'
import { ContinueFilter } from './continue.ts'

export interface ConnectionOptions {
  /** An origin, or `unix:` with the path of a socket. */
  readonly origin: string
  /** Longest time until a connection is open, longest silence of a body, longest age; each in ms, 0 for no limit. */
  readonly connectMs: number
  readonly idleMs: number
  readonly maxAgeMs: number
  /**
   * PEM texts, and the server name to verify. The upstream is always verified, without `ca` by the authorities of the
   * system.
   */
  readonly tls: RouteConfig['tls']
}

/** How long in ms a connection is kept open without a request. */
const keepAliveMs = 30_000

export class Connection implements Linked<Connection> {
  before: Connection | undefined
  after: Connection | undefined
  linked = false
  #client: Client | undefined
  /** Called when no further request may be sent on this connection: it is lost or too old. */
  onUnusable: () => void = () => {}
  readonly #continues = new ContinueFilter()
  /** The socket while it is being opened. */
  #opening: Socket | undefined
  #socket: Socket | undefined
  #age: NodeJS.Timeout | undefined
  #old = false

  constructor(options: ConnectionOptions, connect: buildConnector.connector) {
    // undici wants an origin for a Unix socket too; nothing is sent of it.
    const origin = socketPathOf(options.origin) === undefined ? options.origin : 'http://localhost'
    this.#client = new Client(origin, {
      pipelining: 1,
      allowH2: false,
      connect: (dial, done) => {
        // undici's connector returns the socket, which its types do not say.
        this.#opening = connect(dial, (...result) => {
          this.#opening = undefined
          if (result[0] === null) this.#opened(result[1], options.maxAgeMs)
          done(...result)
        }) as unknown as Socket | undefined
      },
      // forward.ts ends a request that is not answered in time: this timeout would count while the body goes up.
      headersTimeout: 0,
      bodyTimeout: options.idleMs,
      keepAliveTimeout: keepAliveMs,
      maxHeaderSize: 32 * 1024,
    })
  }

  get client(): Client {
    return this.#client!
  }

  /**
   * False when a further request would need a new connection. So it is where the upstream has answered before it took all
   * of a request: the next one would wait behind the rest, and an upstream that skips the rest would read a body as requests.
   */
  get usable(): boolean {
    return !this.#old && this.#socket?.destroyed === false && this.waitingBytes === 0
  }

  /** Bytes of the request that wait to be taken by the upstream. */
  get waitingBytes(): number {
    return this.#socket?.writableLength ?? 0
  }

  /** Bytes that were taken, since the connection was opened. A piece counts when all of it has gone out. */
  get takenBytes(): number {
    const socket = this.#socket
    return socket === undefined ? 0 : socket.bytesWritten - socket.writableLength
  }

  /** Called before a request is written: what the upstream sends next is its answer. */
  expectAnswer(): void {
    this.#continues.start()
  }

  /** Ends the connection, and a request on it. */
  end(): void {
    clearTimeout(this.#age)
    this.onUnusable = () => {}
    this.#client?.destroy().catch(() => {})
    // undici would go on opening it until its own timeout.
    this.#opening?.destroy()
    // The socket of a WebSocket leads here and may live for days; the client need not.
    this.#client = undefined
    this.#socket = undefined
  }

  #opened(socket: Socket, maxAgeMs: number): void {
    this.#socket = socket
    attend(socket)
    hookReads(socket, (bytes) => this.#continues.read(bytes))
    socket.once('close', () => {
      clearTimeout(this.#age)
      this.onUnusable()
    })
    if (maxAgeMs === 0) return
    this.#age = setTimeout(() => {
      this.#old = true
      this.onUnusable()
    }, maxAgeMs)
    this.#age.unref()
  }
}

function socketPathOf(origin: string): string | undefined {
  return origin.startsWith('unix:') ? origin.slice('unix:'.length) : undefined
}

/** @param lookup Resolves names of this upstream to allowed addresses. */
export function connectorOf(
  { origin, connectMs, tls }: ConnectionOptions,
  lookup: LookupFunction,
): buildConnector.connector {
  const socketPath = socketPathOf(origin)
  const connect = buildConnector({
    ...(socketPath === undefined ? {} : { socketPath }),
    timeout: connectMs,
    lookup,
    allowH2: false,
    rejectUnauthorized: true,
    ...(tls?.ca === undefined ? {} : { ca: tls.ca }),
    ...(tls?.cert === undefined ? {} : { cert: tls.cert, key: tls.key }),
  })
  return (dial, done) => {
    // SNI must not hold an IP address (RFC 6066 section 3); the certificate is still verified against the address.
    const named = isIP(dial.servername ?? '') === 0
    return connect(named ? dial : withoutName(dial), done)
  }
}

const unanswered = new WeakSet<object>()

/**
 * Returns true if a connection that had carried a response before ended without any byte of the next one. Most likely
 * the upstream closed it as idle while the request was on its way (RFC 9112 section 9.3.1).
 * @param error The error that undici reported for the request.
 */
export function endedUnanswered(error: Error): boolean {
  return unanswered.has(error)
}

/** How long in ms a failed write is held back, so that the response of an upstream that has closed can be read. */
const answerMs = 100
const hungUp = new Set(['EPIPE', 'ECONNRESET'])

/**
 * Adds to a socket what undici does not do at the end of a connection.
 *
 * First, an upstream may answer (413, 401) before it has read the whole request, and close. The write that then fails
 * must not end the connection before the response is read: the failure is reported a little later, or after the last
 * byte.
 *
 * Second, it records whether the connection ended without a response. Invariant: bytes that arrive after the last
 * write of a request belong to its response, and none arrive before the first write.
 */
function attend(socket: Socket): void {
  let readBefore = 0
  hookWrites(socket, {
    onWrite: () => {
      readBefore = socket.bytesRead
    },
    onFailed: (error, tell) => {
      if (hungUp.has(error.code ?? '')) tellLater(socket, tell)
      else tell()
    },
  })
  // This listener comes before that of undici, so the result is known when undici reports the error.
  socket.on('error', (error: NodeJS.ErrnoException) => {
    const ended = error.code === 'UND_ERR_SOCKET' || hungUp.has(error.code ?? '')
    if (ended && readBefore > 0 && socket.bytesRead === readBefore) unanswered.add(error)
  })
}

/** Calls back once the answer of an upstream that has closed the connection is read, or after `answerMs`. */
function tellLater(socket: Socket, tell: () => void): void {
  let told = false
  const once = (): void => {
    if (told) return
    told = true
    clearTimeout(timer)
    socket.off('end', once).off('close', once)
    tell()
  }
  // Bytes that arrived while this thread was held up are read first: timers run before sockets in a turn.
  const timer = setTimeout(() => setImmediate(once), answerMs)
  socket.once('end', once).once('close', once)
}

function withoutName(dial: buildConnector.Options): buildConnector.Options {
  const { servername: _, ...rest } = dial
  return rest
}
