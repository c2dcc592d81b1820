/** A whole gate on ports of its own, with a real PostgreSQL, an issuer and a recording upstream. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { Agent as HttpAgent, type IncomingHttpHeaders, request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type pg from 'pg'
import { readConfig } from '../../src/config/load.ts'
import type { HistoryRule } from '../../src/feed/history.ts'
import { Gate } from '../../src/gate/gate.ts'
import { TestIssuer } from './issuer.ts'
import { type Cluster, startPostgres } from './postgres.ts'
import { Upstream } from './upstream.ts'
import { started, until } from './wait.ts'

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
  /** `code` of the problem document, if it is one. */
  readonly code: string | undefined
  /** The body came to its end. */
  readonly complete: boolean
}

export interface DecisionEvent {
  readonly decision_id: string
  readonly labels: Record<string, string>
  readonly bundles?: Record<string, { revision: string }>
  readonly path?: string
  readonly input?: Record<string, unknown>
  readonly result?: unknown
  readonly erased?: readonly string[]
  readonly masked?: readonly string[]
  readonly requested_by: string
  readonly timestamp: string
  readonly custom: Record<string, string | number>
}

export interface AskOptions {
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly body?: string | Buffer
  readonly agent?: HttpAgent
}

export interface GateOptions {
  /** Merged over the standard configuration, one level deep. */
  readonly config?: Record<string, unknown>
  readonly routes?: readonly Record<string, unknown>[]
  /** Files that the configuration names are put into the folder here. */
  readonly prepare?: (folder: string) => void
  /** Merged over the issuer's configuration. */
  readonly issuer?: Record<string, unknown>
  /** A cluster and an issuer that this gate shares, mostly those of another gate, which is stopped later. */
  readonly beside?: Pick<TestGate, 'cluster' | 'issuer'>
  /** A PostgreSQL that several gates share; the test that made it closes it. */
  readonly cluster?: Cluster
  /** URL of the database in place of the cluster's own. */
  readonly databaseUrl?: (url: string) => Promise<string>
  /** Without this the starter bundle is put into the folder. */
  readonly bundle?: string | null
  /** Wait until ready; on by default. */
  readonly ready?: boolean
  /** Without the rule that keeps cursors right in every history of the server; no configuration can do that. */
  readonly historyRule?: HistoryRule | undefined
}

export class TestGate {
  readonly folder = mkdtempSync(join(tmpdir(), 'dropgate-gate-'))
  issuer = new TestIssuer()
  readonly upstream = new Upstream()
  readonly logged: { level: string; message: string; fields: object }[] = []
  gate!: Gate
  cluster!: Cluster
  #shares = false
  #borrows = false
  port = 0
  admin = ''

  static start(options: GateOptions = {}): Promise<TestGate> {
    return started('a gate', TestGate.#open(options))
  }

  static async #open(options: GateOptions): Promise<TestGate> {
    const test = new TestGate()
    const { beside } = options
    test.#shares = beside !== undefined
    test.issuer = beside?.issuer ?? test.issuer
    await Promise.all([beside ?? test.issuer.open(), test.upstream.open()])
    test.#borrows = options.cluster !== undefined
    test.cluster = options.cluster ?? beside?.cluster ?? (await startPostgres())
    mkdirSync(test.bundles)
    options.prepare?.(test.folder)
    const { bundle = 'bundles/gate.tar.gz' } = options
    if (bundle !== null) cpSync(bundle, join(test.bundles, 'gate.tar.gz'))
    const url = (await options.databaseUrl?.(test.cluster.url)) ?? test.cluster.url
    const note = (level: string) => (fields: object, message: string) => {
      test.logged.push({ level, message, fields })
    }
    test.gate = new Gate(test.configure(options, url), {
      log: { info: note('info'), warn: note('warn'), error: note('error') },
      historyRule: options.historyRule,
    })
    await test.gate.open()
    test.port = test.gate.address().ports[0]!
    test.admin = `http://127.0.0.1:${test.gate.address().adminPort}`
    if (options.ready !== false) await until('ready', () => test.gate.readiness().ready)
    return test
  }

  configure(options: GateOptions, url: string) {
    const { origin: upstream } = this.upstream
    const routes = options.routes ?? [
      { name: 'orders', path: '/orders', upstream },
      { name: 'reports', path: '/reports', upstream, methods: ['GET'] },
      { name: 'public', path: '/public', upstream, auth: 'none', labels: { visibility: 'public' } },
    ]
    const written = {
      listen: { host: '127.0.0.1', port: 0 },
      admin: { port: 0, token_file: 'admin.token' },
      database: { url },
      issuers: [
        {
          issuer: this.issuer.url,
          audience: ['api'],
          algorithms: ['ES256'],
          ...options.issuer,
        },
      ],
      decision_log: { file: 'decisions.jsonl' },
      workers: 2,
      drain_timeout: '2s',
      ...options.config,
      policy: {
        bundles: './bundles',
        settle: '20ms',
        ...(options.config?.policy as object | undefined),
      },
      // Tests count rows and transactions: a gate writes some of its own only where a test says so.
      revocation: { canary: '0s', ...(options.config?.revocation as object | undefined) },
      // A busy test machine is no overload, but where a test says so.
      limits: { max_lag: '30s', ...(options.config?.limits as object | undefined) },
      routes: routes.map((route) => ({ upstream, ...route })),
    }
    return readConfig(JSON.stringify(written), this.folder, {})
  }

