/**
 * Room: upstream. In: an allowed exchange with its canonical target and rebuilt headers. Out: the response of the
 * upstream, event by event, or a GateError. Never does: choose an upstream from the request, follow a redirect,
 * buffer a body.
 *
 * There is one undici pool for each combination of origin, timeouts and TLS identity. The gate limits the requests in
 * front of it, so that undici never queues one: a queued request has no deadline and cannot be aborted, and before
 * undici 8.13 a request that failed its checks blocked a connection for ever. A pool that shows a stall is replaced.
 */
import { isIP, type Socket } from 'node:net'
import { buildConnector, Client, type Dispatcher, Pool } from 'undici'
import type { RouteConfig } from '../config/options.ts'
import { GateError } from '../errors.ts'
import { hookWrites } from '../node-quirks.ts'
import { type AddressRules, lookupWithin } from './addresses.ts'

export interface PoolOptions {
  readonly origin: string
  readonly maxConnections: number
  readonly maxWebSockets: number
  readonly connectMs: number
  readonly headersMs: number
  readonly idleMs: number
  /**
   * PEM texts, and the server name to verify. The upstream is always verified, without `ca` by the authorities of the
   * system.
   */
  readonly tls: RouteConfig['tls']
}

const retireMs = 60_000

/** Where one request is sent: to a pool, or to a connection of its own. */
export interface Upstream {
  readonly options: PoolOptions
  /**
   * Name that the certificate of the upstream must have. It is passed with each request: undici would otherwise take
   * it from the `Host` header, which the client chooses.
   */
  readonly serverName: string
  /** Reserves a slot. @throws GateError ERR_OVERLOADED */
  admit(): Dispatcher
  /** Frees a slot; to be called exactly once for each `admit`. */
  release(): void
  /** Reports that this dispatcher, returned by `admit`, has stalled. */
  replace(suspect: Dispatcher): void
}

export class UpstreamPool implements Upstream {
  readonly options: PoolOptions
  readonly serverName: string
  readonly #addresses: AddressRules
  readonly #make: () => Pool
  #pool: Pool
  #inFlight = 0
  #webSockets = 0
  #closed = false

  constructor(options: PoolOptions, addresses: AddressRules) {
    this.options = options
    this.#addresses = addresses
    this.serverName =
      options.tls?.server_name ?? new URL(options.origin).hostname.replace(/^\[|\]$/g, '')
    this.#make = () => makePool(options, addresses)
    this.#pool = this.#make()
  }

  get inFlight(): number {
    return this.#inFlight
  }

  /** Reserves a slot. @throws GateError ERR_OVERLOADED when every connection is in use. */
  admit(): Pool {
    if (this.#inFlight >= this.options.maxConnections) {
      throw new GateError('ERR_OVERLOADED', 'All connections to the upstream are in use.')
    }
    this.#inFlight++
    return this.#pool
  }

  /** Frees a slot; the caller calls it exactly once for each `admit`. */
  release(): void {
    this.#inFlight--
  }

