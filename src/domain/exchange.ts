/**
 * Exchange: one request with its response or stream, from the first byte to the last. Not: call, transaction.
 * The live registry holds it while it is open; whoever must end it calls `end`.
 */
import type { Peer } from './peer.ts'
import type { Principal } from './principal.ts'

export interface Exchange extends Peer {
  /** The decision id: in the record, the problem body and `x-dropgate-decision-id`. */
  readonly id: string
  /** Monotonic µs at which its request was handed over by the listener. */
  readonly startedAtUs: number
  readonly route: string
  readonly principal: Principal | undefined
  /** Set in the turn that decides, after the look-up and the evaluation (design law 3). */
  allowed: boolean
  /** Ends both sides at once so that neither sees a complete message. */
  readonly end: (why: Error) => void
}
