/** `json.filter` and `json.remove`: parts of a document by paths, `a/b/0` or `["a", "b", 0]`. */
import type { BuiltinTable } from '../builtin.ts'
import { type Args, BuiltinError, members, object } from '../values/operand.ts'
import { isArray, RegoObject, RegoSet, type Value } from '../values/value.ts'

/** What is named below a value, by key; null where the value itself is named. */
type Named = RegoObject | null

function segments(path: Value): readonly Value[] {
  if (isArray(path)) return path
  if (typeof path !== 'string')
    throw new BuiltinError('operand 2 must be one of {set, array} containing string paths')
  if (path === '') return []
  return path
    .replace(/^\/+/, '')
    .split('/')
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
}

function named(args: Args): RegoObject {
  const root = new RegoObject()
  for (const path of members(args, 1)) {
    const keys = segments(path)
    let node: Named = root
    for (const [i, key] of keys.entries()) {
      if (i === keys.length - 1) node.set(key, null)
      else {
        if (!node.has(key)) node.set(key, new RegoObject())
        const below: Value = node.get(key)!
        if (!(below instanceof RegoObject)) break
        node = below
      }
    }
  }
  return root
}

function filter(value: Value, by: Value): Value {
  if (by === null) return value
  const below = by as RegoObject
  if (isArray(value)) {
    return value.flatMap((each, i) => {
      const inner = below.get(String(i))
      return inner === undefined ? [] : [filter(each, inner)]
    })
  }
  if (value instanceof RegoSet) {
    const kept = [...value].filter((each) => below.has(each))
    return new RegoSet(kept.map((each) => filter(each, below.get(each)!)))
  }
  if (!(value instanceof RegoObject)) return value
  const kept = [...value].filter(([key]) => below.has(key))
  return new RegoObject(kept.map(([key, of]) => [key, filter(of, below.get(key)!)]))
}

/** @returns undefined for what is named itself. */
function without(value: Value, by: Value | undefined): Value | undefined {
  if (by === null) return undefined
  if (!(by instanceof RegoObject)) return value
  const keep = (each: Value, key: Value): Value[] => {
    const left = without(each, by.get(key))
    return left === undefined ? [] : [left]
  }
  if (isArray(value)) return value.flatMap((each, i) => keep(each, String(i)))
  if (value instanceof RegoSet) return new RegoSet([...value].flatMap((each) => keep(each, each)))
  if (!(value instanceof RegoObject)) return value
  return new RegoObject(
    [...value].flatMap(([key, of]) => keep(of, key).map((left) => [key, left] as const)),
  )
}

export const jsonPathBuiltins: BuiltinTable = {
  'json.filter': { call: (args) => filter(object(args, 0), named(args)) },
  'json.remove': { call: (args) => without(object(args, 0), named(args)) },
}