  /** Replaces a pool that lost a slot by a new one. Requests in the old pool may finish. */
  replace(suspect: Dispatcher): void {
    if (suspect !== this.#pool || this.#closed) return
    this.#pool = this.#make()
    // Do not wait for `close`: it waits for all requests, and a stalled one would keep it waiting for ever.
    suspect.close().catch(() => {})
  }

  /**
   * Returns a connection for one WebSocket. `leave` frees its slot when its socket is closed.
   * @throws GateError ERR_OVERLOADED when the maximum number is open.
   */
  dedicated(): DedicatedConnection {
    if (this.#webSockets >= this.options.maxWebSockets) {
      throw new GateError(
        'ERR_OVERLOADED',
        'The limit of open WebSockets to the upstream is reached.',
      )
    }
    this.#webSockets++
    const client = new Client(this.options.origin, clientOptions(this.options, this.#addresses))
    return new DedicatedConnection(this, client, () => this.#webSockets--)
  }

  /** Closes the pool when no route uses it any more: idle connections at once, busy ones when their requests end. */
  retire(): void {
    if (this.#closed) return
    this.#closed = true
    this.#pool.close().catch(() => {})
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#pool.destroy()
  }
}

/**
 * A connection for one upgrade, never shared and never reused. After a successful switch its socket belongs to the
 * caller; otherwise it is closed after the response.
 */
export class DedicatedConnection implements Upstream {
  readonly options: PoolOptions
  readonly serverName: string
  /** Set to undefined as early as possible: the socket may live for days, the client need not. */
  #client: Client | undefined
  #onLeft: (() => void) | undefined

  constructor({ options, serverName }: UpstreamPool, client: Client, onLeft: () => void) {
    this.options = options
    this.serverName = serverName
    this.#client = client
    this.#onLeft = onLeft
  }

  admit(): Client {
    return this.#client!
  }

  release(): void {
    this.#client?.destroy().catch(() => {})
    this.#client = undefined
  }

  replace(): void {
    this.release()
  }

  /** Frees the slot; calling it again does nothing. */
  leave(): void {
    this.#onLeft?.()
    this.#onLeft = undefined
  }
}

/** The pools of one worker. Routes share connections only if all their connection options are equal. */
export class Pools {
  readonly #byOptions = new Map<string, UpstreamPool>()
  /** Pools by route, so that no request has to compare options. */
  readonly #byRoute = new WeakMap<RouteConfig, UpstreamPool>()

  /** Creates the pools for these routes, and retires pools that no route uses any more. */
  open(routes: readonly RouteConfig[], addresses: AddressRules): void {
    const rules = JSON.stringify([addresses.deny, addresses.adminPort])
    const wanted = new Set<string>()
    for (const route of routes) {
      const options = optionsOf(route)
      const key = JSON.stringify(options) + rules
      wanted.add(key)
      let pool = this.#byOptions.get(key)
      if (pool === undefined) {
        pool = new UpstreamPool(options, addresses)
        this.#byOptions.set(key, pool)
      }
      this.#byRoute.set(route, pool)
    }
    for (const [key, pool] of this.#byOptions) {
      if (wanted.has(key)) continue
      this.#byOptions.delete(key)
      // Wait: an exchange that began under the old configuration may still be about to use this pool.
      setTimeout(() => pool.retire(), retireMs).unref()
    }
  }

  /** Returns the pool of a route, also of a route from the previous configuration. */
  for(route: RouteConfig): UpstreamPool {
    return this.#byRoute.get(route)!
  }

  async close(): Promise<void> {
    await Promise.all([...this.#byOptions.values()].map((pool) => pool.close()))
  }
}

function optionsOf(route: RouteConfig): PoolOptions {
  const { upstream, max_connections, max_websockets, timeouts, tls } = route
  return {
    origin: upstream,
    maxConnections: max_connections,
    maxWebSockets: max_websockets,
    connectMs: timeouts.connect,
    headersMs: timeouts.headers,
    idleMs: timeouts.idle,
    tls,
  }
}

function makePool(options: PoolOptions, addresses: AddressRules): Pool {
  return new Pool(options.origin, {
    ...clientOptions(options, addresses),
    // One more than the gate admits: undici may not yet have noticed that a connection closed, and must not queue then.
    connections: options.maxConnections + 1,
  })
}

function clientOptions(options: PoolOptions, addresses: AddressRules): Client.Options {
  const { origin, tls } = options
  const connect = buildConnector({
    timeout: options.connectMs,
    lookup: lookupWithin(origin, addresses),
    allowH2: false,
    rejectUnauthorized: true,
    // Each connector keeps its own TLS sessions, so pools never share a session.
    ...(tls?.ca === undefined ? {} : { ca: tls.ca }),
    ...(tls?.cert === undefined ? {} : { cert: tls.cert, key: tls.key }),
  })
  return {
    pipelining: 1,
    allowH2: false,
    // SNI must not hold an IP address (RFC 6066 section 3); the certificate is still verified against the address.
    connect: (dial, done) => {
      const named = isIP(dial.servername ?? '') === 0
      connect(named ? dial : withoutName(dial), (...result) => {
        if (result[0] === null) attend(result[1])
        done(...result)
      })
    },
    headersTimeout: options.headersMs,
    bodyTimeout: options.idleMs,
    keepAliveTimeout: 30_000,
    maxHeaderSize: 32 * 1024,
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
