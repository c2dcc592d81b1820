/**
 * An upgraded connection: two sockets and the bytes between them, in which only the ends of frames are interpreted.
 * Backpressure works in both directions, so a slow reader costs the buffer of one socket and no more.
 *
 * A cut treats the directions differently:
 *   client -> upstream: nothing more is passed on; a masked close frame follows if the last frame was complete, else
 *     the connection is destroyed
 *   upstream -> client: the current frame may be completed, then a close frame follows; after `cutMs` the connection
 *     is destroyed
 */
import { createHash, randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import type { CutReason } from '../domain/exchange.ts'
import { GateError } from '../errors.ts'
import { closeFrame, Frames } from './frames.ts'

/** Longest time in ms from a cut until both sockets are closed. */
const cutMs = 50
/** How long in ms one side may keep its connection open after the other side has closed. */
const lingerMs = 5000

/**
 * Close codes of RFC 6455 section 7.4.1 and the IANA registry: policy violation, going away, service restart, try
 * again later.
 */
const closeCodes: Readonly<Record<CutReason, number>> = {
  revoked: 1008,
  expired: 1008,
  denied: 1008,
  operator: 1008,
  bytes: 1008,
  idle: 1001,
  age: 1001,
  protocol: 1002,
  drain: 1012,
  stale: 1013,
}

export interface TunnelOptions {
  readonly client: Duplex
  readonly upstream: Duplex
  /** Called for each piece before it is passed on. */
  readonly onBytes: (fromClient: number, toClient: number) => void
  /** Called when a side sent bytes that are not a valid frame; the callback must cut the exchange. */
  readonly onMalformed: () => void
  /**
   * Called when both sockets are closed: with `done` after a close frame, else with the side that ended its
   * connection first.
   */
  readonly onOver: (ending: 'done' | 'client' | 'upstream') => void
}

export class Tunnel {
  readonly #options: TunnelOptions
  readonly #fromClient = new Frames({ masked: true })
  readonly #toClient = new Frames({ masked: false })
  #first: 'client' | 'upstream' | undefined
  #closed = 0
  #cut = false
  #timer: NodeJS.Timeout | undefined

  constructor(options: TunnelOptions) {
    this.#options = options
    const { client, upstream } = options
    this.#watch(client, upstream, 'client')
    this.#watch(upstream, client, 'upstream')
    client.on('data', this.#onClientData)
    upstream.on('data', this.#onUpstreamData)
    client.on('drain', this.#onClientDrain)
    upstream.on('drain', this.#onUpstreamDrain)
    client.resume()
    upstream.resume()
  }

  get open(): boolean {
    return !this.#cut && this.#closed < 2
  }

  cut(reason: CutReason): void {
    if (this.#cut) return
    this.#cut = true
    const { client, upstream } = this.#options
    client.off('data', this.#onClientData).off('drain', this.#onClientDrain)
    upstream.off('data', this.#onUpstreamData).off('drain', this.#onUpstreamDrain)
    this.#destroyAfter(cutMs)
    const code = closeCodes[reason]
    const endUpstream = (): void => {
      if (!this.#fromClient.atBoundary) upstream.destroy()
      else if (this.#fromClient.closed) upstream.end()
      else upstream.end(closeFrame(code, reason, randomBytes(4)))
    }
    const endClient = (): void => {
      if (this.#toClient.closed) client.end()
      else client.end(closeFrame(code, reason))
    }
    // Keep reading: without it, neither socket would notice that the other end has closed.
    client.on('data', () => {}).resume()
    upstream.resume()
    if (this.#toClient.atBoundary) {
      endClient()
      endUpstream()
      upstream.on('data', () => {})
      return
    }
    upstream.on('data', (chunk: Buffer) => {
      if (this.#toClient.atBoundary) return
      const read = this.#toClient.read(chunk, true)
      if (read > 0) client.write(chunk.subarray(0, read))
      if (!this.#toClient.atBoundary) return
      endClient()
      endUpstream()
    })
  }

  readonly #onClientData = (chunk: Buffer): void => {
    const { client, upstream, onBytes, onMalformed } = this.#options
    if (this.#fromClient.read(chunk, false) === -1) {
      onMalformed()
      return
    }
    onBytes(chunk.length, 0)
    if (!this.#cut && !upstream.write(chunk)) client.pause()
  }

  readonly #onUpstreamData = (chunk: Buffer): void => {
    const { client, upstream, onBytes, onMalformed } = this.#options
    if (this.#toClient.read(chunk, false) === -1) {
      onMalformed()
      return
    }
    onBytes(0, chunk.length)
    if (!this.#cut && !client.write(chunk)) upstream.pause()
  }

  readonly #onClientDrain = (): void => {
    this.#options.upstream.resume()
  }

  readonly #onUpstreamDrain = (): void => {
    this.#options.client.resume()
  }

  #watch(socket: Duplex, other: Duplex, side: 'client' | 'upstream'): void {
    socket.on('error', () => {})
    socket.on('end', () => {
      this.#first ??= side
      if (this.#cut) return
      other.end()
      this.#destroyAfter(lingerMs)
    })
    socket.on('close', () => {
      this.#first ??= side
      if (++this.#closed === 2) {
        clearTimeout(this.#timer)
        const done = this.#fromClient.closed || this.#toClient.closed
        this.#options.onOver(done ? 'done' : this.#first)
      } else if (!this.#cut) {
        // This side is gone. Let the data that was already written to the other side go out, then close it.
        if (!other.writableEnded) other.end()
        this.#destroyAfter(lingerMs)
      }
    })
  }

  /** Both sockets share one deadline, and the last one set counts: not `destroyAfter` of domain/destroy-after.ts, which gives each its own. */
  #destroyAfter(ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#options.client.destroy()
      this.#options.upstream.destroy()
    }, ms)
  }
}

/** The fixed GUID of RFC 6455 section 1.3 from which `Sec-WebSocket-Accept` is computed. */
const acceptGuid = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

/**
 * Returns the response that switches the client's connection to WebSocket, after checking the upstream's handshake.
 * @param raw Headers of the upstream as undici gives them.
 * @param passed Headers that the client may see.
 * @param protocol Subprotocol that is confirmed if the upstream chose none: browsers refuse a connection on which
 * none of their subprotocols is chosen.
 * @throws GateError ERR_UPSTREAM_MALFORMED
 */
export function switchingHead(
  raw: readonly Buffer[] | readonly string[],
  passed: readonly string[],
  key: string,
  protocol: string | undefined,
): string {
  const upgrades: string[] = []
  for (let i = 0; i < raw.length; i += 2) {
    if (String(raw[i]).toLowerCase() === 'upgrade') upgrades.push(String(raw[i + 1]).toLowerCase())
  }
  const expected = createHash('sha1')
    .update(key + acceptGuid)
    .digest('base64')
  const accepts: string[] = []
  let chosen = false
  let head = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
  for (let i = 0; i < passed.length; i += 2) {
    const name = passed[i]!.toLowerCase()
    if (name === 'sec-websocket-accept') accepts.push(passed[i + 1]!)
    if (name === 'sec-websocket-protocol') chosen = true
    // A switched connection has no body, so a content-length would be wrong.
    if (name !== 'content-length') head += `${passed[i]}: ${passed[i + 1]}\r\n`
  }
  const right =
    upgrades.length === 1 &&
    upgrades[0] === 'websocket' &&
    accepts.length === 1 &&
    accepts[0] === expected
  if (!right) {
    throw new GateError('ERR_UPSTREAM_MALFORMED', undefined, {
      cause: 'the upstream sent an invalid WebSocket handshake',
    })
  }
  if (!chosen && protocol !== undefined) head += `Sec-WebSocket-Protocol: ${protocol}\r\n`
  return `${head}\r\n`
}
