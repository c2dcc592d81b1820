/** What a worker keeps for its whole life, and the value that a request reads from it under one configuration. */
import type { GateConfig } from '../config/options.ts'
import type { LogQueue } from '../decisionlog/queue.ts'
import type { ExchangeContext } from '../exchange/context.ts'
import type { OpenExchange } from '../exchange/stages.ts'
import { CredentialSources } from '../identity/credential.ts'
import type { ProofVerifier } from '../identity/dpop.ts'
import type { TokenVerifier } from '../identity/token.ts'
import type { Listener } from '../listener/server.ts'
import type { Metrics } from '../metrics.ts'
import type { PolicyEngine } from '../policy/engine.ts'
import type { LiveRegistry } from '../response/live.ts'
import type { LedgerView } from '../revocation/ledger.ts'
import { RouteTable } from '../route/table.ts'
import type { Pools } from '../upstream/pools.ts'
import type { Overload } from './overload.ts'

export interface WorkerRooms {
  readonly index: number
  readonly labelsJson: string
  readonly verifier: TokenVerifier
  readonly proofs: ProofVerifier
  readonly engine: PolicyEngine
  readonly pools: Pools
  readonly live: LiveRegistry<OpenExchange>
  readonly log: LogQueue
  readonly metrics: Metrics
  readonly overload: Overload
  readonly listener: Listener
  /** Set once the control thread has loaded the revocations; replaced when the ledger's table has grown. */
  ledger: LedgerView | undefined
  readonly onCut: (row: number) => void
}

export function buildContext(rooms: WorkerRooms, config: GateConfig): ExchangeContext {
  const { overload, listener } = rooms
  return {
    config,
    routes: new RouteTable(config.routes),
    credentials: new CredentialSources(config.issuers),
    verifier: rooms.verifier,
    proofs: rooms.proofs,
    // A getter, so that an exchange that began under an older configuration still reads the newest ledger.
    get ledger() {
      return rooms.ledger
    },
    engine: rooms.engine,
    pools: rooms.pools,
    live: rooms.live,
    log: rooms.log,
    metrics: rooms.metrics,
    worker: rooms.index,
    labelsJson: rooms.labelsJson,
    overloaded: () => listener.inFlight > config.limits.requests || overload.shedding,
    exhausted: () => overload.exhausted(config.limits.max_lag),
    evaluate: (policy, caller, entrypoint, inputText) =>
      overload.evaluate(policy, caller, entrypoint, inputText),
    onCut: rooms.onCut,
  }
}
