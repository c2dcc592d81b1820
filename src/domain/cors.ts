/**
 * Cross-origin response headers. Only the rules of a route may set them, not the upstream or the policy.
 */

/** @param name Header name in lower case. */
export function isCors(name: string): boolean {
  return name.startsWith('access-control-')
}
