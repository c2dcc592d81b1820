/**
 * `numbers.range` and `numbers.range_step`: lists of integers with a step between them.
 */

import type { BuiltinTable } from '../builtin.ts'
import { type Args, BuiltinError, bigInt, refuseWork } from './operand.ts'
import { RegoNumber, type Value } from './value.ts'

/** Most numbers in one range; the memory of the module would hold some millions. */
const maxNumbers = 100_000n

/** @param step 1 for `numbers.range`. */
function range(args: Args, step: bigint): Value {
  const [from, to] = [bigInt(args, 0), bigInt(args, 1)]
  if (step <= 0n) throw new BuiltinError('step must be a positive integer')
  const span = from <= to ? to - from : from - to
  if (span / step >= maxNumbers) refuseWork(`a range of more than ${maxNumbers} numbers`)
  const direction = from <= to ? step : -step
  return Array.from(
    { length: Number(span / step) + 1 },
    (_, i) => new RegoNumber(from + BigInt(i) * direction),
  )
}

export const numberBuiltins: BuiltinTable = {
  'numbers.range': { call: (args) => range(args, 1n) },
  'numbers.range_step': { call: (args) => range(args, bigInt(args, 2)) },
}
