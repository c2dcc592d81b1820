/**
 * Room: upstream. In: an allowed exchange with its canonical target and rebuilt headers. Out: the response of the
 * upstream, event by event, or a GateError. Never does: choose an upstream from the request, follow a redirect,
 * buffer a body.
 *
 * There is one pool for each combination of origin, timeouts and TLS identity. A request takes a connection of its own
 * (connection.ts) and gives it back, so nothing waits in a queue: a queued request has no deadline and cannot be
 * aborted. A pool has three kinds of places, each with its limit: requests, streams and WebSockets. What stays open
 * for long takes no place from what is short.
 */
import type { LookupFunction } from 'node:net'
import type { RouteConfig } from '../config/options.ts'
import { LinkedList } from '../domain/linked.ts'
import { GateError } from '../errors.ts'
import { type AddressRules, lookupWithin } from './addresses.ts'
import { Connection, type ConnectionOptions, connectorOf } from './connection.ts'

export interface PoolOptions extends ConnectionOptions {
  readonly maxConnections: number
  readonly maxStreams: number
  readonly maxWebSockets: number
  readonly headersMs: number
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
  /** Reserves a place and a connection. @throws GateError ERR_OVERLOADED */
  admit(): Connection
  /** Ends this connection and returns another one for the same place. */
  renew(connection: Connection): Connection
  /** Moves a request to a place of a stream. @returns false when all of these are taken; it then keeps its place. */
  becomeStream(): boolean
  /** Frees the place; to be called exactly once for each `admit`. */
  release(connection: Connection, end: Ending): void
}

export interface Ending {
  /** The answer came to its end, so the connection may carry another request. */
  readonly clean: boolean
  readonly stream: boolean
  readonly head: boolean
}

/**
 * How long in ms a connection rests after the answer to a HEAD. An upstream that wrongly sends a body with it mostly does so
 * at once; bytes on a resting connection end it. A body that comes even later would be taken for the next answer, as by
 * every client that keeps such connections: docs/upstreams.md says so.
 */
const restMs = 50

export class UpstreamPool implements Upstream {
  readonly options: PoolOptions
  readonly serverName: string
  readonly #make: () => Connection
  /** Connections that carry no request; the newest is used first, so that the others are closed as idle. */
  readonly #idle = new LinkedList<Connection>()
  readonly #all = new Set<Connection>()
  /** Connections that rest after a HEAD, the oldest first. */
  readonly #resting = new Set<Connection>()
  #requests = 0
  #streams = 0
  #webSockets = 0
  #closed = false

  constructor(options: PoolOptions, addresses: AddressRules) {
    this.options = options
    this.serverName = serverNameOf(options)
    const lookup: LookupFunction = lookupWithin(options.origin, addresses)
    // Each connector keeps its own TLS sessions, so pools never share a session.
    const connect = connectorOf(options, lookup)
    this.#make = () => new Connection(options, connect)
  }

  /** Requests and streams under way; WebSockets are not counted. */
  get inFlight(): number {
    return this.#requests + this.#streams
  }

  get streams(): number {
    return this.#streams
  }

  admit(): Connection {
    if (this.#requests >= this.options.maxConnections) {
      throw new GateError('ERR_OVERLOADED', 'All connections to the upstream are in use.')
    }
    this.#requests++
    for (let idle = this.#idle.last; idle !== undefined; idle = this.#idle.last) {
      this.#idle.delete(idle)
      if (idle.usable) return idle
      this.#end(idle)
    }
    this.#makeRoom()
    return this.#open()
  }

  renew(connection: Connection): Connection {
    this.#end(connection)
    return this.#open()
  }

  becomeStream(): boolean {
    if (this.#streams >= this.options.maxStreams) return false
    this.#requests--
    this.#streams++
    return true
  }

  release(connection: Connection, { clean, stream, head }: Ending): void {
    if (stream) this.#streams--
    else this.#requests--
    if (!clean) this.#end(connection)
    else if (head) this.#rest(connection)
    else this.#keep(connection)
  }

  #rest(connection: Connection): void {
    this.#resting.add(connection)
    setTimeout(() => {
      if (this.#resting.delete(connection)) this.#keep(connection)
    }, restMs).unref()
  }

  /** Ends the connection that has rested longest where one more would be too many: else HEADs could open any number. */
  #makeRoom(): void {
    const [oldest] = this.#resting
    if (oldest !== undefined && this.#requests + this.#resting.size > this.options.maxConnections)
      this.#end(oldest)
  }

  #keep(connection: Connection): void {
    if (!this.#closed && connection.usable) this.#idle.add(connection)
    else this.#end(connection)
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
    return new DedicatedConnection(this, this.#make, () => this.#webSockets--)
  }

  /** Closes the pool when no route uses it any more: idle connections at once, busy ones when their requests end. */
  retire(): void {
    this.#closed = true
    for (const idle of this.#idle) this.#end(idle)
  }

  close(): void {
    this.#closed = true
    for (const each of this.#all) this.#end(each)
  }

  #open(): Connection {
    const connection = this.#make()
    this.#all.add(connection)
    connection.onUnusable = () => {
      // A connection in use is ended when its request gives it back.
      if (this.#idle.delete(connection)) this.#end(connection)
    }
    return connection
  }

  #end(connection: Connection): void {
    this.#idle.delete(connection)
    this.#resting.delete(connection)
    this.#all.delete(connection)
    connection.end()
  }
}

/**
 * A connection for one upgrade, never shared and never reused. After a successful switch its socket belongs to the
 * caller; otherwise it is closed after the response.
 */
export class DedicatedConnection implements Upstream {
  readonly options: PoolOptions
  readonly serverName: string
  readonly #make: () => Connection
  #onLeft: (() => void) | undefined

  constructor({ options, serverName }: UpstreamPool, make: () => Connection, onLeft: () => void) {
    this.options = options
    this.serverName = serverName
    this.#make = make
    this.#onLeft = onLeft
  }

  admit(): Connection {
    return this.#make()
  }

  renew(connection: Connection): Connection {
    connection.end()
    return this.#make()
  }

  /** It has its place among the WebSockets already. */
  becomeStream(): boolean {
    return true
  }

  release(connection: Connection): void {
    connection.end()
  }

  /** Frees the slot; calling it again does nothing. */
  leave(): void {
    this.#onLeft?.()
    this.#onLeft = undefined
  }
}

function serverNameOf({ origin, tls }: PoolOptions): string {
  return tls?.server_name ?? new URL(origin).hostname.replace(/^\[|\]$/g, '')
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

  close(): void {
    for (const pool of this.#byOptions.values()) pool.close()
  }
}

function optionsOf(route: RouteConfig): PoolOptions {
  const { upstream, max_connections, max_streams, max_websockets, timeouts, tls } = route
  return {
    origin: upstream,
    maxConnections: max_connections,
    maxStreams: max_streams,
    maxWebSockets: max_websockets,
    maxAgeMs: route.max_connection_age,
    connectMs: timeouts.connect,
    headersMs: timeouts.headers,
    idleMs: timeouts.idle,
    tls,
  }
}
