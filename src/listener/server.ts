/**
 * Room: listener. In: connections. Out: requests whose framing the parser accepts, with their bodies left as streams.
 * Never does: route, decide, read a body. Bytes that the parser refuses are answered in refuse.ts.
 *
 * The server is Fastify's, made by its `serverFactory`; requests go to the pipeline before Fastify sees them.
 */
import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https'
import type { Server as NetServer, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import fastify, { type FastifyInstance, type FastifyListenOptions } from 'fastify'
import type { GateConfig } from '../config/options.ts'
import { NetworkSet } from '../domain/network.ts'
import { withoutSchemas } from '../domain/without-schemas.ts'
import { asGateError, GateError } from '../errors.ts'
import { keepIdleWhile, setMaxHeaderSize, socketBeneathTls, startTimeouts } from '../node-quirks.ts'
import { noteCertificate, secureOptions } from './certificates.ts'
import { drain } from './drain.ts'
import { certificateHeaders } from './forwarded-certificate.ts'
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
  /**
   * Called with a WebSocket handshake, which is decided like a request; its `res` carries every answer other than 101.
   */
  readonly onUpgrade: (req: IncomingMessage, upgrade: Upgrade, via: Via) => void
  /**
   * Called when the listener has refused bytes before they became a request: it has answered them, or destroyed the
   * connection.
   */
  readonly onRefused: (refused: {
    readonly decisionId: string
    readonly error: GateError
    readonly remoteAddress: string | undefined
  }) => void
}

export type ListenConfig = GateConfig['listen'][number]

export interface ListenAt {
  /** The port to bind: the configured one, but resolved when that is 0. */
  readonly port: number
  readonly reusePort: boolean
}

const keepAliveMs = 72_000

/** One bound port. */
interface Port {
  readonly app: FastifyInstance
  readonly server: Server
  /** Removes PROXY protocol headers before `server` gets the connection; undefined when they are not expected. */
  readonly front: NetServer | undefined
}

export class Listener {
  readonly #options: ListenerOptions
  readonly #ports: Port[] = []
  readonly #pipelines: PipelineQueue
  #limits: ListenerOptions['limits']
  #draining = false

