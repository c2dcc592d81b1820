/**
 * The gate: the control thread's rooms, opened in order and closed in reverse. Tests boot this same class.
 *
 *   decision log -> workers (listening, 503) -> admin -> keys -> bundles -> database -> feed -> fleet
 *
 * Where `listen.takeover` finds another gate on the port, the workers listen last, once nothing else is missing: until
 * then what they would answer 503 is the other's.
 *
 * It is the only writer of the ledger. It carries no requests and writes no log lines of theirs, so traffic
 * never delays a revocation.
 */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { hostname } from 'node:os'
import type { LivePage, LiveQuery } from '../admin/live.ts'
import { AdminServer } from '../admin/server.ts'
import { Bundles } from '../bundle/watch.ts'
import type { GateConfig } from '../config/options.ts'
import { readPeppers } from '../config/peppers.ts'
import { needsRestart } from '../config/reload.ts'
import { DecisionLog } from '../decisionlog/log.ts'
import { monotonicUs } from '../domain/clock.ts'
import { pepperId } from '../domain/token-hash.ts'
import { EmbeddedPostgres } from '../embedded/postgres.ts'
import { asGateError, GateError } from '../errors.ts'
import { Feed } from '../feed/feed.ts'
import { type Beat, Fleet } from '../fleet/fleet.ts'
import { matchedColumns } from '../identity/claims.ts'
import { KeyStore } from '../identity/keys.ts'
import type { LiveEntry, PolicyPackage, WorkerStart } from '../messages.ts'
import { createMetricCells, Metrics, renderMetrics } from '../metrics.ts'
import { fetchDocument } from '../outbound/fetch.ts'
import { affectedKeys } from '../revocation/affected.ts'
import { Ledger } from '../revocation/ledger.ts'
import { ClaimPointers } from '../revocation/pointers.ts'
import { RouteTable } from '../route/table.ts'
import { checkUpstreams } from '../upstream/addresses.ts'
import { Supervisor } from './supervisor.ts'

const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string }

