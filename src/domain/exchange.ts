/**
 * Exchange: one request with its response or stream, from the first byte to the last. Not: call, transaction.
 * Cut: to end a live exchange on both sides at once, so that neither sees a complete message. Not: close, drop.
 * The live registry holds an exchange while it is open; to end it early, the gate calls `cut`.
 */
import type { Code } from '../errors.ts'
import type { PeerIdentity } from './peer.ts'
import type { Principal } from './principal.ts'

/** Reasons for which a live exchange is cut. */
export const cutReasons = [
  /** A revocation concerns the exchange. */
  'revoked',
  /** The token of the exchange has expired. */
  'expired',
  /** The current policy denies what an earlier policy allowed. */
  'denied',
  /** The gate could not prove for `revocation.cut_after` that its revocations are up to date. */
  'stale',
  /** The gate is stopping and `drain_timeout` is over. */
  'drain',
  /** An operator ran `dropgate cut`. */
  'operator',
  /** The exchange went over a limit of its route (this and the next reasons). */
  'idle',
  'age',
  'bytes',
  /** A WebSocket side sent invalid frames. */
  'protocol',
] as const

export type CutReason = (typeof cutReasons)[number]

export interface Cut {
  readonly reason: CutReason
  /** Monotonic µs at which the reason arose. */
  readonly sinceUs: number
  /** `revocations.id` of the row, if a revocation is the reason. */
  readonly revocation?: number
  /**
   * Error code to answer with if the request is complete and no response byte was sent; otherwise the connection is
   * closed.
   */
  readonly code?: Code
  /** For the record: why the gate could not tell whether the exchange may stay open. */
  readonly cause?: unknown
}

export interface LiveExchange extends PeerIdentity {
  /** The decision id: it is in the log record, in the problem document and in `x-dropgate-decision-id`. */
  readonly id: string
  /** Monotonic µs at which the listener passed the request to the pipeline. */
  readonly startedAtUs: number
  /** Number in the order of registration in its worker. */
  seq: number
  readonly route: string
  readonly protocol: 'http' | 'websocket'
  readonly principal: Principal | undefined
  /** Wall clock ms at which the token expires; Infinity if the route lets the exchange finish. */
  readonly expiresAtMs: number
  /** Bytes from the client, and (next field) to the client. */
  readonly bytesIn: number
  readonly bytesOut: number
  /** Calling it again does nothing; the first reason counts. */
  cut(cut: Cut): void
}
