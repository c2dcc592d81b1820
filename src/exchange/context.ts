/**
 * What the pipeline reads, as one value for each configuration. An exchange keeps the value that it began with (design
 * law 2).
 */
import type { GateConfig } from '../config/options.ts'
import type { LogQueue } from '../decisionlog/queue.ts'
import type { Caller } from '../domain/caller.ts'
import type { CredentialSources } from '../identity/credential.ts'
import type { ProofVerifier } from '../identity/dpop.ts'
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
  readonly proofs: ProofVerifier
  /** Undefined until the control thread has loaded the revocations. */
  readonly ledger: LedgerView | undefined
  readonly engine: PolicyEngine
  readonly pools: Pools
  readonly live: LiveRegistry<OpenExchange>
  readonly log: LogQueue
  readonly metrics: Metrics
  /** Index of the worker, from 0. */
  readonly worker: number
  /** `labels` of every decision record, as JSON text. */
  readonly labelsJson: string
  /** True when too many requests are under way, or when the thread is behind: new requests are refused. */
  readonly overloaded: () => boolean
  /**
   * True when evaluations alone have taken `limits.max_lag` since the last turn of the event loop. Then no evaluation
   * begins before the next turn, since every open exchange of this worker waits for it.
   */
  readonly exhausted: () => boolean
  /** Evaluates the policy, and shows the supervisor which policy is being evaluated and for which caller. */
  readonly evaluate: (
    policy: ActivePolicy,
    caller: Caller,
    entrypoint: string,
    inputText: string,
  ) => Evaluation
  /** Called when a row has ended an open exchange, so that its receipt can count it. */
  readonly onCut: (row: number) => void
}
