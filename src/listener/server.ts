/**
 * Room: listener. In: connections. Out: requests whose framing the parser accepts, with their bodies left as streams.
 * Never does: route, decide, read a body. What the parser refuses is answered in `refuse`.
 *
 * The server is Fastify's, made by its `serverFactory`; requests go to the walk before Fastify sees them.
 */
import { hash, randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import {
  createServer as createTlsServer,
  type ServerOptions,
  type Server as TlsServer,
} from 'node:https'
import type { Server as NetServer, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import fastify, { type FastifyInstance, type FastifyListenOptions } from 'fastify'
import type { GateConfig } from '../config/options.ts'
import { NetworkSet } from '../domain/network.ts'
import { asGateError, GateError } from '../errors.ts'
import { type Ends, hasPeer, type Peer, type Via } from './peer.ts'
import { JoinedRequest } from './pieces.ts'
import { PipelineQueue } from './pipelining.ts'
import { createProxiedServer } from './proxy-protocol.ts'
import { parserError, refuseOn } from './refuse.ts'
import { parseUpgrade, type Upgrade } from './upgrade.ts'

export interface ListenerOptions {
  readonly limits: {
    readonly header_bytes: number
    readonly header_timeout: number
    readonly request_timeout: number
    readonly connections: number
    readonly requests: number
    readonly read_idle: number
  }
  readonly metrics: {
    count(
      name:
        | 'dropgate_connections_dropped_total'
        | 'dropgate_connections_refused_total'
        | 'dropgate_unread_answers_total',
    ): void
  }
  readonly onRequest: (req: IncomingMessage, res: ServerResponse, via: Via) => void
  /** A handshake to be decided on like a request; its `res` answers whatever is not 101. */
  readonly onUpgrade: (req: IncomingMessage, upgrade: Upgrade, via: Via) => void
  /** Something is refused before it has become a request: it is answered, or its connection destroyed, by the listener. */
  readonly onRefused: (refused: {
    readonly decisionId: string
    readonly error: GateError
    readonly remoteAddress: string | undefined
  }) => void
}

export type ListenConfig = GateConfig['listen'][number]

export interface ListenAt {
  /** In place of the configured one: equal to it but for port 0. */
  readonly port: number
  readonly reusePort: boolean
}

export interface Listener {
  /** @returns the port bound. @throws GateError ERR_LISTEN */
  listen(config: ListenConfig, at: ListenAt): Promise<number>
  /** Takes new limits and certificates; connections that are open keep theirs. */
  reload(limits: ListenerOptions['limits'], listens: readonly ListenConfig[]): void
  /** Requests under way. */
  readonly inFlight: number
  /**
   * Asks clients to leave while still accepting, waits until nobody is in the middle of something, then closes.
   * @param cutRest Called when the time is over: cuts whatever is still open.
   */
  drain(timeoutMs: number, cutRest: () => void): Promise<void>
}

/** How often a drain looks whether all connections are idle, and how often in a row they must be before the port closes. */
const lookMs = 10
const quietLooks = 10
/** What a connection that was accepted last gets even after the drain's deadline. */
const graceMs = 250
const keepAliveMs = 72_000

/** One bound port. */
interface Bound {
  readonly app: FastifyInstance
  readonly server: Server
  /** In front of `server` where connections begin with a PROXY protocol header. */
  readonly front: NetServer | undefined
}

export function createListener(options: ListenerOptions): Listener {
  const listening: Bound[] = []
  let { limits } = options
  let draining = false
  /** @returns the decision id. */
  const note = (socket: Duplex, error: GateError): string => {
    const decisionId = randomUUID()
    const { remoteAddress } = socket as { remoteAddress?: string }
    options.onRefused({ decisionId, error, remoteAddress })
    return decisionId
  }
  const answerBare = (socket: Duplex, error: GateError): void =>
    refuseOn(socket, error, note(socket, error))
  const pipelines = new PipelineQueue(
    answerBare,
    () => limits,
    () => options.metrics.count('dropgate_unread_answers_total'),
    (socket) => note(socket, new GateError('ERR_OVERLOADED')),
  )

  /** Node has let go of the socket; false, and it is gone, where an answer under way on it could not end in order. */
  const takeOver = (socket: Duplex): boolean => {
    // It has taken its own listeners off: a reset that nobody listens for would end the worker.
    socket.on('error', () => {})
    if (pipelines.seize(socket)) return true
    socket.destroy()
    return false
  }

  const upgrade = (req: IncomingMessage, socket: Socket, head: Buffer, via: Via): void => {
    if (!takeOver(socket)) return
    try {
      const upgrade = parseUpgrade(req, socket, head)
      pipelines.watch(upgrade.res, socket)
      options.onUpgrade(req, upgrade, via)
    } catch (error) {
      answerBare(socket, asGateError(error))
    }
  }

  const makeServer = ({ tls }: ListenConfig, via: Via): Server => {
    const settings = {
      requireHostHeader: false,
      // Past this many bytes the parser stops; our own, smaller count gives the clearer refusal.
      maxHeaderSize: limits.header_bytes * 2,
      headersTimeout: limits.header_timeout,
      requestTimeout: limits.request_timeout,
      keepAliveTimeout: keepAliveMs,
      connectionsCheckingInterval: 500,
      noDelay: true,
      IncomingMessage: JoinedRequest,
      // A WebSocket handshake is decided on; every other Upgrade header is an offer we may ignore.
      shouldUpgradeCallback: (req: IncomingMessage) =>
        req.headers.upgrade?.toLowerCase().includes('websocket') === true,
    }
    const server: Server =
      tls === undefined
        ? createServer(settings)
        : createTlsServer({
            ...settings,
            ...secureOptions(tls),
            handshakeTimeout: limits.header_timeout,
            ALPNProtocols: ['http/1.1'],
          })
    const serve = (req: IncomingMessage, res: ServerResponse): void => {
      if (draining) res.shouldKeepAlive = false
      options.onRequest(req, res, via)
    }
    const take = (req: IncomingMessage, res: ServerResponse): void =>
      pipelines.take(req, res, serve)
    // To Node an answer that is written but not yet sent is none: it would be broken off (also by `close`).
    const closeIdle = server.closeIdleConnections.bind(server)
    server.closeIdleConnections = () => {
      if (pipelines.inFlight === 0) closeIdle()
    }
    // 0: no header is hidden from us; the walk counts them.
    server.maxHeadersCount = 0
    server.maxConnections = limits.connections
    server.on('request', take)
    server.on('checkContinue', take)
    server.on('checkExpectation', take)
    // Before Node's own listener: nothing is read from a connection on which nobody is.
    server.prependListener(
      tls === undefined ? 'connection' : 'secureConnection',
      (socket: Socket) => {
        if (!hasPeer(socket)) socket.destroy()
      },
    )
    server.on('secureConnection', (socket: TLSSocket) => certify(socket, via))
    // A handshake that fails was no request; without a listener it would end the process.
    server.on('tlsClientError', (_error: Error, socket: Socket) => socket.destroy())
    server.on('connect', (_req: IncomingMessage, socket: Duplex) => {
      if (takeOver(socket)) answerBare(socket, new GateError('ERR_METHOD_NOT_ALLOWED'))
    })
    server.on('upgrade', (req: IncomingMessage, socket: Duplex, head: Buffer) =>
      upgrade(req, socket as Socket, head, via),
    )
    server.on('drop', () => options.metrics.count('dropgate_connections_dropped_total'))
    return server
  }

  const onClientError = (error: Error, socket: Duplex): void => {
    const { code } = error as { code?: string }
    // Nobody is there to be told.
    if (code === 'ECONNRESET' || !socket.writable) socket.destroy()
    else pipelines.fail(socket, parserError(error))
  }

  /** The server that takes the PROXY header off; what it lets through goes on to `server`. */
  const makeFront = (server: Server, via: Via): NetServer => {
    const front = createProxiedServer({
      trusted: via.trusted!,
      timeoutMs: () => limits.header_timeout,
      named: via.named,
      onConnection: (socket) => {
        server.emit('connection', socket)
        // TLS reads by itself, and first what has come with the header: resumed here that would go past it.
        if (via.scheme === 'http') socket.resume()
      },
      onRefused: () => options.metrics.count('dropgate_connections_refused_total'),
    })
    front.maxConnections = limits.connections
    front.on('drop', () => options.metrics.count('dropgate_connections_dropped_total'))
    // A TLS socket is not the one that was named; what the first knows goes to the second.
    server.on('secureConnection', (socket: Socket & { _parent?: Socket }) => {
      const ends = socket._parent === undefined ? undefined : via.named.get(socket._parent)
      if (ends !== undefined) via.named.set(socket, ends)
    })
    return front
  }

  /**
   * Resolves once nothing has been under way for a moment, at the latest at `endAt`. Who comes back meanwhile on a
   * connection that was idle is told to leave; what is idle still is closed then, and rarely in the middle of a request.
   */
  const quiet = async (endAt: number): Promise<void> => {
    // Looks, not time: a thread that is late has not looked meanwhile.
    let looks = 0
    while (performance.now() < endAt && looks < quietLooks) {
      await new Promise((resolve) => setTimeout(resolve, lookMs))
      looks = pipelines.inFlight + pipelines.seized > 0 ? 0 : looks + 1
    }
    for (const { server } of listening) server.closeIdleConnections()
  }

  return {
    get inFlight() {
      return pipelines.inFlight
    },

    async listen(config, { port, reusePort }) {
      const { host, proxy_protocol: proxied } = config
      const via = viaOf(config)
      const server = makeServer(config, via)
      const front = proxied === 'required' ? makeFront(server, via) : undefined
      const app = fastify({
        logger: false,
        serverFactory: () => server,
        clientErrorHandler: onClientError,
      })
      try {
        // Fastify hands what it does not know on to `server.listen`; its types do not name `reusePort` yet.
        const at: FastifyListenOptions & { reusePort: boolean } = {
          host,
          port,
          reusePort,
          backlog: 1024,
        }
        if (front === undefined) await app.listen(at)
        else {
          await app.ready()
          await new Promise<void>((resolve, reject) => {
            front.once('error', reject)
            front.listen(at, () => resolve())
          })
          // Node begins to watch over slow heads when it listens, which here the front does in its place.
          server.emit('listening')
        }
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException
        throw new GateError('ERR_LISTEN', `cannot listen on ${host}:${port}: ${code ?? message}`, {
          cause: error,
          hint: 'change listen.host or listen.port, or stop what listens there',
        })
      }
      if (server.listenerCount('clientError') === 0) server.on('clientError', onClientError)
      listening.push({ app, server, front })
      return ((front ?? server).address() as { port: number }).port
    },

    reload(newLimits, listens) {
      limits = newLimits
      for (const [i, { server, front }] of listening.entries()) {
        // Read by Node for each new connection; the types do not name it.
        ;(server as { maxHeaderSize?: number }).maxHeaderSize = limits.header_bytes * 2
        server.headersTimeout = limits.header_timeout
        server.requestTimeout = limits.request_timeout
        for (const each of front === undefined ? [server] : [server, front])
          each.maxConnections = limits.connections
        const { tls } = listens[i]!
        if (tls !== undefined) (server as TlsServer).setSecureContext(secureOptions(tls))
      }
    },

    async drain(timeoutMs, cutRest) {
      draining = true
      const startAt = performance.now()
      const endAt = startAt + timeoutMs
      // Under steady traffic that never comes; what is let in last needs its time too.
      await quiet(startAt + timeoutMs / 2)
      // Nobody new from here on; who was let in a moment ago has not said yet what he wants.
      const closed = listening.map(({ app, front }) => {
        front?.close()
        return app.close()
      })
      await quiet(Math.max(endAt, performance.now() + graceMs))
      if (pipelines.inFlight + pipelines.seized > 0) {
        cutRest()
        // What the cut said, or wrote as its last frame, goes out.
        await quiet(performance.now() + graceMs)
      }
      for (const { server } of listening) server.closeAllConnections()
      await Promise.all(closed)
    },
  }
}

/** What a handshake needs; a client certificate that is asked for and does not verify ends it in `certify`. */
function secureOptions({ cert, key, client_ca: ca, client_cert }: Tls): ServerOptions {
  const asked =
    ca === undefined
      ? {}
      : { ca, requestCert: true, rejectUnauthorized: client_cert === 'required' }
  return { cert, key, minVersion: 'TLSv1.2', ...asked }
}

type Tls = NonNullable<ListenConfig['tls']>

/** Notes who the client is by its certificate; where certificates are optional a bad one is still no certificate. */
function certify(socket: TLSSocket, via: Via): void {
  const certificate = socket.getPeerX509Certificate()
  if (certificate === undefined) return
  if (socket.authorized) {
    via.certificates.set(socket, hash('sha256', certificate.raw, 'base64url'))
  } else socket.destroy()
}

function viaOf({ tls, trusted_proxies: trusted, client_header: clientHeader }: ListenConfig): Via {
  return {
    scheme: tls === undefined ? 'http' : 'https',
    trusted: trusted === undefined ? undefined : new NetworkSet(trusted),
    clientHeader,
    named: new WeakMap<Socket, Ends>(),
    certificates: new WeakMap<Socket, string>(),
    peers: new WeakMap<Socket, Peer>(),
  }
}
