/**
 * What is known of an exchange, stage by stage. Each stage makes one value, gives it to the next and never changes it:
 *
 *   RequestHead -> Arrived -> Identified -> Authorization -> sent, or refused
 *
 * None of them knows how an answer is given. An entrance that only decides makes a RequestHead from the question that it
 * was asked and stops at the Authorization; one with other frames (HTTP/2 streams) has an OpenExchange of its own.
 */
import type { IncomingMessage } from 'node:http'
import type { Answer } from '../domain/decision.ts'
import type { Cut, LiveExchange } from '../domain/exchange.ts'
import type { Linked } from '../domain/linked.ts'
import type { Principal } from '../domain/principal.ts'
import type { RequestHeaders } from '../domain/request-headers.ts'
import type { GateError } from '../errors.ts'
import type { Credential } from '../identity/credential.ts'
import type { Peer } from '../listener/peer.ts'
import type { ActivePolicy } from '../policy/engine.ts'
import type { PolicyInput } from '../policy/input.ts'
import type { Route } from '../route/table.ts'
import type { Target } from '../route/target.ts'

/** A request before anything in it is believed. */
export type RequestHead = Pick<
  IncomingMessage,
  | 'method'
  | 'url'
  | 'rawHeaders'
  | 'httpVersion'
  | 'httpVersionMajor'
  | 'httpVersionMinor'
  | 'socket'
>

/** The only value that grows: how far `arrive` came, for the record and the answer of a request that is refused there. */
export interface Trace {
  peer: Peer | undefined
  target: Target | undefined
  route: Route | undefined
  /** Cross-origin headers of the answer, allowed or refused; flat name, value list. */
  cors: readonly string[]
}

/** The request in exactly one reading, and the route that serves it. */
export interface Arrived {
  readonly method: string
  /** `HTTP/1.1`. */
  readonly protocol: string
  readonly headers: RequestHeaders
  /** The headers that the policy sees and the upstream gets; flat name, value list. */
  readonly passedHeaders: readonly string[]
  readonly hasBody: boolean
  readonly peer: Peer
  readonly target: Target
  readonly route: Route
  readonly credential: Credential | undefined
}

/** Who sent it. */
export interface Identified {
  readonly arrived: Arrived
  /** Undefined where the route asks for no token. */
  readonly principal: Principal | undefined
  /** The whole body, where the policy reads it; otherwise it stays a stream. */
  readonly body: Buffer | undefined
}

/** What one evaluation gave. */
export interface Evaluation {
  readonly answer: Answer
  readonly durationUs: number
  /** Results of builtins that ask for the time or for chance, as JSON text; undefined where none was called. */
  readonly ndBuiltinCache: string | undefined
}

/** What revocations and policy say. It is kept as long as the exchange is open. */
export interface Decided {
  /** Undefined: allowed. */
  readonly refusal: GateError | undefined
  /** −1 where the ledger was not read. */
  readonly feedAgeMs: number
  readonly ledgerVersion: number
  /** `revocations.id` of the row that denied. */
  readonly revocation: number | undefined
  /** Undefined where no policy was asked. */
  readonly policy: ActivePolicy | undefined
  readonly evaluation: Evaluation | undefined
  /** The target that goes upstream, where the policy has changed the query. */
  readonly sentTarget: Target | undefined
}

export interface Authorization {
  readonly decided: Decided
  /** For the record alone, which is written at once: it is large, and nothing else keeps it. */
  readonly input: PolicyInput | undefined
}

/** An exchange that was let in, as far as `reevaluate` needs it. */
export interface OpenExchange extends LiveExchange, Linked<OpenExchange> {
  /** False once all of it has come and all of the answer is written: it is over, if not yet delivered. */
  readonly open: boolean
  readonly identified: Identified
  /** The newest decision that allowed it. */
  decided: Decided | undefined
  /** Bytes both ways at the last look for idleness, and since when (monotonic µs) they have not changed. */
  idleBytes: number
  idleSinceUs: number
  /** @param denial The decision that ends it, for the record. */
  cut(cut: Cut, denial?: Authorization): void
}
