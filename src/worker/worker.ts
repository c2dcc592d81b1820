/**
 * A data-plane thread: opens the request context, listens, and takes every request through the walk. It never
 * talks to Postgres, fetches keys or reads bundles; what it knows arrives as messages from the control thread
 * and as the shared ledger. It listens as soon as it has its configuration and answers 503 until policy and
 * ledger are there; only where another gate is to be taken over does it wait for word to listen.
 */
import { parentPort, workerData } from 'node:worker_threads'
import type { GateConfig } from '../config/options.ts'
import { LogQueue } from '../decisionlog/queue.ts'
import { monotonicUs } from '../domain/clock.ts'
import { asGateError } from '../errors.ts'
import { type Exchange, recordUnread, type WorkerContext } from '../exchange/exchange.ts'
import { handle } from '../exchange/pipeline.ts'
import { Reevaluator, sweepMs } from '../exchange/reevaluate.ts'
import { CredentialSources } from '../identity/credential.ts'
import { TokenVerifier } from '../identity/token.ts'
import { createListener } from '../listener/server.ts'
import {
  beatMs,
  pulse,
  type WorkerCommand,
  type WorkerReport,
  type WorkerStart,
} from '../messages.ts'
import { Metrics } from '../metrics.ts'
import { PolicyEngine } from '../policy/engine.ts'
import { LiveRegistry } from '../response/live.ts'
import { LedgerView } from '../revocation/ledger.ts'
import { ClaimPointers } from '../revocation/pointers.ts'
import { RouteTable } from '../route/table.ts'
import { rulesOf } from '../upstream/addresses.ts'
import { Pools } from '../upstream/pools.ts'

const port = parentPort
if (port !== null) run(workerData as WorkerStart, (report) => port.postMessage(report))

const maxShedMs = 1000

