/** The body of a refusal (RFC 9457), whether it is written as an HTTP response or on a bare socket. */
import type { GateError } from '../errors.ts'

/** The problem document as JSON text. */
export function problemOf(
  error: GateError,
  decisionId: string,
  status: number = error.status,
): string {
  const { title, code } = error
  return JSON.stringify({ type: 'about:blank', title, status, code, decision_id: decisionId })
}
