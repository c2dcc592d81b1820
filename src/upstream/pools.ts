/**
 * Room: upstream. In: an allowed exchange with its canonical target and rebuilt headers. Out: the upstream's
 * answer, event by event, or a GateError. Never does: choose an upstream from the request, follow a redirect,
 * retry, buffer a body.
 *
 * One undici pool per origin and timeouts, with our own admission limit in front: a capped pool that queues
 * ignores abort signals, and loses a connection slot for ever for each request that fails its argument checks
 * (measured on undici 6, 7 and 8). So nothing is ever queued in it, and a pool that shows a stall is replaced.
 */
import { Pool } from 'undici'
import { GateError } from '../errors.ts'

export interface PoolOptions {
  readonly origin: string
  readonly maxConnections: number
  readonly connectMs: number
  readonly headersMs: number
  readonly idleMs: number
}

export class UpstreamPool {
  readonly options: PoolOptions
  #pool: Pool
  #inFlight = 0
  #closed = false

  constructor(options: PoolOptions) {
    this.options = options
    this.#pool = makePool(options)
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
  replace(suspect: Pool): void {
    if (suspect !== this.#pool || this.#closed) return
    this.#pool = makePool(this.options)
    // Closing waits for requests under way; a wedged one would hold it for ever, so it is not awaited.
    suspect.close().catch(() => {})
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#pool.destroy()
  }
}

/** The pools of one worker, by origin and limits: routes that agree on both share connections. */
export class Pools {
  readonly #pools = new Map<string, UpstreamPool>()

  for(options: PoolOptions): UpstreamPool {
    const key = JSON.stringify(options)
    let pool = this.#pools.get(key)
    if (pool === undefined) {
      pool = new UpstreamPool(options)
      this.#pools.set(key, pool)
    }
    return pool
  }

  async close(): Promise<void> {
    await Promise.all([...this.#pools.values()].map((pool) => pool.close()))
  }
}

function makePool(options: PoolOptions): Pool {
  return new Pool(options.origin, {
    // One more than we admit: a connection that undici has not yet noticed closing is not a reason to queue.
    connections: options.maxConnections + 1,
    pipelining: 1,
    allowH2: false,
    connect: { timeout: options.connectMs },
    headersTimeout: options.headersMs,
    bodyTimeout: options.idleMs,
    keepAliveTimeout: 30_000,
    maxHeaderSize: 32 * 1024,
  })
}
