/**
 * Makes all parts of the control thread (its rooms) as one frozen set, before any of them is opened, so that no room
 * has to check whether another one exists yet. Their connections are made here; gate.ts opens them in order and closes
 * them in reverse.
 */
import { join } from 'node:path'
import { AdminServer } from '../admin/server.ts'
import { DataChanges } from '../bundle/data-changes.ts'
import { limitsOf } from '../bundle/trial.ts'
import { Bundles } from '../bundle/watch.ts'
import type { GateConfig } from '../config/options.ts'
import { DecisionLog } from '../decisionlog/log.ts'
import { monotonicUs } from '../domain/clock.ts'
import type { Log } from '../domain/log.ts'
import { Feed } from '../feed/feed.ts'
import type { HistoryRule } from '../feed/history.ts'
import { type Beat, Fleet } from '../fleet/fleet.ts'
import { KeyStore } from '../identity/keys.ts'
import { KnownSignatures, type SharedSignatures } from '../identity/known-signatures.ts'
import { type SharedProofs, UsedProofs } from '../identity/used-proofs.ts'
import type { WorkerStart } from '../messages.ts'
import { createMetricCells, Metrics } from '../metrics.ts'
import { fetchDocument } from '../outbound/fetch.ts'
import type { PolicyPackage } from '../policy/package.ts'
import { affectedKeys } from '../revocation/affected.ts'
import { Ledger } from '../revocation/ledger.ts'
import { ClaimPointers } from '../revocation/pointers.ts'
import { Database } from './database.ts'
import type { LiveExchanges } from './live.ts'
import { Supervisor } from './supervisor.ts'

export interface GateRooms {
  readonly decisions: DecisionLog
  readonly workers: Supervisor
  readonly admin: AdminServer
  readonly keys: KeyStore
  readonly bundles: Bundles
  readonly changes: DataChanges
  readonly database: Database
  readonly feed: Feed
  readonly fleet: Fleet
  /** Written by the control thread alone, read by the workers. */
  readonly ledger: Ledger
  readonly pointers: ClaimPointers
  readonly signatures: SharedSignatures
  readonly proofs: SharedProofs
  /** Metric counters of the control thread, and one slice for each worker. */
  readonly cells: readonly SharedArrayBuffer[]
}

export interface ReadyAnswer {
  readonly ready: boolean
  /** What is missing. */
  readonly reasons: readonly string[]
  /** What an operator must look at although the gate is ready. */
  readonly warnings: readonly string[]
}

/** What the rooms ask the gate as a whole once they are open. */
export interface GateAnswers {
  readonly id: string
  readonly log: Log
  readonly historyRule: HistoryRule | undefined
  /** How many worker threads. */
  readonly workers: number
  readonly startOf: (
    index: number,
    ports: readonly number[] | undefined,
    pulse: SharedArrayBuffer,
  ) => WorkerStart
  readonly onActivate: (policy: PolicyPackage) => void
  /** The active policy has its data in another image. */
  readonly onRenewed: (policy: PolicyPackage) => void
  readonly describe: () => Beat
  readonly readiness: () => ReadyAnswer
  readonly status: () => object
  readonly metrics: () => string
  readonly live: LiveExchanges
}

