/**
 * `object.subset`: compares objects member by member, sets, a part of an array with the array, and a set with an
 * array.
 */

import type { BuiltinTable } from '../builtin.ts'
import { BuiltinError, refuseWork } from './operand.ts'
import { compare, isArray, keyOf, RegoObject, RegoSet, type Value } from './value.ts'

/** Most comparisons for an array within an array: the cost is the product of their lengths. */
const maxSteps = 10_000_000

/** @returns Undefined if the two values are of different types. */
function alike(whole: Value, part: Value): boolean | undefined {
  if (whole instanceof RegoObject && part instanceof RegoObject) return withinObject(whole, part)
  if (whole instanceof RegoSet && part instanceof RegoSet) {
    return [...part].every((member) => whole.has(member))
  }
  if (isArray(whole) && isArray(part)) return withinArray(whole, part)
  return undefined
}

/** A member counts once for each time that the array contains it, as in OPA. */
function setWithinArray(whole: readonly Value[], part: RegoSet): boolean {
  const found = whole.filter((member) => part.has(member)).length
  return found >= part.size && whole.length > 0
}

function withinObject(whole: RegoObject, part: RegoObject): boolean {
  for (const [key, value] of part) {
    const known = whole.get(key)
    if (known === undefined) return false
    if (!(alike(known, value) ?? compare(known, value) === 0)) return false
  }
  return true
}

/** Returns true if consecutive members of the whole equal the part. */
function withinArray(whole: readonly Value[], part: readonly Value[]): boolean {
  const [keys, wanted] = [whole.map(keyOf), part.map(keyOf)]
  let steps = 0
  for (let from = 0; from + wanted.length <= keys.length; from++) {
    let at = 0
    while (at < wanted.length && keys[from + at] === wanted[at]) at++
    if (at === wanted.length) return true
    steps += at + 1
    if (steps > maxSteps) refuseWork('object.subset with arrays that are too long')
  }
  return false
}

export const subsetBuiltins: BuiltinTable = {
  'object.subset': {
    call: ([whole, part]) => {
      const is =
        isArray(whole!) && part instanceof RegoSet
          ? setWithinArray(whole, part)
          : alike(whole!, part!)
      if (is === undefined) {
        throw new BuiltinError('both arguments must be of the same type or array and set')
      }
      return is
    },
  },
}
