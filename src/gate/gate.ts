/**
 * The gate: opens the parts of the control thread (rooms.ts) in order and closes them in reverse. Tests start this same
 * class.
 *
 *   decision log -> workers (listening, 503) -> admin -> keys -> bundles -> database -> feed -> fleet
 *
 * If `listen.takeover` is set and another gate holds the port, the workers listen last, when everything else is ready and
 * every issuer has keys: until then the other gate goes on answering, where this one would answer 503.
 *
 * This thread is the only writer of the ledger. It carries no requests and writes no decision log, so traffic never
 * delays a revocation.
 */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { GateConfig } from '../config/options.ts'
import { readPeppers } from '../config/peppers.ts'
import { needsRestart } from '../config/reload.ts'
import { warningsOf } from '../config/warnings.ts'
import type { Log } from '../domain/log.ts'
import { asGateError, GateError } from '../errors.ts'
import type { HistoryRule } from '../feed/history.ts'
import type { WorkerStart } from '../messages.ts'
import type { PolicyPackage } from '../policy/package.ts'
import type { PatchFormat } from '../policy/patch.ts'
import { RouteTable } from '../route/table.ts'
import { checkUpstreams } from '../upstream/addresses.ts'
import { LiveExchanges } from './live.ts'
import { findTakenPorts } from './ports.ts'
import { keylessIssuers, missingParts, type Readiness, readinessOf } from './readiness.ts'
import { type GateRooms, makeRooms, type ReadyAnswer } from './rooms.ts'
import { beatOf, type GateFacts, metricsOf, statusOf } from './status.ts'

const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string }

export interface GateAddress {
  /** The bound ports, one for each `listen` entry. */
  readonly ports: readonly number[]
  readonly adminPort: number
}

interface Room {
  close(): Promise<void>
}

/** Several threads can share a port only on Linux, where the kernel spreads the connections over them. */
const reusePort = process.platform === 'linux'

export class Gate {
  readonly live = new LiveExchanges(() => this.#rooms.workers)
  readonly #log: Log
  readonly #id = randomUUID()
  readonly #startedAt = new Date()
  readonly #rooms: GateRooms
  /** Rooms in the order in which they were opened. */
  readonly #opened: Room[] = []
  #config: GateConfig
  #configGeneration = 0
  #configuredAt = new Date()
  #configProblem: GateError | undefined
  #reloading: Promise<void> = Promise.resolve()
  #peppers: readonly Uint8Array[] = []
  #active: PolicyPackage | undefined
  #ports: readonly number[] = []
  #adminPort = 0
  #draining = false
  #listening: Promise<void> | undefined
  #closed: Promise<void> | undefined

  /** @param options `historyRule` is for tests; no configuration can set it. */
  constructor(
    config: GateConfig,
    options: { readonly log: Log; readonly historyRule?: HistoryRule | undefined },
  ) {
    this.#config = config
    this.#log = options.log
    this.#rooms = makeRooms(config, {
      id: this.#id,
      log: options.log,
      historyRule: options.historyRule,
      workers: reusePort ? config.workers : 1,
      startOf: (...args) => this.#startOf(...args),
      onActivate: (policy) => {
        this.#rooms.changes.follow(policy)
        this.#use(policy)
      },
      onRenewed: (policy) => this.#use(policy),
      describe: () => beatOf(this.#rooms, this.#facts()),
      readiness: () => this.readiness(),
      status: () => this.status(),
      metrics: () => metricsOf(this.#rooms, this.readiness().ready),
      live: this.live,
    })
  }

  /**
   * Opens every room. Resolves once the gate listens, or waits to take over a port; `/readyz` tells when it is ready to
   * decide.
   * @throws GateError; then every room that was opened is closed again.
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
   * Resolves once the ports are bound: later than `open` when the gate waits to take over a port.
   * @throws GateError ERR_LISTEN, and the gate is closed again; ERR_NOT_READY when the gate is stopped before it
   * listens
   */
  async listening(): Promise<void> {
    await this.#listening
  }

  address(): GateAddress {
    return { ports: this.#ports, adminPort: this.#adminPort }
  }

  async #openRooms(): Promise<void> {
    const config = this.#config
    // Route tables that cannot be built must fail here, once, and not in each worker.
    checkTables(config)
    this.#warn(config)
    const taken = await findTakenPorts(config.listen, reusePort)
    this.#peppers = readPeppers(config.revocation.pepper_file)
    const { decisions, workers, admin, keys, bundles, changes } = this.#rooms
    const { database, feed, fleet, ledger } = this.#rooms
    await this.#opening(decisions).open()
    if (!reusePort && config.workers > 1) {
      this.#log.warn(
        { platform: process.platform },
        'this platform cannot share a port between threads: one worker listens',
      )
    }
    workers.broadcast({ type: 'ledger', ledger: ledger.shared })
    const wanted = config.listen.map((listen) => listen.port)
    this.#ports = await this.#opening(workers).open(wanted, { waits: taken })
    this.#adminPort = await this.#opening(admin).open()
    await this.#opening(keys).open()
    this.#opening(changes)
    await this.#opening(bundles).open()
    await this.#opening(database).open()
    await this.#opening(feed).open()
    this.#opening(fleet).open()
    if (taken) this.#takeOver()
  }