function run(start: WorkerStart, report: (report: WorkerReport) => void): void {
  const pulseWords = new Int32Array(start.pulse)
  const metrics = new Metrics(start.metrics)
  const verifier = new TokenVerifier({
    issuers: start.config.issuers,
    cacheBytes: start.config.limits.token_cache,
    peppers: start.peppers,
    pointers: new ClaimPointers(start.pointers),
    metrics,
    onKeysWanted: (issuer, kid) => report({ type: 'keys-wanted', issuer, kid }),
  })
  const engine = new PolicyEngine({ maxMemoryBytes: start.config.policy.max_memory })
  const log = new LogQueue({ port: start.log, metrics })
  const pools = new Pools()
  const live = new LiveRegistry<Exchange>()
  let ledger: LedgerView | undefined
  let shedUntilMs = 0
  let evaluatingSinceUs = 0
  /** Spent on evaluations since the last beat. */
  let evaluatedUs = 0
  /** Not yet reported: one message for whatever one turn has cut. */
  let cuts = new Map<number, number>()
  const reportCuts = (): void => {
    report({ type: 'cuts', byRow: cuts })
    cuts = new Map()
  }

  /** The context by one configuration: what it does not touch is the same in each. */
  const buildContext = (config: GateConfig): WorkerContext => ({
    config,
    routes: new RouteTable(config.routes),
    credentials: new CredentialSources(config.issuers),
    verifier,
    // One ledger for all exchanges: one that began under another configuration must not look into an old one.
    get ledger() {
      return ledger
    },
    engine,
    pools,
    live,
    log,
    metrics,
    worker: start.index,
    labelsJson: start.labelsJson,
    overloaded: () =>
      listener.inFlight > config.limits.requests ||
      (shedUntilMs > 0 && performance.now() < shedUntilMs),
    exhausted: () => evaluatedUs > config.limits.max_lag * 1000,
    onCut: (row) => {
      if (cuts.size === 0) setImmediate(reportCuts)
      cuts.set(row, (cuts.get(row) ?? 0) + 1)
    },
    evaluating: (generation) => {
      pulseWords[pulse.evaluating] = generation
      // What is open now is what is lost if this evaluation never ends.
      pulseWords[pulse.live] = live.size
      evaluatingSinceUs = monotonicUs()
    },
    evaluated: () => {
      if (pulseWords[pulse.evaluating] === 0) return 0
      pulseWords[pulse.evaluating] = 0
      // What ends is no runaway, however many follow without a turn.
      Atomics.add(pulseWords, pulse.beat, 1)
      const tookUs = monotonicUs() - evaluatingSinceUs
      evaluatedUs += tookUs
      return tookUs
    },
  })
  pools.open(start.config.routes, rulesOf(start.config))
  let context = buildContext(start.config)
  const reevaluator = new Reevaluator(() => context)
  const listener = createListener({
    limits: start.config.limits,
    metrics,
    onRequest: (req, res, via) => handle(context, { req, res, via, upgrade: undefined }),
    onUpgrade: (req, upgrade, via) => handle(context, { req, res: upgrade.res, via, upgrade }),
    onRefused: (refused) => recordUnread(context, refused),
  })

  let beatAtMs = performance.now()
  setInterval(() => {
    pulseWords[pulse.live] = live.size
    Atomics.add(pulseWords, pulse.beat, 1)
    evaluatedUs = 0
    const now = performance.now()
    // As long again as it was behind: the queue it has built up meanwhile needs that time.
    const lagMs = now - beatAtMs - beatMs
    if (lagMs > context.config.limits.max_lag) shedUntilMs = now + Math.min(lagMs, maxShedMs)
    beatAtMs = now
  }, beatMs)

  setInterval(() => reevaluator.sweep(), sweepMs)

  const onCommand = async (command: WorkerCommand): Promise<void> => {
    switch (command.type) {
      case 'ledger':
        ledger = LedgerView.attach(command.ledger)
        report({ type: 'ledger-read', generation: command.ledger.generation })
        return
      case 'question':
        report({
          type: 'answer',
          number: command.number,
          answer: reevaluator.answer(command.question),
        })
        return
      case 'rows':
        reevaluator.rows(command.keys, command.sinceUs)
        return
      case 'keys':
        verifier.setKeys(command.keySet)
        return
      case 'policy': {
        const { generation, revision } = command.policy
        try {
          context.engine.activate(command.policy)
          report({ type: 'policy-active', generation, revision })
          reevaluator.policy(monotonicUs())
        } catch (error) {
          report({ type: 'policy-failed', generation, message: asGateError(error).message })
        }
        // Large data takes its time: that is no overload, and a swap must not cost a request.
        beatAtMs = performance.now()
        return
      }
      case 'policy-suspended':
        context.engine.suspend(command.generation)
        return
      case 'config': {
        const { config, keySets, generation } = command
        // Everything that could fail has been tried by the control thread; from here on there is no half.
        pools.open(config.routes, rulesOf(config))
        verifier.reload(config.issuers, keySets)
        listener.reload(config.limits, config.listen)
        context = buildContext(config)
        report({ type: 'config-active', generation })
        return
      }
      case 'drain': {
        await listener.drain(command.timeoutMs, () => reevaluator.drain())
        await pools.close()
        log.flush()
        report({ type: 'drained' })
      }
    }
  }

  const fail = (error: unknown): void => {
    const { code, message, hint } = asGateError(error)
    report({ type: 'failed', code, message, ...(hint === undefined ? {} : { hint }) })
  }

  const listen = async (wanted: readonly number[]): Promise<void> => {
    const ports: number[] = []
    // Not those of the start: a worker that waited may have been told another configuration.
    for (const [i, config] of context.config.listen.entries()) {
      const at = { port: wanted[i]!, reusePort: start.reusePort }
      ports.push(await listener.listen(config, at))
    }
    report({ type: 'listening', ports })
  }
  const begin = async (): Promise<void> => {
    if (start.ports !== undefined) await listen(start.ports)
    report({ type: 'config-active', generation: start.configGeneration })
  }
  // Commands wait while it binds: a configuration that came in the middle would be taken by half of the ports.
  let bound = begin().catch(fail)
  port!.on('message', (command: WorkerCommand) => {
    if (command.type === 'listen') bound = bound.then(() => listen(command.ports)).catch(fail)
    else bound.then(() => onCommand(command)).catch(fail)
  })
}
