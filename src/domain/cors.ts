/** Cross-origin headers of an answer: who may read it is said by the rules of the route, by nobody else. */

/** @param name Lower case. */
export function isCors(name: string): boolean {
  return name.startsWith('access-control-')
}
