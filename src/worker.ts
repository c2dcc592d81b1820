/**
 * A data-plane thread: opens the request rooms, listens, and takes every request through the walk. It never
 * talks to Postgres, fetches keys or reads bundles; what it knows arrives as messages from the control thread
 * and as the shared ledger. It listens as soon as it has its configuration and answers 503 until policy and
 * ledger are there.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { LogQueue } from './decisionlog/queue.ts'
import { asGateError } from './errors.ts'
import { TokenVerifier } from './identity/token.ts'
import { createListener } from './listener/server.ts'
import {
  beatMs,
  pulse,
  type WorkerCommand,
  type WorkerReport,
  type WorkerStart,
} from './messages.ts'
import { Metrics } from './metrics.ts'
import { PolicyEngine } from './policy/engine.ts'
import { LiveRegistry } from './response/live.ts'
import { LedgerView } from './revocation/ledger.ts'
import { ClaimPointers } from './revocation/pointers.ts'
import { RouteTable } from './route/table.ts'
import { Pools } from './upstream/pools.ts'
import { type Rooms, recordUnread, walk } from './walk.ts'

const port = parentPort
if (port !== null) run(workerData as WorkerStart, (report) => port.postMessage(report))

function run(start: WorkerStart, report: (report: WorkerReport) => void): void {
  const { config } = start
  const pulseWords = new Int32Array(start.pulse)
  const metrics = new Metrics(start.metrics)
  const verifier = new TokenVerifier({
    issuers: config.issuers,
    cacheBytes: config.limits.token_cache,
    peppers: start.peppers,
    pointers: new ClaimPointers(start.pointers),
    metrics,
    onKeysWanted: (issuer, kid) => report({ type: 'keys-wanted', issuer, kid }),
  })
  const rooms: Rooms = {
    config,
    routes: new RouteTable(config.routes),
    verifier,
    ledger: undefined,
    engine: new PolicyEngine({ maxMemoryBytes: config.policy.max_memory }),
    pools: new Pools(),
    live: new LiveRegistry(),
    log: new LogQueue({ port: start.log, backlog: start.logBacklog, metrics }),
    metrics,
    worker: start.index,
    labelsJson: start.labelsJson,
    evaluating: (generation) => {
      pulseWords[pulse.evaluating] = generation
      // What is open now is what is lost if this evaluation never ends.
      pulseWords[pulse.live] = rooms.live.size
    },
  }
  const listener = createListener({
    limits: config.limits,
    metrics,
    onRequest: (req, res) => walk(rooms, req, res),
    onRefused: (refused) => recordUnread(rooms, refused),
  })

  setInterval(() => {
    pulseWords[pulse.live] = rooms.live.size
    Atomics.add(pulseWords, pulse.beat, 1)
  }, beatMs)

  const obey = async (command: WorkerCommand): Promise<void> => {
    switch (command.type) {
      case 'ledger':
        rooms.ledger = LedgerView.attach(command.ledger)
        return
      case 'keys':
        verifier.setKeys(command.keySet)
        return
      case 'policy': {
        const { generation, revision } = command.policy
        try {
          rooms.engine.activate(command.policy)
          report({ type: 'policy-active', generation, revision })
        } catch (error) {
          report({ type: 'policy-failed', generation, message: asGateError(error).message })
        }
        return
      }
      case 'policy-suspended':
        rooms.engine.suspend(command.generation)
        return
      case 'drain': {
        await listener.drain(command.timeoutMs)
        rooms.live.endAll(new Error('the drain timeout is over'))
        await rooms.pools.close()
        rooms.log.flush()
        report({ type: 'drained' })
      }
    }
  }
  port!.on('message', (command: WorkerCommand) => {
    obey(command).catch((error) => fail(error))
  })

  const fail = (error: unknown): void => {
    const { code, message, hint } = asGateError(error)
    report({ type: 'failed', code, message, ...(hint === undefined ? {} : { hint }) })
  }

  const listen = async (): Promise<void> => {
    const ports: number[] = []
    for (const [i, { host }] of config.listen.entries()) {
      ports.push(await listener.listen({ host, port: start.ports[i]!, reusePort: start.reusePort }))
    }
    report({ type: 'listening', ports })
  }
  listen().catch(fail)
}
