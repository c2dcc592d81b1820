/**
 * Room: admin. The gate's own port, for operators: /livez and /readyz are open, everything else needs the bearer in
 * `admin.token_file`. Never on the port that clients reach. It is served by the control thread, so whoever reaches it
 * must not be able to keep that from revocations: see `bounded`.
 */
import { hash, timingSafeEqual } from 'node:crypto'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { GateError } from '../errors.ts'
import { type LiveOptions, serveLive } from './live.ts'
import { OneRequest } from './one-request.ts'
import { readOrMakeToken } from './token.ts'

export interface AdminOptions extends LiveOptions {
  readonly config: {
    readonly host: string
    readonly port: number
    readonly token_file: string
    readonly metrics_open: boolean
  }
  readonly readiness: () => { readonly ready: boolean; readonly reasons: readonly string[] }
  readonly status: () => object
  /** Prometheus text. */
  readonly metrics: () => string
  /** During a rolling restart the gate before still has the port: take it once it is free. */
  readonly waitForPort: boolean
  readonly log: { info(fields: object, message: string): void }
}

const retryMs = 250
/**
 * Connections without the token. All of them may have their request ready in the same turn of the control thread, and each
 * costs it some 0.1 ms. Who is one too many takes the place of the oldest, since pollers ask as soon as they connect: a
 * port that only refused could be kept shut by whoever opens this many connections and says nothing.
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

  /** @returns the port. @throws GateError ERR_LISTEN, ERR_CONFIG_FILE */
  async open(): Promise<number> {
    try {
      return await this.#listen()
    } catch (error) {
      const { cause } = error as GateError
      const taken = (cause as NodeJS.ErrnoException | undefined)?.code === 'EADDRINUSE'
      if (!taken || !this.#options.waitForPort || this.#closed) throw error
      this.#options.log.info({ port: this.#options.config.port }, 'waiting for the admin port')
      this.#tryAgain()
      return this.#options.config.port
    }
  }

  #tryAgain(): void {
    this.#retry = setTimeout(() => {
      this.#listen().then(
        () => this.#options.log.info({}, 'the admin port is taken over'),
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
      forceCloseConnections: true,
      serverFactory: (serve) => bounded(serve, strangers),
    })
    // No request has a body, and none is read.
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', (_request, _body, done) => done(null))
    const guard = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
      const given = /^bearer +(.*)$/i.exec(request.headers.authorization ?? '')?.[1] ?? ''
      // Digests: equal lengths, and the comparison's time says nothing about the token.
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
      const { ready, reasons } = readiness()
      return await reply
        .code(ready ? 200 : 503)
        .header('cache-control', 'no-store')
        .send({ ready, reasons })
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
          hint: 'change admin.host or admin.port, or stop what listens there',
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
 * A server whose work in one turn has an end: one request of each connection, and so many connections. Without it 64
 * clients that send requests ahead stop the control thread for ten seconds, revocations come as late, and workers deny
 * everybody since the feed is stale. Pollers lose nothing: who would keep a connection connects again.
 */
function bounded(serve: RequestListener, strangers: Set<Duplex>): Server {
  const settings = {
    // Node counts less than all of it, and has to refuse what comes incomplete.
    maxHeaderSize: maxHeadBytes / 2,
    headersTimeout: headMs,
    // Node does not hear that a body ended that it does not read.
    requestTimeout: 0,
    connectionsCheckingInterval: 500,
    noDelay: true,
  }
  const server = createServer(settings, (req, res) => {
    res.shouldKeepAlive = false
    serve(req, res)
  })
  // Node answers these itself, and would keep the connection.
  server.on('checkExpectation', (_req, res) => res.writeHead(417, { connection: 'close' }).end())
  const take = server.listeners('connection') as ((connection: Duplex) => void)[]
  server.removeAllListeners('connection')
  server.on('connection', (socket: Socket) => {
    const connection = new OneRequest(socket, maxHeadBytes)
    strangers.add(connection)
    connection.on('close', () => strangers.delete(connection))
    if (strangers.size > maxStrangers) strangers.values().next().value!.destroy()
    for (const each of take) each.call(server, connection)
  })
  return server
}

function digest(text: string): Buffer {
  return hash('sha256', text, 'buffer')
}
