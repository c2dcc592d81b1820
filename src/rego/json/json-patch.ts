/**
 * `json.patch` (RFC 6902) on Rego values, including sets: the key of a set's member is the member itself.
 */

import type { BuiltinTable } from '../builtin.ts'
import { toBigInt } from '../values/decimal.ts'
import { type Args, array, BuiltinError, refuseWork } from '../values/operand.ts'
import {
  compare,
  isArray,
  printTerm,
  RegoNumber,
  RegoObject,
  RegoSet,
  typeName,
  type Value,
} from '../values/value.ts'

type Path = readonly Value[]

/** Limit for the number of operations times the number of characters. */
const maxCopied = 20_000_000

function readPath(value: Value): Path {
  if (isArray(value)) return value
  if (typeof value !== 'string') throw new BuiltinError(`a path cannot be ${typeName(value)}`)
  if (value === '') return []
  return value
    .replace(/^\/+/, '')
    .split('/')
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
}

function indexOf(key: Value, length: number): number {
  if (key === '-') return length
  const written = key instanceof RegoNumber ? toBigInt(key.decimal) : undefined
  const index =
    typeof key === 'string' && /^(?:0|-?[1-9][0-9]{0,15})$/.test(key)
      ? Number(key)
      : Number(written)
  if (!Number.isSafeInteger(index)) throw new BuiltinError('invalid index')
  return index
}

function childAt(value: Value, key: Value): Value {
  let child: Value | undefined
  if (value instanceof RegoObject) child = value.get(key)
  else if (value instanceof RegoSet) child = value.has(key) ? key : undefined
  else if (isArray(value)) child = value[indexOf(key, value.length)]
  if (child === undefined) throw new BuiltinError('the path does not exist')
  return child
}

function valueAt(value: Value, path: Path): Value {
  return path.reduce<Value>(childAt, value)
}

/** Returns a copy with another child at one key. */
function withChild(value: Value, key: Value, child: Value): Value {
  if (isArray(value)) return value.with(indexOf(key, value.length), child)
  if (value instanceof RegoSet) {
    return new RegoSet([...[...value].filter((member) => compare(member, key) !== 0), child])
  }
  const copy = new RegoObject(value as RegoObject)
  copy.set(key, child)
  return copy
}

/** Returns a copy in which `edit` has changed the parent of the last path element. */
function editAt(value: Value, path: Path, edit: (parent: Value, key: Value) => Value): Value {
  const [key, ...rest] = path as [Value, ...Value[]]
  if (rest.length === 0) return edit(value, key)
  return withChild(value, key, editAt(childAt(value, key), rest, edit))
}

function inserted(value: Value, path: Path, child: Value): Value {
  if (path.length === 0) return child
  return editAt(value, path, (parent, key) => {
    if (parent instanceof RegoObject) return withChild(parent, key, child)
    if (parent instanceof RegoSet) {
      if (compare(key, child) !== 0) throw new BuiltinError('a member of a set is its own key')
      return new RegoSet([...parent, child])
    }
    if (!isArray(parent)) throw new BuiltinError('the path does not lead into an array or object')
    const index = indexOf(key, parent.length)
    if (index < 0 || index > parent.length) throw new BuiltinError('index out of bounds')
    return parent.toSpliced(index, 0, child)
  })
}

function removed(value: Value, path: Path): Value {
  return editAt(value, path, (parent, key) => {
    childAt(parent, key)
    if (isArray(parent)) return parent.toSpliced(indexOf(key, parent.length), 1)
    if (parent instanceof RegoSet) {
      return new RegoSet([...parent].filter((member) => compare(member, key) !== 0))
    }
    const copy = new RegoObject(parent as RegoObject)
    copy.delete(key)
    return copy
  })
}

/** Applies one operation. @param value The document, undefined after it was removed as a whole. */
function applyOperation(value: Value | undefined, operation: Value): Value | undefined {
  if (!(operation instanceof RegoObject)) throw new BuiltinError('an operation is not an object')
  const field = (name: string): Value => {
    const found = operation.get(name)
    if (found === undefined) throw new BuiltinError(`missing required attribute '${name}'`)
    return found
  }
  const path = readPath(field('path'))
  const kind = field('op')
  const document = (): Value => {
    if (value === undefined) throw new BuiltinError('the document was removed')
    return value
  }
  const without = (at: Path): Value | undefined =>
    at.length === 0 ? undefined : removed(document(), at)
  const put = (into: Value | undefined, child: Value): Value => {
    if (into === undefined && path.length > 0) throw new BuiltinError('the document was removed')
    return path.length === 0 ? child : inserted(into!, path, child)
  }
  switch (kind) {
    case 'add':
      return put(value, field('value'))
    case 'remove':
      document()
      return without(path)
    case 'replace':
      return put(without(path), field('value'))
    case 'move': {
      const from = readPath(field('from'))
      const child = valueAt(document(), from)
      return put(without(from), child)
    }
    case 'copy':
      return put(value, valueAt(document(), readPath(field('from'))))
    case 'test':
      if (compare(valueAt(document(), path), field('value')) !== 0) {
        throw new BuiltinError('the test operation found a different value')
      }
      return value
    default:
      throw new BuiltinError('unrecognized op')
  }
}

function patch(args: Args): Value | undefined {
  const operations = array(args, 1)
  // Each operation copies the values along its path, at most the whole document.
  const size = printTerm(args[0]!).length + printTerm(operations).length
  if (operations.length * size > maxCopied)
    refuseWork('json.patch with too many operations on a large document')
  return operations.reduce<Value | undefined>(applyOperation, args[0]!)
}

export const jsonPatchBuiltins: BuiltinTable = {
  'json.patch': { call: patch },
}
