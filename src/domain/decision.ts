/**
 * Decision: allow or deny with a reason. One record is written for each decision that answers (design law 8).
 * The reason is `allowed` or the error code in kebab-case without `ERR_`.
 */
import type { Code } from '../errors.ts'

/** What a policy answered, already checked for type. */
export interface Answer {
  readonly allowed: boolean
  /** Set when the policy gave no usable answer; the exchange is then refused with this code. */
  readonly failure: Code | undefined
  /** Sentence for the gate's log when `failure` is set. */
  readonly detail: string | undefined
  /** Allow: set on the upstream request. Deny: set on the answer. Lower-case names. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  /** Allow only: set on the answer. */
  readonly responseHeaders: readonly (readonly [name: string, value: string])[]
  /** Allow only: not sent upstream, whoever set them. */
  readonly removeHeaders: readonly string[]
  /** Allow only. */
  readonly query: QueryChange | undefined
  /** `dynamic_metadata` as JSON text, for the decision log. */
  readonly metadataJson: string | undefined
  /** Deny only: replaces the problem body. */
  readonly body: string | undefined
  /** Deny only; 403 by default. */
  readonly status: number
  /** `reason` of the policy's object, for the decision log. */
  readonly reason: string | undefined
  /** The policy's result as JSON text, for the decision log. */
  readonly resultJson: string | undefined
}

/** Names and values decoded; a name that is set loses the values it had, one that is removed has none. */
export interface QueryChange {
  readonly set: readonly (readonly [name: string, value: string])[]
  readonly remove: readonly string[]
}

/** Identity of the policy that decided. */
export interface PolicyStamp {
  readonly bundle: string
  readonly revision: string
}
