/** What the pipeline reads, one value for each configuration: an exchange keeps the one it began with (design law 2). */
import type { GateConfig } from '../config/options.ts'
import type { LogQueue } from '../decisionlog/queue.ts'
import type { Caller } from '../domain/caller.ts'
import type { CredentialSources } from '../identity/credential.ts'
import type { TokenVerifier } from '../identity/token.ts'
import type { Metrics } from '../metrics.ts'
import type { ActivePolicy, PolicyEngine } from '../policy/engine.ts'
import type { LiveRegistry } from '../response/live.ts'
import type { LedgerView } from '../revocation/ledger.ts'
import type { RouteTable } from '../route/table.ts'
import type { Pools } from '../upstream/pools.ts'
import type { Evaluation, OpenExchange } from './stages.ts'

export interface ExchangeContext {
  readonly config: GateConfig
  readonly routes: RouteTable
  readonly credentials: CredentialSources
  readonly verifier: TokenVerifier
  /** Undefined until the control thread has loaded the revocations. */
  readonly ledger: LedgerView | undefined
  readonly engine: PolicyEngine
  readonly pools: Pools
  readonly live: LiveRegistry<OpenExchange>
  readonly log: LogQueue
  readonly metrics: Metrics
  /** Number of the worker. */
  readonly worker: number
  /** `labels` of every decision record, as JSON text. */
  readonly labelsJson: string
  /** More requests than the limit are under way, or the thread is behind: new requests are refused. */
  readonly overloaded: () => boolean
  /**
   * Evaluations alone have taken `limits.max_lag` since the loop last turned in time: none begins until it has turned,
   * since every open exchange of this worker waits for it.
   */
  readonly exhausted: () => boolean
  /** Asks the policy; the supervisor sees meanwhile which policy is being evaluated, and for which caller. */
  readonly evaluate: (
    policy: ActivePolicy,
    caller: Caller,
    entrypoint: string,
    inputText: string,
  ) => Evaluation
  /** A row has ended an open exchange: its receipt counts them. */
  readonly onCut: (row: number) => void
}
