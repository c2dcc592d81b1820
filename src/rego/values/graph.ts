/**
 * `graph.reachable_paths`: returns every path from the given vertices to an end or to a cycle.
 */

import type { BuiltinTable } from '../builtin.ts'
import { type Args, members, object, refuseWork } from './operand.ts'
import { isArray, RegoSet, type Value } from './value.ts'

/** Most vertices on all paths together: the number of paths can grow with the factorial of the graph's size. */
const maxVertices = 100_000

function paths(args: Args): Value {
  const graph = object(args, 0)
  const found = new RegoSet()
  let vertices = 0

  const neighbours = (vertex: Value): readonly Value[] | undefined => {
    const edges = graph.get(vertex)
    if (edges === undefined) return undefined
    return isArray(edges) ? edges : edges instanceof RegoSet ? edges.sorted() : []
  }
  const end = (path: readonly Value[]): void => {
    vertices += path.length + 1
    if (vertices > maxVertices) refuseWork('graph.reachable_paths finds too many paths')
    found.add(path)
  }
  const follow = (vertex: Value, path: readonly Value[], reached: RegoSet): void => {
    const edges = neighbours(vertex)
    if (edges === undefined) {
      end(path)
      return
    }
    const longer = [...path, vertex]
    if (edges.length === 0) end(longer)
    const seen = new RegoSet([...reached, vertex])
    for (const next of edges) {
      if (seen.has(next)) end(longer)
      else follow(next, longer, seen)
    }
  }

  for (const root of members(args, 1)) {
    const edges = neighbours(root)
    if (edges === undefined) continue
    if (edges.length === 0) end([root])
    for (const next of edges) follow(next, [root], new RegoSet([root]))
  }
  return found
}

export const graphBuiltins: BuiltinTable = {
  'graph.reachable_paths': { call: paths },
}
