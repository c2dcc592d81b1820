/**
 * One case on our engine: it passes, or fails, or is expected not to pass: since OPA's own WebAssembly run leaves it out
 * (`opa`), or for a reason of our own (`ours`): exceptions.ts, or a builtin that dropgate refuses.
 */

import { PolicyInstance } from '../../src/policy/host.ts'
import {
  compare,
  describe,
  fromJson,
  isArray,
  keyOf,
  parseTerm,
  RegoObject,
  RegoSet,
  toJson,
  type Value,
} from '../../src/rego/values/value.ts'
import { type Case, findOpaSource, readExceptions } from './cases.ts'
import { compiled } from './compiled.ts'
import { ownExceptions } from './exceptions.ts'

export interface Verdict {
  readonly verdict: 'pass' | 'opa' | 'ours' | 'fail'
  readonly why: string
}

const opaExceptions = readExceptions(findOpaSource())

export async function judge(one: Case): Promise<Verdict> {
  const own = ownExceptions.get(one.note)
  let why: string
  try {
    why = await evaluated(one)
  } catch (error) {
    const { message, refused } = error as Error & { refused?: true }
    if (refused) return { verdict: 'ours', why: message }
    if (one.query === 'data = x' && message.includes('rego_recursion_error'))
      return { verdict: 'ours', why: 'all of `data` cannot be an entrypoint: rego_recursion_error' }
    why = message.trim()
  }
  if (why === '') {
    return own === undefined
      ? { verdict: 'pass', why }
      : { verdict: 'fail', why: `passes, though it is on the list of exceptions: ${own}` }
  }
  const opa = opaExceptions.get(one.note)
  if (opa !== undefined) return { verdict: 'opa', why: opa }
  return own === undefined ? { verdict: 'fail', why } : { verdict: 'ours', why: own }
}

/** OPA's code for what ended an evaluation. */
function codeOf(message: string): string {
  if (/(?:var assignment|object insert) conflict/.test(message)) return 'eval_conflict_error'
  return 'eval_internal_error'
}

/** @returns '' when it passes, else why not. */
async function evaluated(one: Case): Promise<string> {
  const { bytes, initialPages, entrypoint, wrapped } = await compiled(one)
  const instance = new PolicyInstance({
    module: await WebAssembly.compile(bytes),
    initialPages,
    data: toJson(one.data),
    maxMemoryBytes: 256 << 20,
  })
  const missing = instance.missingBuiltins
  if (missing.length > 0) {
    const error = new Error(`needs ${missing.join(', ')}`)
    throw Object.assign(error, {
      refused: missing.every((name) => name.includes(' (')) || undefined,
    })
  }
  let answers: Iterable<Value>
  try {
    answers = parseTerm(
      instance.evaluate(instance.entrypoints.get(entrypoint)!, one.input, 'terms'),
    ) as RegoSet
  } catch (error) {
    const { message } = error as Error
    const code = codeOf(message)
    if (one.wantError && !one.strictError && one.wantErrorCode === code) return ''
    return `threw ${code}: ${message}`
  }
  const results = Array.from(answers, (row) => (row as RegoObject).get('result')!)
  const rows = wrapped ? [...((results[0] ?? new RegoSet()) as RegoSet)] : results
  if (one.wantError) {
    if (!one.strictError) return `wanted an error, got ${rows.map(describe)}`
    return rows.length === 0 ? '' : `wanted undefined, got ${rows.map(describe)}`
  }
  if (one.wantDefined !== undefined) {
    return rows.length > 0 === one.wantDefined
      ? ''
      : `wanted ${one.wantDefined ? 'a value' : 'undefined'}, got ${rows.map(describe)}`
  }
  const variable = one.query.split(' ').at(-1)!
  const got = wrapped ? rows : rows.map((value) => new RegoObject([[variable, value]]))
  const wanted = one.wantResult ?? []
  const [left, right] = [wanted, got].map((rows) =>
    rows.map((row) => normal(row, one.sortBindings)),
  )
  const keys = (rows: readonly Value[]): string => rows.map(keyOf).sort().join()
  if (keys(left!) === keys(right!)) return ''
  return `wanted ${left!.map(describe)}, got ${right!.map(describe)}`
}

/** As JSON; a binding that stands for a set is sorted where the case says so. */
function normal(row: Value, sortBindings: boolean): Value {
  const json = fromJson(toJson(row)) as RegoObject
  return new RegoObject(
    Array.from(json, ([name, value]) => [
      name,
      sortBindings && isArray(value) ? [...value].sort(compare) : value,
    ]),
  )
}
