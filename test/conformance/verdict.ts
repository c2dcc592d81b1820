/**
 * One case on our engine: pass, fail, or expected, where OPA's own WebAssembly run makes the same exception or the
 * case needs a builtin that dropgate refuses.
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
import type { Case } from './cases.ts'
import { compiled } from './compiled.ts'
import { exceptions } from './exceptions.ts'

export interface Verdict {
  readonly verdict: 'pass' | 'expected' | 'fail'
  readonly why: string
}

export async function judge(one: Case): Promise<Verdict> {
  const exception = exceptions.get(one.note)
  let why: string
  try {
    why = await evaluated(one)
  } catch (error) {
    const { message, refused } = error as Error & { refused?: true }
    if (refused) return { verdict: 'expected', why: message }
    if (one.query === 'data = x' && message.includes('rego_recursion_error')) {
      return {
        verdict: 'expected',
        why: 'all of `data` cannot be an entrypoint: rego_recursion_error',
      }
    }
    why = message.trim()
  }
  if (exception !== undefined) {
    return why === ''
      ? { verdict: 'fail', why: `passes, though it is on the list of exceptions: ${exception}` }
      : { verdict: 'expected', why: exception }
  }
  return { verdict: why === '' ? 'pass' : 'fail', why }
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
    if (one.wantError && !one.strictError) return ''
    return `threw: ${message}`
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
