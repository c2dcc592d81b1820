/**
 * Decision: allow, or deny with an error code. One record is written for each decision that answers a request.
 */
import type { Code } from '../errors.ts'

/** The answer of a policy, with its types already checked. */
export interface Answer {
  readonly allowed: boolean
  /** Set when the policy gave no usable answer; the exchange is then refused with this code. */
  readonly failure: Code | undefined
  /** Sentence for the log of the gate when `failure` is set. */
  readonly detail: string | undefined
  /** Allow: headers set on the upstream request. Deny: headers set on the response. Names are lower case. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  /** Allow only: headers set on the response. */
  readonly responseHeaders: readonly (readonly [name: string, value: string])[]
  /** Allow only: headers that are not sent to the upstream, even if the policy set them. */
  readonly removeHeaders: readonly string[]
  /** Allow only: changes to the query. */
  readonly query: QueryChange | undefined
  /** `dynamic_metadata` as JSON text, for the decision log. */
  readonly metadataJson: string | undefined
  /** Deny only: replaces the body of the problem document. */
  readonly body: string | undefined
  /** Deny only: status of the response, 403 by default. */
  readonly status: number
  /** `reason` of the policy's object, for the decision log. */
  readonly reason: string | undefined
  /** The policy's result as JSON text, for the decision log. */
  readonly resultJson: string | undefined
}

/**
 * Changes to the query, with decoded names and values. A set name loses its earlier values; a removed name has none.
 */
export interface QueryChange {
  readonly set: readonly (readonly [name: string, value: string])[]
  readonly remove: readonly string[]
}

/** Identity of the policy that decided. */
export interface PolicyStamp {
  readonly bundle: string
  readonly revision: string
}
