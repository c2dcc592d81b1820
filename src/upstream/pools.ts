/**
 * Room: upstream. In: an allowed exchange with its canonical target and rebuilt headers. Out: the upstream's
 * answer, event by event, or a GateError. Never does: choose an upstream from the request, follow a redirect,
 * buffer a body.
 *
 * One undici pool for each origin, timeouts and TLS identity, with our own admission limit in front: a request that
 * waits in a pool's queue has no deadline and cannot be aborted, and before undici 8.13 one that failed its checks took a
 * connection's slot with it for ever. So nothing is ever queued there, and a pool that shows a stall is replaced.
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
  /** PEM texts and the name to verify. Always verified; without `ca` by the system's authorities. */
  readonly tls: RouteConfig['tls']
}

const retireMs = 60_000

/** Where one request is sent: a place in a pool, or a connection of its own. */
export interface Upstream {
  readonly options: PoolOptions
  /**
   * What the upstream's certificate must name. Given with each request: undici would take the name from the `Host`
   * header, and that is the client's.
   */
  readonly serverName: string
  /** Takes a place. @throws GateError ERR_OVERLOADED */
  admit(): Dispatcher
  /** Gives the place back; exactly once for each `admit`. */
  release(): void
  /** What was admitted to has shown a stall. */
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

  /** Takes a place. @throws GateError ERR_OVERLOADED when every connection is in use. */
  admit(): Pool {
    if (this.#inFlight >= this.options.maxConnections) {
      throw new GateError('ERR_OVERLOADED', 'The upstream has no free connection.')
    }
    this.#inFlight++
    return this.#pool
  }

  /** Gives the place back; the caller calls it exactly once for each `admit`. */
  release(): void {
    this.#inFlight--
  }

  /** Puts a fresh pool in place of one that lost a slot; what is under way in the old one ends in peace. */
  replace(suspect: Dispatcher): void {
    if (suspect !== this.#pool || this.#closed) return
    this.#pool = this.#make()
    // Closing waits for requests under way; a wedged one would hold it for ever, so it is not awaited.
    suspect.close().catch(() => {})
  }

  /**
   * A connection for one WebSocket. The place it takes is given back by `leave`, once its socket is closed.
   * @throws GateError ERR_OVERLOADED when there are as many as may be.
   */
  dedicated(): DedicatedConnection {
    if (this.#webSockets >= this.options.maxWebSockets) {
      throw new GateError('ERR_OVERLOADED', 'The upstream has no free place for a WebSocket.')
    }
    this.#webSockets++
    const client = new Client(this.options.origin, clientOptions(this.options, this.#addresses))
    return new DedicatedConnection(this, client, () => this.#webSockets--)
  }

  /** No route leads here any more: idle connections go now, busy ones when they are done. */
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
 * A connection for one upgrade, never shared and never used again. Once it is switched, its socket is
 * the caller's; if it is not, it ends with the answer.
 */
export class DedicatedConnection implements Upstream {
  readonly options: PoolOptions
  readonly serverName: string
  /** Not held any longer than it is needed: its socket may live for days. */
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

  /** Twice is fine. */
  leave(): void {
    this.#onLeft?.()
    this.#onLeft = undefined
  }
}

/** The pools of one worker: routes that agree on every option share connections, and no others do. */
export class Pools {
  readonly #byOptions = new Map<string, UpstreamPool>()
  /** The same by route: the request path compares no options. */
  readonly #byRoute = new WeakMap<RouteConfig, UpstreamPool>()

  /** Pools for these routes; those that no route leads to any more are retired. */
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
      // An exchange that began under the old configuration may still be on its way here.
      setTimeout(() => pool.retire(), retireMs).unref()
    }
  }

  /** Also for a route of the configuration before. */
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
    // One more than we admit: a connection that undici has not yet noticed closing is not a reason to queue.
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
    // TLS sessions are kept by this connector, so those of one pool are never another's.
    ...(tls?.ca === undefined ? {} : { ca: tls.ca }),
    ...(tls?.cert === undefined ? {} : { cert: tls.cert, key: tls.key }),
  })
  return {
    pipelining: 1,
    allowH2: false,
    // An address is verified as an address; asking for one by SNI is not allowed (RFC 6066 section 3).
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
 * Whether a connection that had carried an answer before ended with no byte of the next: most likely it was closed as
 * idle while the request was on its way (RFC 9112 section 9.3.1).
 * @param error What undici gave for the request.
 */
export function endedUnanswered(error: Error): boolean {
  return unanswered.has(error)
}

/** For the answer of an upstream that has hung up to be read. */
const answerMs = 100
const hungUp = new Set(['EPIPE', 'ECONNRESET'])

/**
 * What undici does not say of a connection's end.
 *
 * An upstream may answer before it has read the request and hang up (413, 401). The write that fails then must not end
 * the connection before what it has answered is read: the failure is told a little later, or after the last byte.
 *
 * And whether it ended unanswered. Invariant: what comes behind the last write of a request is of its answer, and before
 * the first write nothing has come.
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
  // undici listens after this, so it is known before the request is told.
  socket.on('error', (error: NodeJS.ErrnoException) => {
    const ended = error.code === 'UND_ERR_SOCKET' || hungUp.has(error.code ?? '')
    if (ended && readBefore > 0 && socket.bytesRead === readBefore) unanswered.add(error)
  })
}

/** Calls back once the answer of an upstream that has hung up is read, or the time for that is over. */
function tellLater(socket: Socket, tell: () => void): void {
  let told = false
  const once = (): void => {
    if (told) return
    told = true
    clearTimeout(timer)
    socket.off('end', once).off('close', once)
    tell()
  }
  // What came while this thread was held up is read first: timers come before sockets in a turn.
  const timer = setTimeout(() => setImmediate(once), answerMs)
  socket.once('end', once).once('close', once)
}

function withoutName(dial: buildConnector.Options): buildConnector.Options {
  const { servername: _, ...rest } = dial
  return rest
}