export interface GateLog {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

export interface GateAddress {
  /** One for each `listen` entry. */
  readonly ports: readonly number[]
  readonly adminPort: number
}

export class Gate {
  #config: GateConfig
  #configGeneration = 0
  #configuredAt = new Date()
  #configProblem: GateError | undefined
  #reloading: Promise<void> = Promise.resolve()
  readonly #log: GateLog
  readonly #id = randomUUID()
  readonly #startedAt = new Date()
  readonly #cells: SharedArrayBuffer[] = []
  readonly #own = createMetricCells()
  readonly #pointers = new ClaimPointers()
  #peppers: readonly Uint8Array[] = []
  #embedded: EmbeddedPostgres | undefined
  #decisions: DecisionLog | undefined
  #workers: Supervisor | undefined
  #keys: KeyStore | undefined
  #bundles: Bundles | undefined
  #feed: Feed | undefined
  #fleet: Fleet | undefined
  readonly #ledger = Ledger.create(0, async (shared) => {
    this.#workers?.broadcast({ type: 'ledger', ledger: shared })
    await this.#workers?.readersOf(shared.generation)
  })
  #admin: AdminServer | undefined
  #active: PolicyPackage | undefined
  #ports: readonly number[] = []
  #adminPort = 0
  #draining = false
  #listening: Promise<void> | undefined
  #closed: Promise<void> | undefined

  constructor(config: GateConfig, options: { readonly log: GateLog }) {
    this.#config = config
    this.#log = options.log
  }

  /**
   * Opens every room. Resolves once it listens, or waits to take over; `/readyz` tells when it decides.
   * @throws GateError; whatever was opened is closed again.
   */
  async open(): Promise<void> {
    try {
      await this.#openRooms()
    } catch (error) {
      await this.close()
      throw error
    }
  }

  /**
   * Resolves once the ports are bound: with `open`, but where another gate is taken over.
   * @throws GateError ERR_LISTEN, and the gate is closed again; ERR_NOT_READY when it is stopped before
   */
  async listening(): Promise<void> {
    await this.#listening
  }

  address(): GateAddress {
    return { ports: this.#ports, adminPort: this.#adminPort }
  }

  async #openRooms(): Promise<void> {
    const config = this.#config
    const log = this.#log
    const decisions = config.routes.map((route) => route.decision)
    const metrics = new Metrics(this.#own)
    // A table that the configuration cannot make must stop the start here, not in each worker.
    new RouteTable(config.routes)
    checkUpstreams(config)
    const reusePort = process.platform === 'linux'
    let waits = false
    for (const { host, port, takeover } of config.listen) {
      if (port === 0 || (await probe(host, port))) continue
      if (!takeover || !reusePort) throw taken(host, port)
      waits = true
    }

    this.#peppers = readPeppers(config.revocation.pepper_file)

    this.#decisions = new DecisionLog({ sink: config.decision_log, log })
    await this.#decisions.open()

    const workers = reusePort ? config.workers : 1
    if (workers < config.workers) {
      log.warn(
        { platform: process.platform },
        'this platform cannot share a port between threads: one worker listens',
      )
    }
    for (let i = 0; i < workers; i++) this.#cells.push(createMetricCells())
    this.#workers = new Supervisor({
      workers,
      waits,
      startOf: (index, ports, pulse) => this.#startOf(index, ports, pulse, reusePort),
      log,
      onKeysWanted: (issuer, kid) => this.#keys?.want(issuer, kid),
      onCuts: (byRow) => {
        for (const [row, exchanges] of byRow) this.#fleet?.cut(row, exchanges)
      },
      onRestart: () => metrics.count('dropgate_worker_restarts_total'),
    })
    this.#workers.broadcast({ type: 'ledger', ledger: this.#ledger.shared })
    this.#ports = await this.#workers.open(config.listen.map((listen) => listen.port))

    this.#admin = new AdminServer({
      config: config.admin,
      readiness: () => this.readiness(),
      status: () => this.status(),
      metrics: () => this.#renderMetrics(),
      live: (query) => this.live(query),
      cut: (id) => this.cut(id),
      waitForPort: config.listen.some(({ takeover }) => takeover),
      log,
    })
    this.#adminPort = await this.#admin.open()

    this.#keys = new KeyStore({
      issuers: config.issuers,
      fetchDocument,
      log,
      onChange: (keySet) => this.#workers?.broadcast({ type: 'keys', keySet }),
    })
    await this.#keys.open()

    this.#bundles = new Bundles({
      directory: config.policy.bundles,
      decisions,
      limits: {
        maxBundleBytes: config.policy.max_bundle,
        maxUnpackedBytes: config.policy.max_unpacked,
        maxMemoryBytes: config.policy.max_memory,
        vetTimeoutMs: config.policy.vet_timeout,
        settleMs: config.policy.settle,
      },
      log,
      onActivate: (policy) => {
        this.#active = policy
        metrics.count('dropgate_policy_activations_total')
        this.#workers?.broadcast({ type: 'policy', policy })
      },
      onRefused: () => metrics.count('dropgate_policy_refusals_total'),
    })
    await this.#bundles.open()

    const url = await this.#openDatabase()
    this.#feed = new Feed({
      connect: { url, schema: config.database.schema },
      tickMs: config.revocation.tick,
      ledger: this.#ledger,
      spareRows: config.revocation.spare,
      snapshotFile: config.revocation.snapshot_file,
      verifyMs: config.revocation.verify,
      learnPointers: (pointers) => this.#pointers.learn(pointers),
      onRows: (rows) => {
        this.#fleet?.applied(rows ?? [])
        this.#workers?.broadcast({
          type: 'rows',
          keys: rows === undefined ? undefined : affectedKeys(rows),
          sinceUs: monotonicUs(),
        })
      },
      log,
      metrics,
    })
    await this.#feed.open()
    this.#fleet = new Fleet({
      connect: { url, schema: config.database.schema },
      id: this.#id,
      describe: () => this.#describe(),
      cursor: () => this.#feed?.status().cursor ?? null,
      purgeMs: config.revocation.purge,
      log,
    })
    this.#fleet.open()
    if (waits) {
      log.info(
        { ports: this.#ports },
        'the port is in use: it is taken over once this gate is ready',
      )
      this.#listening = this.#takeOver()
      // Whoever wants to know asks `listening`.
      this.#listening.catch(() => {})
    }
  }

  async #takeOver(): Promise<void> {
    try {
      this.#ports = await this.#workers!.listen(() => this.#missing().length === 0)
    } catch (error) {
      await this.close()
      throw error
    }
  }

  /** What the other gates and the commands are told of this one. */
  #describe(): Beat {
    const { revocation, routes, issuers, listen } = this.#config
    const ageMs = this.#ledger.ageMs(monotonicUs(), Date.now())
    const certificates = listen.some(({ tls }) => tls?.client_ca !== undefined)
    const exchange = certificates ? ['network', 'client_cert'] : ['network']
    const tolerant = routes.some(({ stale }) => stale === 'allow')
    return {
      host: hostname(),
      pid: process.pid,
      version,
      started_at: this.#startedAt.toISOString(),
      ready: this.readiness().ready,
      cursor: this.#feed?.status().cursor ?? null,
      age_ms: Number.isFinite(ageMs) ? ageMs : null,
      rows: this.#ledger.rows,
      allows_ms: tolerant ? revocation.hard_stop : revocation.max_staleness,
      matches: matchedColumns(issuers, this.#peppers.length > 0, exchange),
      peppers: this.#peppers.map(pepperId),
      token_lifetime_ms: Math.max(
        0,
        ...issuers.map((issuer) => issuer.max_token_lifetime + 2 * issuer.clock_skew),
      ),
    }
  }

  /**
   * Takes another configuration as a whole or not at all. Exchanges that are open end by the one they began with;
   * nothing is cut, and requests go on being answered meanwhile. One reload at a time.
   * @throws GateError ERR_CONFIG_*, ERR_OUTBOUND, ERR_BUNDLE_*; the old configuration goes on then, and `status` says why.
   */
  reload(config: GateConfig): Promise<void> {
    const done = this.#reloading.then(async () => {
      try {
        await this.#reload(config)
        this.#configProblem = undefined
      } catch (error) {
        this.#configProblem = asGateError(error)
        throw error
      }
    })
    this.#reloading = done.catch(() => {})
    return done
  }

  /** A configuration that could not even be read: the old one goes on, `status` says why. */
  noteUnusable(problem: GateError): void {
    this.#configProblem = problem
  }

  async #reload(config: GateConfig): Promise<void> {
    if (this.#draining) throw new GateError('ERR_NOT_READY', 'the gate is draining')
    const fixed = needsRestart(this.#config, config)
    if (fixed.length > 0) {
      throw new GateError(
        'ERR_CONFIG_RESTART',
        `these options cannot change while the gate runs: ${fixed.join(', ')}`,
        {
          hint: 'put them back, or restart the gate; nothing of the change was taken over',
        },
      )
    }
    // Whatever can fail is tried here, before the first worker hears of it.
    new RouteTable(config.routes)
    checkUpstreams(config)
    const takeIssuers = await this.#keys!.prepare(config.issuers)
    await this.#bundles!.require(config.routes.map((route) => route.decision))
    const keySets = takeIssuers()
    const generation = ++this.#configGeneration
    this.#config = config
    this.#configuredAt = new Date()
    this.#workers!.broadcast({ type: 'config', generation, config, keySets })
    // For workers that start later.
    for (const keySet of keySets) this.#workers!.broadcast({ type: 'keys', keySet })
    await this.#workers!.allConfigured(generation)
    this.#log.info({ generation }, 'configuration taken over')
  }

  /** The URL of the gate's own login; the embedded cluster is started and migrated first. */
  async #openDatabase(): Promise<string> {
    const { embedded, url, schema, role_prefix: rolePrefix } = this.#config.database
    if (embedded === undefined) return url!
    this.#embedded = new EmbeddedPostgres({
      directory: embedded,
      schema,
      rolePrefix,
      log: this.#log,
    })
    return (await this.#embedded.open()).url
  }

  /** Ready means: each worker listens and decides rightly now. The reasons say what is missing. */
  readiness(): { ready: boolean; reasons: string[] } {
    const reasons = this.#missing()
    if (this.#workers?.waiting) reasons.push('the port is not taken over before all else is there')
    else if (!this.#workers?.allListening) reasons.push('not every worker listens')
    return { ready: reasons.length === 0, reasons }
  }

  /** What is missing but for listening. */
  #missing(): string[] {
    const reasons: string[] = []
    const workers = this.#workers
    const ledger = this.#ledger
    if (this.#draining) reasons.push('the gate is draining')
    if (this.#active === undefined) reasons.push('no policy bundle is active')
    else if (workers?.suspended) reasons.push('the policy ran away and is suspended')
    else if (!workers?.allActive(this.#active.generation)) {
      reasons.push('not every worker has the active policy')
    }
    const why = withCode(this.#feed?.status().code)
    if (!ledger.loaded) reasons.push(`the revocations are not loaded${why}`)
    else if (ledger.broken) reasons.push('the ledger cannot hold every revocation')
    else if (ledger.ageMs(monotonicUs(), Date.now()) > this.#config.revocation.max_staleness) {
      reasons.push(`the revocation feed is stale${why}`)
    }
    return reasons
  }

  /** Exchanges that are open, as the workers said last. */
  get liveCount(): number {
    return this.#workers?.live ?? 0
  }

  status(): object {
    const ledger = this.#ledger
    return {
      id: this.#id,
      version,
      started_at: this.#startedAt.toISOString(),
      ...this.readiness(),
      listen: this.#ports,
      config: {
        generation: this.#configGeneration,
        since: this.#configuredAt.toISOString(),
        routes: this.#config.routes.map(({ name }) => name),
        issuers: this.#config.issuers.map(({ issuer }) => issuer),
        code: this.#configProblem?.code ?? null,
        message: this.#configProblem?.message ?? null,
      },
      workers: this.#workers?.status() ?? [],
      feed: this.#feed?.status() ?? null,
      fleet: this.#fleet?.status() ?? null,
      ledger: {
        rows: ledger.rows,
        used: ledger.table.used,
        capacity: ledger.table.capacity,
        bytes: ledger.bytes,
        growths: ledger.growths,
        version: ledger.version,
      },
      policy: this.#bundles?.status() ?? null,
      issuers: this.#keys?.status() ?? [],
      decision_log: this.#decisions?.status() ?? null,
    }
  }

  /** What is open now, worker after worker. */
  async live({ filter, after, limit }: LiveQuery): Promise<LivePage> {
    const workers = this.#workers
    const exchanges: LiveEntry[] = []
    const silent: number[] = []
    for (let worker = after.worker; worker < (workers?.size ?? 0); worker++) {
      // A page that is full where a worker ends goes on with the next.
      if (exchanges.length === limit)
        return { exchanges, next: `${worker}.0`, silent_workers: silent }
      const answer = await workers!.ask(worker, {
        type: 'list-live',
        filter,
        after: worker === after.worker ? after.seq : 0,
        limit: limit - exchanges.length,
      })
      if (answer === undefined) silent.push(worker)
      else exchanges.push(...answer.entries)
      const more = answer?.last
      if (more !== undefined)
        return { exchanges, next: `${worker}.${more}`, silent_workers: silent }
    }
    return { exchanges, next: null, silent_workers: silent }
  }

  /** Cuts the open exchange of this decision id. @returns what it was, undefined when none is open */
  async cut(id: string): Promise<LiveEntry | undefined> {
    const workers = this.#workers
    const asked = Array.from({ length: workers?.size ?? 0 }, (_, worker) =>
      workers!.ask(worker, { type: 'cut-live', id }),
    )
    return (await Promise.all(asked)).flatMap((answer) => answer?.entries ?? [])[0]
  }

  /** Drains and closes everything; calling it again waits for the same closing. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#draining = true
    // Revocations keep arriving while the workers drain: a drain must not be a way past them.
    await this.#workers?.close(this.#config.drain_timeout)
    await this.#admin?.close()
    await this.#bundles?.close()
    await this.#keys?.close()
    await this.#fleet?.close()
    await this.#feed?.close()
    await this.#decisions?.close()
    await this.#embedded?.close()
  }

  #startOf(
    index: number,
    ports: readonly number[] | undefined,
    pulse: SharedArrayBuffer,
    reusePort: boolean,
  ): WorkerStart {
    return {
      index,
      config: this.#config,
      configGeneration: this.#configGeneration,
      ports,
      reusePort,
      pulse,
      metrics: this.#cells[index]!,
      peppers: this.#peppers,
      pointers: this.#pointers.shared,
      log: this.#decisions!.port(),
      labelsJson: JSON.stringify({ ...this.#config.labels, id: this.#id, version }),
    }
  }

  #renderMetrics(): string {
    const ledger = this.#ledger
    const slices = [this.#own, ...this.#cells].map((cells) => new Metrics(cells))
    return renderMetrics(slices, {
      dropgate_ready: this.readiness().ready ? 1 : 0,
      dropgate_live_exchanges: this.liveCount,
      dropgate_feed_age_seconds: ledger.ageMs(monotonicUs(), Date.now()) / 1000,
      dropgate_ledger_rows: ledger.rows,
      dropgate_ledger_used: ledger.table.used,
      dropgate_ledger_capacity: ledger.table.capacity,
      dropgate_ledger_bytes: ledger.bytes,
      dropgate_fleet_gates: this.#fleet?.status().gates ?? 0,
      dropgate_unmatched_revocations: this.#fleet?.status().unmatched_rows ?? 0,
    })
  }
}

/** Its message may name a host, a login or a database, and anybody may ask for the reasons. */
function withCode(code: string | null | undefined): string {
  return code ? ` (${code})` : ''
}

/**
 * Binds the port alone for a moment: with `reusePort` a second gate would otherwise share the traffic unseen.
 * @returns whether it is free. @throws GateError ERR_LISTEN when it cannot be bound for another reason
 */
function probe(host: string, port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(false)
      else {
        reject(
          new GateError('ERR_LISTEN', `cannot listen on ${host}:${port}: ${error.code}`, {
            cause: error,
            hint: 'change listen.host or listen.port',
          }),
        )
      }
    })
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(true)))
  })
}

function taken(host: string, port: number): GateError {
  return new GateError('ERR_LISTEN', `cannot listen on ${host}:${port}: the port is in use`, {
    hint: 'another gate or program listens there; stop it or change listen.port',
  })
}
