/**
 * The worker thread: it listens and takes every request through the pipeline. It never talks to PostgreSQL, fetches
 * keys or reads bundles: it learns these through commands from the control thread and through the shared ledger. It
 * listens as soon as it has its configuration, and answers 503 until policy and ledger are loaded. Where it takes over
 * the port of another gate, it waits for the command to listen.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { LogQueue } from '../decisionlog/queue.ts'
import { monotonicUs } from '../domain/clock.ts'
import { asGateError } from '../errors.ts'
import type { ExchangeContext } from '../exchange/context.ts'
import { recordUnread } from '../exchange/events.ts'
import { handle } from '../exchange/pipeline.ts'
import { Reevaluator, sweepMs } from '../exchange/reevaluate.ts'
import type { OpenExchange } from '../exchange/stages.ts'
import { ProofVerifier } from '../identity/dpop.ts'
import { TokenVerifier } from '../identity/token.ts'
import { Listener } from '../listener/server.ts'
import type { WorkerCommand, WorkerReport, WorkerStart } from '../messages.ts'
import { Metrics } from '../metrics.ts'
import { PolicyEngine } from '../policy/engine.ts'
import { LiveRegistry } from '../response/live.ts'
import { LedgerView } from '../revocation/ledger.ts'
import { ClaimPointers } from '../revocation/pointers.ts'
import { canonicalUrl } from '../route/target.ts'
import { rulesOf } from '../upstream/addresses.ts'
import { Pools } from '../upstream/pools.ts'
import { buildContext, type WorkerRooms } from './context.ts'
import { Overload } from './overload.ts'

type Report = (report: WorkerReport) => void

class GateWorker {
  readonly #start: WorkerStart
  readonly #report: Report
  readonly #rooms: WorkerRooms
  readonly #reevaluator: Reevaluator
  /** Made from the current configuration; an exchange keeps the context that it began with. */
  #context: ExchangeContext
  /** Cuts that are not reported yet: one message reports all the exchanges that were cut in one turn. */
  #cuts = new Map<number, number>()

  constructor(start: WorkerStart, report: Report) {
    this.#start = start
    this.#report = report
    const { config } = start
    const metrics = new Metrics(start.metrics)
    const live = new LiveRegistry<OpenExchange>()
    this.#rooms = {
      index: start.index,
      labelsJson: start.labelsJson,
      verifier: new TokenVerifier({
        issuers: config.issuers,
        cacheBytes: config.limits.token_cache,
        signatures: start.signatures,
        peppers: start.peppers,
        pointers: new ClaimPointers(start.pointers),
        metrics,
        onKeysWanted: (issuer, seen) => report({ type: 'keys-wanted', issuer, seen }),
      }),
      proofs: new ProofVerifier({ shared: start.proofs, canonicalUrl }),
      engine: new PolicyEngine({
        maxMemoryBytes: config.policy.max_memory,
        evaluationMs: config.policy.evaluation_timeout,
        onRestored: ({ generation, patched }) => {
          if (patched > 0) this.#notePatched(generation, patched)
        },
      }),
      pools: new Pools(),
      live,
      log: new LogQueue({ port: start.log, metrics }),
      metrics,
      overload: new Overload({ pulse: new Int32Array(start.pulse), metrics, live }),
      listener: new Listener({
        limits: config.limits,
        metrics,
        onRequest: (req, res, via) => handle(this.#context, { req, res, via, upgrade: undefined }),
        onUpgrade: (req, upgrade, via) =>
          handle(this.#context, { req, res: upgrade.res, via, upgrade }),
        onRefused: (refused) => recordUnread(this.#context, refused),
      }),
      ledger: undefined,
      onCut: (row) => this.#noteCut(row),
    }
    this.#rooms.pools.open(config.routes, rulesOf(config))
    this.#context = buildContext(this.#rooms, config)
    this.#reevaluator = new Reevaluator(() => this.#context)
  }

  /** Starts the pulse and the sweeps, and listens if ports were given. */
  async open(): Promise<void> {
    this.#rooms.overload.start(() => this.#context.config.limits.max_lag)
    setInterval(() => this.#reevaluator.sweep(), sweepMs)
    const { ports, configGeneration } = this.#start
    if (ports !== undefined) await this.listen(ports)
    this.#report({ type: 'config-active', generation: configGeneration })
  }

  async listen(wanted: readonly number[]): Promise<void> {
    const ports: number[] = []
    // Use the current configuration: a worker that waited to listen may have been given a newer one since it started.
    for (const [i, config] of this.#context.config.listen.entries()) {
      const at = { port: wanted[i]!, reusePort: this.#start.reusePort }
      ports.push(await this.#rooms.listener.listen(config, at))
    }
    this.#report({ type: 'listening', ports })
  }

  async onCommand(command: WorkerCommand): Promise<void> {
    const rooms = this.#rooms
    switch (command.type) {
      case 'listen':
        return await this.listen(command.ports)
      case 'ledger': {
        const { generation } = command.ledger
        rooms.ledger = LedgerView.attach(command.ledger)
        return this.#report({ type: 'ledger-read', generation })
      }
      case 'question': {
        const answer = this.#reevaluator.answer(command.question)
        return this.#report({ type: 'answer', number: command.number, answer })
      }
      case 'rows': {
        const { keys, sinceUs, look } = command
        await this.#reevaluator.rows(keys, sinceUs)
        if (look === undefined) return
        this.#reportCuts()
        return this.#report({ type: 'looked', look })
      }
      case 'keys':
        return rooms.verifier.setKeys(command.keySet)
      case 'policy':
        return await this.#onPolicy(command)
      case 'patch':
        return this.#onPatch(command)
      case 'callers-suspended':
        return rooms.engine.suspendCallers(command.generation, command.callers)
      case 'config':
        return this.#onConfig(command)
      case 'drain':
        await rooms.listener.drain(command.timeoutMs, () => this.#reevaluator.drain())
        rooms.pools.close()
        rooms.log.flush()
        return this.#report({ type: 'drained' })
    }
  }

  onFailure(error: unknown): void {
    this.#report({ type: 'failed', error: asGateError(error).data })
  }

  async #onPolicy({ policy }: Extract<WorkerCommand, { type: 'policy' }>): Promise<void> {
    const { engine } = this.#rooms
    const { generation, revision } = policy
    const before = engine.current()?.generation
    try {
      if (!(await engine.activate(policy))) return
      const { patched } = engine.current()!
      this.#report({ type: 'policy-active', generation, revision, patched })
      if (generation !== before) this.#reevaluator.policy(monotonicUs())
    } catch (error) {
      this.#report({ type: 'policy-failed', generation, error: asGateError(error).data })
    }
  }

  #onPatch({ generation, patch }: Extract<WorkerCommand, { type: 'patch' }>): void {
    if (this.#rooms.engine.patch(generation, patch)) this.#notePatched(generation, patch.number)
  }

  #notePatched(generation: number, patched: number): void {
    this.#report({ type: 'policy-patched', generation, patched })
    this.#reevaluator.data(monotonicUs())
  }

  /** Takes over a new configuration. The control thread has already tried every step that can fail. */
  #onConfig({ config, keySets, generation }: Extract<WorkerCommand, { type: 'config' }>): void {
    const { pools, verifier, listener } = this.#rooms
    pools.open(config.routes, rulesOf(config))
    verifier.reload(config.issuers, keySets)
    listener.reload(config.limits, config.listen)
    this.#context = buildContext(this.#rooms, config)
    this.#report({ type: 'config-active', generation })
  }

  #noteCut(row: number): void {
    if (this.#cuts.size === 0) setImmediate(() => this.#reportCuts())
    this.#cuts.set(row, (this.#cuts.get(row) ?? 0) + 1)
  }

  #reportCuts(): void {
    if (this.#cuts.size === 0) return
    this.#report({ type: 'cuts', byRow: this.#cuts })
    this.#cuts = new Map()
  }
}

function run(start: WorkerStart, report: Report): void {
  const worker = new GateWorker(start, report)
  const fail = (error: unknown): void => worker.onFailure(error)
  // Commands wait while the worker binds its ports: otherwise a new configuration could be applied to half of them.
  let bound = worker.open().catch(fail)
  parentPort!.on('message', (command: WorkerCommand) => {
    const done = bound.then(() => worker.onCommand(command)).catch(fail)
    if (command.type === 'listen') bound = done
  })
}

const port = parentPort
if (port !== null) run(workerData as WorkerStart, (report) => port.postMessage(report))
