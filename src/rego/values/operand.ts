/**
 * Reads the arguments of builtins. A wrong argument is a BuiltinError, which makes the call undefined, as OPA's own
 * errors do. A call that would need too much time or memory is a GateError, which ends the evaluation with a denial:
 * if it were undefined, a caller could make a negated condition true by asking for too much.
 */
import { GateError } from '../../errors.ts'
import { toBigInt } from './decimal.ts'
import { isArray, RegoNumber, RegoObject, RegoSet, typeName, type Value } from './value.ts'

/** The call is undefined. The message is for `print` and tests; it never reaches a client. */
export class BuiltinError extends Error {}

/** @throws GateError ERR_POLICY_FAILED */
export function refuseWork(why: string): never {
  throw new GateError(
    'ERR_POLICY_FAILED',
    `the policy called a builtin with too much work for it: ${why}`,
  )
}

export type Args = readonly Value[]

function wrongOperand(at: number, wanted: string, got: Value): BuiltinError {
  return new BuiltinError(`operand ${at + 1} must be ${wanted} but got ${typeName(got)}`)
}

export function text(args: Args, at: number): string {
  const value = args[at]!
  if (typeof value !== 'string') throw wrongOperand(at, 'string', value)
  return value
}

export function boolean(args: Args, at: number): boolean {
  const value = args[at]!
  if (typeof value !== 'boolean') throw wrongOperand(at, 'boolean', value)
  return value
}

export function number(args: Args, at: number): RegoNumber {
  const value = args[at]!
  if (!(value instanceof RegoNumber)) throw wrongOperand(at, 'number', value)
  return value
}

export function bigInt(args: Args, at: number): bigint {
  const whole = toBigInt(number(args, at).decimal)
  if (whole === undefined) {
    throw new BuiltinError(`operand ${at + 1} must be integer number but got floating-point number`)
  }
  return whole
}

/**
 * Returns an integer of 64 bits, read as OPA reads what it counts with: `3` and `3.0`, not `3e0`. One that a JavaScript number
 * does not hold is cut to the largest.
 */
export function count(args: Args, at: number): number {
  const { text } = number(args, at)
  const digits = /^-?\d{1,19}(?=\.?0*$)/.exec(text)?.[0]
  if (
    digits === undefined ||
    text.length > 20 ||
    BigInt.asIntN(64, BigInt(digits)) !== BigInt(digits)
  )
    throw new BuiltinError(`operand ${at + 1} must be integer number but got floating-point number`)
  return Math.max(-Number.MAX_SAFE_INTEGER, Math.min(Number(digits), Number.MAX_SAFE_INTEGER))
}

/** Returns an integer that a JavaScript number holds exactly. */
export function integer(args: Args, at: number): number {
  const whole = count(args, at)
  if (Math.abs(whole) === Number.MAX_SAFE_INTEGER)
    throw new BuiltinError(`operand ${at + 1} is out of range`)
  return whole
}

export function object(args: Args, at: number): RegoObject {
  const value = args[at]!
  if (!(value instanceof RegoObject)) throw wrongOperand(at, 'object', value)
  return value
}

export function array(args: Args, at: number): readonly Value[] {
  const value = args[at]!
  if (!isArray(value)) throw wrongOperand(at, 'array', value)
  return value
}

export function set(args: Args, at: number): RegoSet {
  const value = args[at]!
  if (!(value instanceof RegoSet)) throw wrongOperand(at, 'set', value)
  return value
}

/** Returns the members of an array or set, in order. */
export function members(args: Args, at: number): readonly Value[] {
  const value = args[at]!
  if (isArray(value)) return value
  if (value instanceof RegoSet) return value.sorted()
  throw wrongOperand(at, 'one of {array, set}', value)
}

/** Returns the members of an array or set of strings. */
export function texts(args: Args, at: number): readonly string[] {
  return members(args, at).map((member) => {
    if (typeof member !== 'string') throw wrongOperand(at, 'a collection of strings', member)
    return member
  })
}