  /** From here on the room is closed together with the gate, even when its opening fails halfway. */
  #opening<R extends Room>(room: R): R {
    this.#opened.push(room)
    return room
  }

  #takeOver(): void {
    const { workers } = this.#rooms
    this.#log.info(
      { ports: this.#ports },
      'the port is in use: it is taken over once this gate is ready',
    )
    const listen = async (): Promise<void> => {
      try {
        this.#ports = await workers.listen(this.#isTimeToTakeOver())
      } catch (error) {
        await this.close()
        throw error
      }
    }
    this.#listening = listen()
    // `listening()` reports a failure to its callers. Without this handler, the rejection would end the process.
    this.#listening.catch(() => {})
  }

  /**
   * The other gate has the keys of every issuer, or better ones than none. So there is no limit to the waiting, also for
   * an issuer that is away for good; the log says how to end it.
   */
  #isTimeToTakeOver(): () => boolean {
    let said = ''
    return () => {
      if (missingParts(this.#rooms, this.#readiness()).length > 0) return false
      const { names } = keylessIssuers(this.#rooms.keys)
      const text = names.join('; ')
      if (text !== said && text !== '') {
        const hint =
          'it is taken over once every issuer has keys; where an issuer is gone for good, take it out of the configuration and send SIGHUP'
        this.#log.warn({ issuers: names, hint }, 'the port is not taken over yet')
      }
      said = text
      return names.length === 0
    }
  }

  /**
   * Takes over another configuration as a whole or not at all. Open exchanges keep the configuration that they began
   * with; nothing is cut, and requests are answered meanwhile. One reload at a time.
   * @throws GateError ERR_CONFIG_*, ERR_OUTBOUND, ERR_BUNDLE_*; then the old configuration stays, and `status` says
   * why.
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

  #use(policy: PolicyPackage): void {
    this.#active = policy
    this.#rooms.workers.broadcast({ type: 'policy', policy })
  }

  /**
   * Changes the `data` of the active policy without a bundle; the next bundle brings its own data. Resolves once every worker
   * decides with the change.
   * @param text A JSON Patch as OPA's data API takes it, or the `patch.json` of a delta bundle.
   * @returns the number of the change since the bundle became active
   * @throws GateError ERR_DATA_PATCH, ERR_BUNDLE_LIMITS, ERR_POLICY_MISSING; then nothing is changed
   */
  async changeData(text: string, format: PatchFormat): Promise<number> {
    const { changes, workers } = this.#rooms
    const { generation, number } = await changes.change(text, format)
    if (await workers.allPatched(generation, number)) return number
    throw new GateError('ERR_DATA_PATCH', 'another bundle became active, with data of its own')
  }

  /** The new configuration could not be read: the old one stays, and `status` says why. */
  noteUnusable(problem: GateError): void {
    this.#configProblem = problem
  }

  /** Log rotation has put another file in the place of the decision log's. A failure is logged. */
  reopenDecisionLog(): void {
    this.#rooms.decisions.reopen()
  }

  async #reload(config: GateConfig): Promise<void> {
    if (this.#draining) throw new GateError('ERR_NOT_READY', 'the gate is draining')
    const fixed = needsRestart(this.#config, config)
    if (fixed.length > 0) {
      throw new GateError(
        'ERR_CONFIG_RESTART',
        `these options cannot change while the gate runs: ${fixed.join(', ')}`,
        {
          hint: 'undo the change of these options, or restart the gate; it keeps the old configuration',
        },
      )
    }
    // Everything that can fail is tried here, before any worker gets the new configuration.
    checkTables(config)
    const { workers, keys, bundles } = this.#rooms
    const takeIssuers = await keys.prepare(config.issuers)
    await bundles.require(config.routes.map((route) => route.decision))
    const keySets = takeIssuers()
    const generation = ++this.#configGeneration
    this.#config = config
    this.#configuredAt = new Date()
    workers.broadcast({ type: 'config', generation, config, keySets })
    // For workers that start later.
    for (const keySet of keySets) workers.broadcast({ type: 'keys', keySet })
    await workers.allConfigured(generation)
    this.#log.info({ generation }, 'the new configuration is in use')
    this.#warn(config)
  }

  #warn(config: GateConfig): void {
    for (const { path, message } of warningsOf(config)) this.#log.warn({ option: path }, message)
  }

  readiness(): ReadyAnswer {
    return readinessOf(this.#rooms, this.#readiness())
  }

  /** Number of open exchanges, by the last reports of the workers. */
  get liveCount(): number {
    return this.#rooms.workers.live
  }

  status(): object {
    return statusOf(this.#rooms, this.#facts())
  }

  /** Drains and closes everything. A second call waits for the same closing. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#draining = true
    // The feed is closed only after the drain, so that revocations take effect on exchanges that are still open.
    await this.#rooms.workers.drain(this.#config.drain_timeout)
    for (const room of this.#opened.reverse()) await room.close()
  }

  #readiness(): Readiness {
    const { revocation, routes } = this.#config
    return {
      draining: this.#draining,
      tokensOnly: routes.every(({ auth }) => auth === 'required'),
      active: this.#active,
      maxStalenessMs: revocation.max_staleness,
    }
  }

  #facts(): GateFacts {
    return {
      id: this.#id,
      version,
      startedAt: this.#startedAt,
      ports: this.#ports,
      config: this.#config,
      configGeneration: this.#configGeneration,
      configuredAt: this.#configuredAt,
      configProblem: this.#configProblem,
      peppers: this.#peppers,
      readiness: this.readiness(),
    }
  }

  #startOf(
    index: number,
    ports: readonly number[] | undefined,
    pulse: SharedArrayBuffer,
  ): WorkerStart {
    const { cells, pointers, signatures, proofs, decisions } = this.#rooms
    return {
      index,
      config: this.#config,
      configGeneration: this.#configGeneration,
      ports,
      reusePort,
      pulse,
      metrics: cells[index + 1]!,
      peppers: this.#peppers,
      signatures,
      proofs,
      pointers: pointers.shared,
      log: decisions.port(),
      labelsJson: JSON.stringify({ ...this.#config.labels, id: this.#id, version }),
    }
  }
}

function checkTables(config: GateConfig): void {
  new RouteTable(config.routes)
  checkUpstreams(config)
}
