/**
 * Room: admin. In: HTTP requests of operators on a port of its own. Out: status, metrics, live exchanges, cuts. Never
 * does: share a port with clients. /livez and /readyz are open, all other paths need the bearer token in
 * `admin.token_file`. The control thread serves this port, so its clients must not be able to keep that thread from
 * applying revocations: see `bounded`.
 */
import { hash, timingSafeEqual } from 'node:crypto'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { Duplex } from 'node:stream'
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { Log } from '../domain/log.ts'
import { withoutSchemas } from '../domain/without-schemas.ts'
import { GateError } from '../errors.ts'
import { wrapConnections } from '../node-quirks.ts'
import { refuseForeignHosts } from './host.ts'
import { type LiveOptions, serveLive } from './live.ts'
import { OneRequest } from './one-request.ts'
import { readOrMakeToken } from './token.ts'

export interface AdminOptions extends LiveOptions {
  readonly config: {
    readonly host: string
    readonly port: number
    readonly token_file: string
    readonly metrics_open: boolean
    readonly hosts?: readonly string[]
  }
  readonly readiness: () => {
    readonly ready: boolean
    readonly reasons: readonly string[]
    readonly warnings: readonly string[]
  }
  readonly status: () => object
  /** Returns the Prometheus text. */
  readonly metrics: () => string
  /** True in a rolling restart, where the previous gate still has the port: take the port when it is free. */
  readonly waitForPort: boolean
  readonly log: Pick<Log, 'info'>
}

const retryMs = 250
/**
 * Most connections without a token. Each may have a request ready in the same turn of the control thread, and each
 * request takes it about 0.1 ms. One connection more replaces the oldest; honest clients send their request at once
 * and are already answered. If the port refused the newest instead, an attacker could block it by opening this many
 * connections and sending nothing.
 */
export const maxStrangers = 64
const headMs = 2000
const maxHeadBytes = 16 * 1024

export class AdminServer {
  readonly #options: AdminOptions
  #app: FastifyInstance | undefined
  #retry: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: AdminOptions) {
    this.#options = options
  }

  /** @returns The port number. @throws GateError ERR_LISTEN, ERR_CONFIG_FILE */
  async open(): Promise<number> {
    try {
      return await this.#listen()
    } catch (error) {
      const { cause } = error as GateError
      const taken = (cause as NodeJS.ErrnoException | undefined)?.code === 'EADDRINUSE'
      if (!taken || !this.#options.waitForPort || this.#closed) throw error
      this.#options.log.info(
        { port: this.#options.config.port },
        'the admin port is in use; waiting until the previous gate releases it',
      )
      this.#tryAgain()
      return this.#options.config.port
    }
  }

  #tryAgain(): void {
    this.#retry = setTimeout(() => {
      this.#listen().then(
        () => this.#options.log.info({}, 'this gate now has the admin port'),
        () => {
          if (!this.#closed) this.#tryAgain()
        },
      )
    }, retryMs)
  }

  async #listen(): Promise<number> {
    const { config, readiness, status, metrics } = this.#options
    const { host, port } = config
    const expected = digest(readOrMakeToken(config.token_file))
    const strangers = new Set<Duplex>()
    const app = fastify({
      logger: false,
      ...withoutSchemas,
      forceCloseConnections: true,
      serverFactory: (serve) => bounded(serve, strangers),
    })
    refuseForeignHosts(app, [config.host, ...(config.hosts ?? [])])
    // No request needs a body, so none is read.
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', (_request, _body, done) => done(null))
    const guard = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
      const given = /^bearer +(.*)$/i.exec(request.headers.authorization ?? '')?.[1] ?? ''
      // Digests have equal lengths, and the time of their comparison reveals nothing about the token.
      if (timingSafeEqual(digest(given), expected)) {
        strangers.delete(request.raw.socket)
        return
      }
      await reply
        .code(401)
        .header('www-authenticate', 'Bearer')
        .header('cache-control', 'no-store')
        .send({
          title: 'The admin token is required.',
          status: 401,
          code: 'ERR_CREDENTIAL_MISSING',
        })
    }
    app.get('/livez', async () => ({ live: true }))
    app.get('/readyz', async (_request, reply) => {
      const answer = readiness()
      return await reply
        .code(answer.ready ? 200 : 503)
        .header('cache-control', 'no-store')
        .send(answer)
    })
    app.get('/v1/status', { onRequest: guard }, async () => status())
    serveLive(app, guard, this.#options)
    app.get('/metrics', config.metrics_open ? {} : { onRequest: guard }, async (_request, reply) =>
      reply.type('text/plain; version=0.0.4; charset=utf-8').send(metrics()),
    )
    try {
      await app.listen({ host, port })
    } catch (error) {
      throw new GateError(
        'ERR_LISTEN',
        `cannot listen on ${host}:${port}: ${(error as NodeJS.ErrnoException).code}`,
        {
          cause: error,
          hint: 'change admin.host or admin.port, or stop the program that listens there',
        },
      )
    }
    this.#app = app
    if (this.#closed) await app.close()
    return port === 0 ? (app.server.address() as { port: number }).port : port
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#retry)
    await this.#app?.close()
  }
}

/**
 * Returns a server whose work in one turn is limited: one request per connection, and a maximum of connections.
 * Without the limits, 64 clients that send pipelined requests stop the control thread for ten seconds; revocations
 * arrive that late, and workers deny all requests because the feed is stale. Monitoring clients lose nothing: they
 * can connect again.
 */
function bounded(serve: RequestListener, strangers: Set<Duplex>): Server {
  const settings = {
    // Node does not count all bytes of the headers, and must itself refuse headers that arrive incomplete.
    maxHeaderSize: maxHeadBytes / 2,
    headersTimeout: headMs,
    // Request bodies are not read, so Node never learns that a request is complete.
    requestTimeout: 0,
    connectionsCheckingInterval: 500,
    noDelay: true,
  }
  const server = createServer(settings, (req, res) => {
    res.shouldKeepAlive = false
    serve(req, res)
  })
  // Node answers these requests itself, and would keep the connection open.
  server.on('checkExpectation', (_req, res) => res.writeHead(417, { connection: 'close' }).end())
  wrapConnections(server, (socket) => {
    const connection = new OneRequest(socket, maxHeadBytes)
    strangers.add(connection)
    connection.on('close', () => strangers.delete(connection))
    if (strangers.size > maxStrangers) strangers.values().next().value!.destroy()
    return connection
  })
  return server
}

function digest(text: string): Buffer {
  return hash('sha256', text, 'buffer')
}