  constructor(options: ListenerOptions) {
    this.#options = options
    this.#limits = options.limits
    this.#pipelines = new PipelineQueue({
      refuse: (socket, error) => this.#refuse(socket, error),
      limits: () => this.#limits,
      onUnread: () => options.metrics.count('dropgate_unread_answers_total'),
      onTooManyAhead: (socket) => this.#report(socket, new GateError('ERR_OVERLOADED')),
    })
  }

  /** Number of exchanges under way. */
  get inFlight(): number {
    return this.#pipelines.inFlight
  }

  /** @returns the port bound. @throws GateError ERR_LISTEN */
  async listen(config: ListenConfig, { port, reusePort }: ListenAt): Promise<number> {
    const { host, proxy_protocol: proxied } = config
    const via = viaOf(config)
    const server = this.#makeServer(config, via)
    const front = proxied === 'required' ? this.#makeFront(server, via) : undefined
    const onClientError = (error: Error, socket: Duplex): void => this.#onClientError(error, socket)
    const app = fastify({
      logger: false,
      ...withoutSchemas,
      serverFactory: () => server,
      clientErrorHandler: onClientError,
    })
    // Fastify passes unknown options on to `server.listen`; its types do not include `reusePort` yet.
    const at: FastifyListenOptions & { reusePort: boolean } = {
      host,
      port,
      reusePort,
      backlog: 1024,
    }
    try {
      if (front === undefined) await app.listen(at)
      else {
        await app.ready()
        await bind(front, at)
        startTimeouts(server)
      }
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      throw new GateError('ERR_LISTEN', `cannot listen on ${host}:${port}: ${code ?? message}`, {
        cause: error,
        hint: 'change listen.host or listen.port, or stop what listens there',
      })
    }
    if (server.listenerCount('clientError') === 0) server.on('clientError', onClientError)
    this.#ports.push({ app, server, front })
    return ((front ?? server).address() as { port: number }).port
  }

  /** Takes new limits and certificates; open connections keep the old ones. */
  reload(limits: ListenerOptions['limits'], listens: readonly ListenConfig[]): void {
    this.#limits = limits
    for (const [i, { server, front }] of this.#ports.entries()) {
      setMaxHeaderSize(server, limits.header_bytes * 2)
      server.headersTimeout = limits.header_timeout
      server.requestTimeout = limits.request_timeout
      for (const each of front === undefined ? [server] : [server, front])
        each.maxConnections = limits.connections
      const { tls } = listens[i]!
      if (tls !== undefined) (server as TlsServer).setSecureContext(secureOptions(tls))
    }
  }

  /**
   * Tells clients to close their connections while still accepting, waits until no exchange is open, then closes.
   * @param cutRest Called at the deadline, to cut the exchanges that are still open.
   */
  drain(timeoutMs: number, cutRest: () => void): Promise<void> {
    this.#draining = true
    const ports = {
      open: () => this.#pipelines.inFlight + this.#pipelines.detached,
      closeIdle: () => {
        for (const { server } of this.#ports) server.closeIdleConnections()
      },
      stopAccepting: () =>
        Promise.all(
          this.#ports.map(({ app, front }) => {
            front?.close()
            return app.close()
          }),
        ),
      closeAll: () => {
        for (const { server } of this.#ports) server.closeAllConnections()
      },
    }
    return drain(timeoutMs, ports, cutRest)
  }

  #makeServer({ tls }: ListenConfig, via: Via): Server {
    const limits = this.#limits
    const settings = {
      requireHostHeader: false,
      // The parser stops after this many bytes. It is twice the configured limit, so that the gate's own check, with
      // its clearer refusal, comes first.
      maxHeaderSize: limits.header_bytes * 2,
      headersTimeout: limits.header_timeout,
      requestTimeout: limits.request_timeout,
      keepAliveTimeout: keepAliveMs,
      connectionsCheckingInterval: 500,
      noDelay: true,
      IncomingMessage: JoinedRequest,
      // Only a WebSocket handshake counts as an upgrade; every other Upgrade header is an offer that the gate may
      // ignore.
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
    keepIdleWhile(server, () => this.#pipelines.inFlight > 0)
    // 0 removes Node's own limit, which would drop headers silently; parseHeaders counts them.
    server.maxHeadersCount = 0
    server.maxConnections = limits.connections
    this.#onConnections(server, via)
    this.#onRequests(server, via)
    return server
  }

  #onConnections(server: Server, via: Via): void {
    // Runs before Node's own listener, so that nothing is read from a connection without a peer address.
    server.prependListener(
      via.scheme === 'http' ? 'connection' : 'secureConnection',
      (socket: Socket) => {
        if (!hasPeer(socket)) socket.destroy()
      },
    )
    server.on('secureConnection', (socket: TLSSocket) => noteCertificate(socket, via))
    // Without a listener, a TLS handshake that fails would end the process.
    server.on('tlsClientError', (_error: Error, socket: Socket) => socket.destroy())
    server.on('drop', () => this.#options.metrics.count('dropgate_connections_dropped_total'))
  }

  #onRequests(server: Server, via: Via): void {
    const serve = (req: IncomingMessage, res: ServerResponse): void => {
      if (this.#draining) res.shouldKeepAlive = false
      this.#options.onRequest(req, res, via)
    }
    const enqueue = (req: IncomingMessage, res: ServerResponse): void =>
      this.#pipelines.enqueue(req, res, serve)
    server.on('request', enqueue)
    server.on('checkContinue', enqueue)
    server.on('checkExpectation', enqueue)
    server.on('connect', (_req: IncomingMessage, socket: Duplex) => {
      if (this.#detach(socket)) this.#refuse(socket, new GateError('ERR_METHOD_NOT_ALLOWED'))
    })
    server.on('upgrade', (req: IncomingMessage, socket: Duplex, head: Buffer) =>
      this.#upgrade(req, socket as Socket, head, via),
    )
  }

  /** The server that reads the PROXY protocol header of each connection and hands the connection on to `server`. */
  #makeFront(server: Server, via: Via): NetServer {
    const { metrics } = this.#options
    const front = createProxiedServer({
      trusted: via.trusted!,
      timeoutMs: () => this.#limits.header_timeout,
      named: via.named,
      onConnection: (socket) => {
        server.emit('connection', socket)
        // TLS resumes the socket by itself, after it has read the bytes that came with the header; to resume here would
        // skip them.
        if (via.scheme === 'http') socket.resume()
      },
      onRefused: () => metrics.count('dropgate_connections_refused_total'),
    })
    front.maxConnections = this.#limits.connections
    front.on('drop', () => metrics.count('dropgate_connections_dropped_total'))
    // The PROXY header belongs to the raw socket, but requests come on the TLS socket: copy what it named.
    server.on('secureConnection', (socket: Socket) => {
      const beneath = socketBeneathTls(socket)
      const ends = beneath === undefined ? undefined : via.named.get(beneath)
      if (ends !== undefined) via.named.set(socket, ends)
    })
    return front
  }

  #upgrade(req: IncomingMessage, socket: Socket, head: Buffer, via: Via): void {
    if (!this.#detach(socket)) return
    try {
      const upgrade = parseUpgrade(req, socket, head)
      this.#pipelines.watchUnread(upgrade.res, socket)
      this.#options.onUpgrade(req, upgrade, via)
    } catch (error) {
      this.#refuse(socket, asGateError(error))
    }
  }

  /**
   * Takes over a socket from Node. @returns false, with the socket destroyed, when an answer under way could not end in
   * order
   */
  #detach(socket: Duplex): boolean {
    // Node has removed its own listeners; a reset without an 'error' listener would end the worker.
    socket.on('error', () => {})
    if (this.#pipelines.detach(socket)) return true
    socket.destroy()
    return false
  }

  #onClientError(error: Error, socket: Duplex): void {
    const { code } = error as { code?: string }
    // The peer is gone; no response can be sent.
    if (code === 'ECONNRESET' || !socket.writable) socket.destroy()
    else this.#pipelines.fail(socket, parserError(error))
  }

  #refuse(socket: Duplex, error: GateError): void {
    refuseOn(socket, error, this.#report(socket, error))
  }

  /** @returns the decision id. */
  #report(socket: Duplex, error: GateError): string {
    const decisionId = randomUUID()
    const { remoteAddress } = socket as { remoteAddress?: string }
    this.#options.onRefused({ decisionId, error, remoteAddress })
    return decisionId
  }
}

function bind(server: NetServer, at: FastifyListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(at, () => resolve())
  })
}

function viaOf(config: ListenConfig): Via {
  const { tls, trusted_proxies: trusted, client_cert_form: form } = config
  return {
    scheme: tls === undefined ? 'http' : 'https',
    trusted: trusted === undefined ? undefined : new NetworkSet(trusted),
    clientHeader: config.client_header,
    certificateHeader:
      form === 'none'
        ? undefined
        : { form, name: config.client_cert_header?.toLowerCase() ?? certificateHeaders[form] },
    named: new WeakMap<Socket, Ends>(),
    certificates: new WeakMap<Socket, string>(),
    peers: new WeakMap<Socket, Peer>(),
  }
}
