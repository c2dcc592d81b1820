/**
 * What a route changes in a path on the way to its upstream: it cuts off its own prefix (`strip_prefix`) and puts a base
 * path in front (`base_path`). Both count whole segments of the canonical path, before the decision. The result passes
 * the same function as a client's target (design law 5), and the policy sees both.
 */
import { GateError } from '../errors.ts'
import {
  checkTarget,
  parseRequestTarget,
  type Target,
  type TargetOptions,
  type TargetRules,
} from './target.ts'

export interface Rewrite {
  /** How many segments are cut off. */
  readonly stripped: number
  /** Path in front of what is left, without a slash at its end; '' for none. */
  readonly base: string
  /** The path that was cut off, as clients write it; '' for none. */
  readonly prefix: string
}

/** @throws GateError ERR_TARGET_MALFORMED, ERR_TARGET_TOO_LONG */
export function rewrittenTarget(
  method: string,
  target: Target,
  { stripped, base }: Rewrite,
  rules: TargetRules,
  options: TargetOptions,
): Target {
  const { path: asked } = target
  let from = 0
  for (let i = 0; i < stripped && from !== -1; i++) {
    // An empty segment is none of the prefix: the route was found without it.
    while (asked[from + 1] === '/') from++
    from = asked.indexOf('/', from + 1)
  }
  const rest = from === -1 ? '' : asked.slice(from)
  const path = `${base}${rest}`
  const wire = `${path === '' ? '/' : path}${target.query === null ? '' : `?${target.query}`}`
  const sent = checkTarget(parseRequestTarget(method, wire, target.authority, options), rules)
  if (sent.wire !== wire) throw new GateError('ERR_TARGET_MALFORMED')
  return sent
}
