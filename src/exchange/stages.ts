/**
 * What is known of an exchange, stage by stage. Each stage makes one value, gives it to the next and never changes it:
 *
 *   RequestHead -> Arrived -> Identified -> Authorization -> sent, or refused
 *
 * These values do not depend on how an answer is given. An entrance that only decides makes a RequestHead from its
 * question and stops at the Authorization; one with another protocol (HTTP/2 streams) has its own OpenExchange.
 */
import type { IncomingMessage } from 'node:http'
import type { Answer } from '../domain/decision.ts'
import type { Cut, LiveExchange } from '../domain/exchange.ts'
import type { Linked } from '../domain/linked.ts'
import type { Principal } from '../domain/principal.ts'
import type { RequestHeaders } from '../domain/request-headers.ts'
import type { GateError } from '../errors.ts'
import type { Credential, Scheme } from '../identity/credential.ts'
import type { Peer } from '../listener/peer.ts'
import type { ActivePolicy } from '../policy/engine.ts'
import type { PolicyInput } from '../policy/input.ts'
import type { Route } from '../route/table.ts'
import type { Target } from '../route/target.ts'

/** A request as the client sent it; nothing in it is checked. */
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

/**
 * How far `arrive` came, for the record and the answer of a request that is refused there. The only value that is
 * filled in step by step.
 */
export interface Trace {
  peer: Peer | undefined
  target: Target | undefined
  route: Route | undefined
  /** Cross-origin headers of the answer, also of a refusal; flat list of names and values. */
  cors: readonly string[]
  /** Scheme in which a refusal asks for a better credential. */
  scheme: Scheme
  /** Nonce for the client's next proof, on every answer; undefined when the client needs none. */
  nonce: string | undefined
}

/** The request in exactly one reading, and the route that serves it. */
export interface Arrived {
  readonly method: string
  /** For example `HTTP/1.1`. */
  readonly protocol: string
  readonly headers: RequestHeaders
  /** The headers that the policy sees and the upstream gets; flat list of names and values. */
  readonly passedHeaders: readonly string[]
  readonly hasBody: boolean
  readonly peer: Peer
  readonly target: Target
  /** The target to send upstream when the route changes the path. */
  readonly sentTarget: Target | undefined
  readonly route: Route
  readonly credential: Credential | undefined
}

/** A request whose caller is verified. */
export interface Identified {
  readonly arrived: Arrived
  /** Undefined for an anonymous request, on a route that requires no token. */
  readonly principal: Principal | undefined
  /** The whole body when the policy reads it; otherwise it stays a stream. */
  readonly body: Buffer | undefined
}

/** The result of one evaluation of the policy. */
export interface Evaluation {
  readonly answer: Answer
  readonly durationUs: number
  /** Results of builtins that read the clock or random numbers, as JSON text; undefined when none was called. */
  readonly ndBuiltinCache: string | undefined
}

/** The result of revocations and policy. It is kept as long as the exchange is open. */
export interface Decided {
  /** Undefined when the exchange is allowed. */
  readonly refusal: GateError | undefined
  /** Age of the feed; −1 when the ledger was not read. */
  readonly feedAgeMs: number
  readonly ledgerVersion: number
  /** `revocations.id` of the row that denied. */
  readonly revocation: number | undefined
  /** Undefined when no policy was asked. */
  readonly policy: ActivePolicy | undefined
  readonly evaluation: Evaluation | undefined
  /** The target to send upstream when the route has changed the path, or the policy the query. */
  readonly sentTarget: Target | undefined
}

export interface Authorization {
  readonly decided: Decided
  /** For the decision record, which is written at once. Nothing else keeps the input, since it is large. */
  readonly input: PolicyInput | undefined
}

/** An exchange that was let in: the part of it that `reevaluate` uses. */
export interface OpenExchange extends LiveExchange, Linked<OpenExchange> {
  /** False once the request has come and the answer is written, even if it is not yet delivered. */
  readonly open: boolean
  readonly identified: Identified
  /** The newest decision that allowed the exchange. */
  decided: Decided | undefined
  /** Bytes in both directions at the last idle check, and since when (monotonic µs) the number has not changed. */
  idleBytes: number
  idleSinceUs: number
  /** @param denial The decision that ends the exchange, for the record. */
  cut(cut: Cut, denial?: Authorization): void
}
