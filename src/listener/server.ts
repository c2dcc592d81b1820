/**
 * Room: listener. In: connections. Out: requests whose framing the parser accepts, with their bodies left as streams.
 * Never does: route, decide, read a body. What the parser refuses is answered in `refuse`.
 *
 * The server is Fastify's, made by its `serverFactory`; requests go to the walk before Fastify sees them.
 */
import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import fastify, { type FastifyInstance, type FastifyListenOptions } from 'fastify'
import { GateError } from '../errors.ts'
import { parserError, refuseOn } from './refuse.ts'
import { Turns } from './turns.ts'

export interface ListenerOptions {
  readonly limits: {
    readonly header_bytes: number
    readonly header_timeout: number
    readonly request_timeout: number
    readonly connections: number
  }
  readonly metrics: { count(name: 'dropgate_connections_dropped_total'): void }
  readonly onRequest: (req: IncomingMessage, res: ServerResponse) => void
  /** Something was refused before it became a request; it is answered already. */
  readonly onRefused: (refused: {
    readonly decisionId: string
    readonly error: GateError
    readonly remoteAddress: string | undefined
  }) => void
}

export interface Listener {
  /** @returns the port bound. @throws GateError ERR_LISTEN */
  listen(at: { host: string; port: number; reusePort: boolean }): Promise<number>
  /** Asks clients to leave while still accepting, waits until nobody is in the middle of something, then closes. */
  drain(timeoutMs: number): Promise<void>
}

/** How long all connections must be idle before a drain closes the port. */
const quietMs = 100
const keepAliveMs = 72_000

export function createListener(options: ListenerOptions): Listener {
  const listening: { app: FastifyInstance; server: Server }[] = []
  let draining = false
  const turns = new Turns((socket, error) => {
    const decisionId = randomUUID()
    const { remoteAddress } = socket as { remoteAddress?: string }
    refuseOn(socket, error, decisionId)
    options.onRefused({ decisionId, error, remoteAddress })
  })

  const serve = (req: IncomingMessage, res: ServerResponse): void => {
    if (draining) res.shouldKeepAlive = false
    options.onRequest(req, res)
  }
  const onRequest = (req: IncomingMessage, res: ServerResponse): void => turns.take(req, res, serve)

  /** Node has let go of the socket: an answer that is under way on it could not end in order. */
  const refuse = (socket: Duplex, error: GateError): void => {
    if (turns.busy(socket)) socket.destroy()
    else turns.fail(socket, error)
  }

  const makeServer = (): Server => {
    const { limits } = options
    const server = createServer({
      requireHostHeader: false,
      // Past this many bytes the parser stops; our own, smaller count gives the clearer refusal.
      maxHeaderSize: limits.header_bytes * 2,
      headersTimeout: limits.header_timeout,
      requestTimeout: limits.request_timeout,
      keepAliveTimeout: keepAliveMs,
      connectionsCheckingInterval: 500,
      noDelay: true,
      // A WebSocket handshake is refused in words; every other Upgrade header is an offer we may ignore.
      shouldUpgradeCallback: (req: IncomingMessage) =>
        req.headers.upgrade?.toLowerCase().includes('websocket') === true,
    })
    // 0: no header is hidden from us; the walk counts them.
    server.maxHeadersCount = 0
    server.maxConnections = limits.connections
    server.on('request', onRequest)
    server.on('checkContinue', onRequest)
    server.on('checkExpectation', onRequest)
    server.on('connect', (_req: IncomingMessage, socket: Duplex) =>
      refuse(socket, new GateError('ERR_METHOD_NOT_ALLOWED')),
    )
    server.on('upgrade', (_req: IncomingMessage, socket: Duplex) =>
      refuse(socket, new GateError('ERR_UPGRADE_UNSUPPORTED')),
    )
    server.on('drop', () => options.metrics.count('dropgate_connections_dropped_total'))
    return server
  }

  const onClientError = (error: Error, socket: Duplex): void => {
    const { code } = error as { code?: string }
    // Nobody is there to be told.
    if (code === 'ECONNRESET' || !socket.writable) socket.destroy()
    else turns.fail(socket, parserError(error))
  }

  return {
    async listen({ host, port, reusePort }) {
      const server = makeServer()
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
        await app.listen(at)
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException
        throw new GateError('ERR_LISTEN', `cannot listen on ${host}:${port}: ${code ?? message}`, {
          cause: error,
          hint: 'change listen.host or listen.port, or stop what listens there',
        })
      }
      if (server.listenerCount('clientError') === 0) server.on('clientError', onClientError)
      listening.push({ app, server })
      return (server.address() as { port: number }).port
    },

    async drain(timeoutMs) {
      draining = true
      const until = performance.now() + timeoutMs
      let quietSince = performance.now()
      while (performance.now() < until && performance.now() - quietSince < quietMs) {
        for (const { server } of listening) server.closeIdleConnections()
        if (turns.inFlight > 0) quietSince = performance.now()
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
      for (const { server } of listening) server.closeAllConnections()
      await Promise.all(listening.map(({ app }) => app.close()))
    },
  }
}