  get bundles(): string {
    return join(this.folder, 'bundles')
  }

  /** Puts a bundle into the folder that is watched, whole at once. */
  put(bundle: Buffer, folder = this.bundles): void {
    writeFileSync(join(this.folder, 'new'), bundle)
    renameSync(join(this.folder, 'new'), join(folder, 'gate.tar.gz'))
  }

  /** Puts a bundle into the folder and waits until another policy than before is active on every worker. */
  async activate(bundle: Buffer): Promise<void> {
    const generation = (): number =>
      Math.min(
        ...(this.gate.status() as { workers: { policy_generation: number }[] }).workers.map(
          (worker) => worker.policy_generation,
        ),
      )
    const before = generation()
    this.put(bundle)
    await until('another policy', () => generation() > before)
  }

  /** Exchanges that the workers say are open. */
  get live(): number {
    const { workers } = this.gate.status() as { workers: { live_exchanges: number }[] }
    return workers.reduce((sum, worker) => sum + worker.live_exchanges, 0)
  }

  /** Decision events so far. */
  get log(): DecisionEvent[] {
    const text = readFileSync(join(this.folder, 'decisions.jsonl'), 'utf8')
    // The last line may be half written.
    return text
      .slice(0, text.lastIndexOf('\n') + 1)
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line))
  }

  get adminToken(): string {
    return readFileSync(join(this.folder, 'admin.token'), 'utf8').trim()
  }

  /** Until this is all that keeps it from being ready. */
  waitsFor(reason: string): Promise<void> {
    return until(`only this is missing: ${reason}`, () => {
      const { ready, reasons } = this.gate.readiness()
      return !ready && reasons.join() === reason
    })
  }

  /** The revoker's connection. */
  revoker(): Promise<pg.Client> {
    return this.cluster.client('cli_url')
  }

  /** One request, its target byte for byte as given. */
  ask(path: string, token?: string, options: AskOptions = {}): Promise<Answer> {
    const { method = 'GET', headers = {}, body, agent } = options
    return new Promise((resolve, reject) => {
      const req = request(
        {
          host: '127.0.0.1',
          port: this.port,
          path,
          method,
          headers: {
            ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
            ...headers,
          },
          ...(agent === undefined ? { agent: false } : { agent }),
        },
        (res) => {
          const chunks: Buffer[] = []
          res.on('data', (chunk) => chunks.push(chunk))
          res.on('error', () => {})
          res.on('close', () => {
            const text = Buffer.concat(chunks).toString()
            let code: string | undefined
            if (res.headers['content-type'] === 'application/problem+json')
              code = JSON.parse(text || '{}').code
            resolve({
              status: res.statusCode!,
              headers: res.headers,
              body: text,
              code,
              complete: res.complete,
            })
          })
        },
      )
      req.on('error', reject)
      req.end(body)
    })
  }

  /** Raw bytes on a socket; resolves with everything that came back once the gate closes or falls silent. */
  raw(bytes: string, quietMs = 300): Promise<string> {
    return new Promise((resolve) => {
      let text = ''
      const socket = connect(this.port, '127.0.0.1', () => socket.write(bytes, 'latin1'))
      // A gate that neither answers nor closes: what came is looked at all the same, and the test fails by that.
      const timer = setTimeout(() => socket.destroy(), 5000)
      let quiet: NodeJS.Timeout | undefined
      // What came while this thread was held up is read before the silence counts.
      const silent = (): void => {
        const { length } = text
        setImmediate(() => {
          if (text.length === length) socket.destroy()
        })
      }
      socket.on('data', (data) => {
        text += data.toString('latin1')
        clearTimeout(quiet)
        quiet = setTimeout(silent, quietMs)
      })
      socket.on('error', () => {})
      socket.on('close', () => {
        clearTimeout(timer)
        clearTimeout(quiet)
        resolve(text)
      })
    })
  }

  async stop(): Promise<void> {
    await this.gate.close()
    if (!this.#shares) this.issuer.close()
    this.upstream.close()
    if (!this.#shares && !this.#borrows) await this.cluster.close()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Clients that reach every worker: connections are spread over them, so enough are opened. */
export class EveryWorker {
  readonly #agents: HttpAgent[]

  constructor(connections = 24) {
    this.#agents = Array.from(
      { length: connections },
      () => new HttpAgent({ keepAlive: true, maxSockets: 1 }),
    )
  }

  /** The answers on each of the connections. */
  ask(gate: TestGate, path: string, token: string): Promise<Answer[]> {
    return Promise.all(this.#agents.map((agent) => gate.ask(path, token, { agent })))
  }

  close(): void {
    for (const agent of this.#agents) agent.destroy()
  }
}
