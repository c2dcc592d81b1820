/** Functions on arrays and objects that OPA compiles into the module, for what the module does otherwise (policy/natives.ts). */
import type { BuiltinTable } from '../builtin.ts'
import { type Args, array, count, members, object } from './operand.ts'
import { compare, RegoObject, type Value } from './value.ts'

function slice(args: Args): Value {
  const all = array(args, 0)
  const to = Math.min(Math.max(count(args, 2), 0), all.length)
  return all.slice(Math.min(Math.max(count(args, 1), 0), to), to)
}

/**
 * The later value wins; two objects are merged. @param own Objects that belong to the result: others are copied before
 * they are changed, each of them once, so that the work does not grow with the square of the number of objects.
 */
function merge(into: RegoObject, more: RegoObject, own: Set<RegoObject>): void {
  for (const [key, value] of more) {
    const old = into.get(key)
    if (!(old instanceof RegoObject && value instanceof RegoObject)) {
      into.set(key, value)
      continue
    }
    const both = own.has(old) ? old : new RegoObject(old)
    own.add(both)
    merge(both, value, own)
    into.set(key, both)
  }
}

function union(args: Args): Value {
  const out = new RegoObject()
  const own = new Set<RegoObject>()
  for (const i of array(args, 0).keys()) merge(out, object(array(args, 0), i), own)
  return out
}

export const collectionBuiltins: BuiltinTable = {
  'array.slice': { call: slice },
  'object.union_n': { call: union },
  sort: { call: (args) => [...members(args, 0)].sort(compare) },
}