export function makeRooms(config: GateConfig, gate: GateAnswers): GateRooms {
  const { log } = gate
  const cells = Array.from({ length: gate.workers + 1 }, createMetricCells)
  const metrics = new Metrics(cells[0]!)
  const pointers = new ClaimPointers()
  const ledger: Ledger = Ledger.create(0, async (shared) => {
    workers.broadcast({ type: 'ledger', ledger: shared })
    await workers.readersOf(shared.generation)
  })
  const workers: Supervisor = new Supervisor({
    workers: gate.workers,
    startOf: gate.startOf,
    log,
    onKeysWanted: (issuer, seen) => keys.want(issuer, seen),
    onCuts: (byRow) => {
      for (const [row, exchanges] of byRow) fleet.cut(row, exchanges)
    },
    onRestart: () => metrics.count('dropgate_worker_restarts_total'),
  })
  const keys = new KeyStore({
    issuers: config.issuers,
    fetchDocument,
    folder: join(config.state_dir, 'keys'),
    log,
    onChange: (keySet) => workers.broadcast({ type: 'keys', keySet }),
  })
  const database = new Database(config.database, log)
  const feed = makeFeed(config, { database, ledger, pointers, metrics, gate }, (rows) => {
    fleet.applied(rows ?? [])
    const keys = rows === undefined ? undefined : affectedKeys(rows)
    workers.broadcast({ type: 'rows', keys, sinceUs: monotonicUs(), look: undefined })
  })
  const fleet: Fleet = makeFleet(config, gate, { database, ledger, workers, metrics, feed })
  const admin = new AdminServer({
    config: config.admin,
    readiness: gate.readiness,
    status: gate.status,
    metrics: gate.metrics,
    live: (query) => gate.live.page(query),
    cut: (id) => gate.live.cut(id),
    waitForPort: config.listen.some(({ takeover }) => takeover),
    log,
  })
  const bundles = makeBundles(config, gate, metrics)
  const changes = new DataChanges({
    maxMemoryBytes: config.policy.max_memory,
    log,
    onPatch: (generation, patch) => workers.broadcast({ type: 'patch', generation, patch }),
    onRenewed: (policy) => {
      bundles.renew(policy)
      gate.onRenewed(policy)
    },
  })
  const decisions = new DecisionLog({ sink: config.decision_log, log })
  return Object.freeze({
    decisions,
    workers,
    admin,
    keys,
    bundles,
    changes,
    database,
    feed,
    fleet,
    ledger,
    pointers,
    ...makeShared(config),
    cells,
  })
}

/** What all workers remember together. */
function makeShared({ limits }: GateConfig): Pick<GateRooms, 'signatures' | 'proofs'> {
  const { known_signatures, dpop_proofs, dpop_proof_age } = limits
  return {
    signatures: KnownSignatures.create(known_signatures),
    proofs: UsedProofs.create(dpop_proofs, dpop_proof_age, Date.now()),
  }
}

function makeFeed(
  { revocation }: GateConfig,
  needs: {
    readonly database: Database
    readonly ledger: Ledger
    readonly pointers: ClaimPointers
    readonly metrics: Metrics
    readonly gate: Pick<GateAnswers, 'log' | 'historyRule'>
  },
  onRows: ConstructorParameters<typeof Feed>[0]['onRows'],
): Feed {
  const { database, ledger, pointers, metrics, gate } = needs
  return new Feed({
    connect: database,
    tickMs: revocation.tick,
    ledger,
    spareRows: revocation.spare,
    snapshotFile: revocation.snapshot_file,
    verifyMs: revocation.verify,
    maxStalenessMs: revocation.max_staleness,
    learnPointers: (found) => pointers.learn(found),
    onRows,
    historyRule: gate.historyRule,
    log: gate.log,
    metrics,
  })
}

function makeFleet(
  { revocation }: GateConfig,
  { id, describe, log }: GateAnswers,
  needs: {
    readonly database: Database
    readonly ledger: Ledger
    readonly workers: Supervisor
    readonly metrics: Metrics
    readonly feed: Feed
  },
): Fleet {
  const { database, ledger, workers, metrics, feed } = needs
  return new Fleet({
    connect: database,
    id,
    describe,
    holds: (row) => ledger.holds(row),
    look: (rows) => {
      // The feed may not have published these rows yet: a worker would find the exchanges of remembered tokens clean.
      ledger.publish()
      return workers.look(affectedKeys(rows))
    },
    wantedAnchor: () => feed.wantedAnchor(),
    purgeMs: revocation.purge,
    canaryMs: revocation.canary,
    canaries: { loaded: () => ledger.loaded, lateMs: revocation.max_staleness, metrics },
    log,
  })
}

function makeBundles({ policy, routes }: GateConfig, gate: GateAnswers, metrics: Metrics): Bundles {
  return new Bundles({
    directory: policy.bundles,
    decisions: routes.map((route) => route.decision),
    limits: { ...limitsOf(policy), settleMs: policy.settle },
    log: gate.log,
    onActivate: (active) => {
      metrics.count('dropgate_policy_activations_total')
      gate.onActivate(active)
    },
    onRefused: () => metrics.count('dropgate_policy_refusals_total'),
  })
}
