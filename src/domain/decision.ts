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
  /** Deny only: replaces the problem body. */
  readonly body: string | undefined
  /** Deny only; 403 by default. */
  readonly status: number
  /** `reason` of the policy's object, for the decision log. */
  readonly reason: string | undefined
  /** The policy's result as JSON text, for the decision log. */
  readonly resultJson: string | undefined
}

/** Identity of the policy that decided. */
export interface PolicyStamp {
  readonly bundle: string
  readonly revision: string
}
