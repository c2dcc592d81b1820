/** Functions on arrays and objects that OPA compiles into the module, for what the module does otherwise (policy/natives.ts). */
import type { BuiltinTable } from '../builtin.ts'
import { type Args, array, count, members, object } from './operand.ts'
import { compare, RegoObject, type Value } from './value.ts'

function slice(args: Args): Value {
  const all = array(args, 0)
  const to = Math.min(Math.max(count(args, 2), 0), all.length)
  return all.slice(Math.min(Math.max(count(args, 1), 0), to), to)
}

/** The later value wins; two objects are merged. */
function merged(a: RegoObject, b: RegoObject): RegoObject {
  const out = new RegoObject(a)
  for (const [key, value] of b) {
    const old = out.get(key)
    const both = old instanceof RegoObject && value instanceof RegoObject
    out.set(key, both ? merged(old, value) : value)
  }
  return out
}

function union(args: Args): Value {
  const all = array(args, 0)
  return all.map((_, i) => object(all, i)).reduce(merged, new RegoObject())
}

export const collectionBuiltins: BuiltinTable = {
  'array.slice': { call: slice },
  'object.union_n': { call: union },
  sort: { call: (args) => [...members(args, 0)].sort(compare) },
}
