/**
 * Exchange: one request with its response or stream, from the first byte to the last. Not: call, transaction.
 * Cut: to end a live exchange, both sides at once, so that neither sees a complete message. Not: close, drop.
 * The live registry holds an exchange while it is open; whoever must end it calls `cut`.
 */
import type { Code } from '../errors.ts'
import type { PeerIdentity } from './peer.ts'
import type { Principal } from './principal.ts'

/** Why a live exchange was cut. */
export const cutReasons = [
  /** A row in the ledger concerns it. */
  'revoked',
  /** Its token has expired. */
  'expired',
  /** The policy of now does not allow what an earlier one did. */
  'denied',
  /** Revocations could not be proved fresh for `revocation.cut_after`. */
  'stale',
  /** The gate stops and `drain_timeout` is over. */
  'drain',
  /** `dropgate cut`. */
  'operator',
  /** Over a limit of its route. */
  'idle',
  'age',
  'bytes',
  /** Frames that are none, or that a WebSocket peer must not send. */
  'protocol',
] as const

export type CutReason = (typeof cutReasons)[number]

export interface Cut {
  readonly reason: CutReason
  /** Monotonic µs since when there was reason to. */
  readonly sinceUs: number
  /** `revocations.id` of the row, where one is the reason. */
  readonly revocation?: number
  /** What to answer a client that has sent all of its request and got no byte of the answer; else its connection closes. */
  readonly code?: Code
  /** For the record: why the gate could not tell whether it may stay open. */
  readonly cause?: unknown
}

export interface LiveExchange extends PeerIdentity {
  /** The decision id: in the record, the problem body and `x-dropgate-decision-id`. */
  readonly id: string
  /** Monotonic µs at which its request was handed over by the listener. */
  readonly startedAtUs: number
  /** Order of registration in its worker. */
  seq: number
  readonly route: string
  readonly protocol: 'http' | 'websocket'
  readonly principal: Principal | undefined
  /** Wall clock ms after which its token is no longer one; Infinity where the route lets it finish. */
  readonly expiresAtMs: number
  /** From the client, and to it. */
  readonly bytesIn: number
  readonly bytesOut: number
  /** Twice is fine; the first reason counts. */
  cut(cut: Cut): void
}
