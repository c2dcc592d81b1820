/**
 * `yaml.*`: converts the first document of a YAML text to JSON values. At most a hundred aliases are followed, so
 * that a short text cannot become a huge value.
 */
import { createRequire } from 'node:module'
import type * as Library from 'yaml'
import type { BuiltinTable } from '../builtin.ts'
import { type Args, BuiltinError, refuseWork, text } from '../values/operand.ts'
import { isArray, jsonKey, RegoNumber, RegoObject, RegoSet, type Value } from '../values/value.ts'

const require = createRequire(import.meta.url)
/** Loaded only when a policy uses it, because loading takes 35 ms of CPU per thread. */
const library = (): typeof Library => require('yaml') as typeof Library

const maxLength = 1 << 16

function documentsOf(source: string): Library.Document[] {
  if (source.length > maxLength) refuseWork(`YAML of more than ${maxLength} characters`)
  // If a key appears twice, the last one counts, as in OPA.
  const options = { intAsBigInt: true, merge: true, uniqueKeys: false, logLevel: 'silent' } as const
  const documents = library().parseAllDocuments(source, options)
  return Array.isArray(documents) ? documents : []
}

function unmarshal(args: Args): Value {
  const [document] = documentsOf(text(args, 0))
  if (document === undefined) return null
  const [error] = document.errors
  if (error !== undefined) throw new BuiltinError(`yaml: ${error.message}`)
  let value: unknown
  try {
    value = document.toJS({ mapAsMap: true, maxAliasCount: 100 })
  } catch (error) {
    throw new BuiltinError(`yaml: ${(error as Error).message}`)
  }
  return toRego(value)
}

function toRego(value: unknown): Value {
  if (value === null || value === undefined) return null
  if (typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value === 'bigint') {
    const fits = value >= -(1n << 63n) && value < 1n << 64n
    return new RegoNumber(fits ? value : Number(value))
  }
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw new BuiltinError('yaml: not a JSON number')
    return new RegoNumber(value)
  }
  if (Array.isArray(value)) return value.map(toRego)
  if (value instanceof Map) {
    return new RegoObject(Array.from(value, ([key, of]) => [jsonKey(toRego(key)), toRego(of)]))
  }
  if (value instanceof Date) return value.toISOString().replace('.000Z', 'Z')
  throw new BuiltinError('yaml: the value has a type that JSON does not have')
}

/** Converts a value for the writer of the library, with sorted keys. */
function toPlain(value: Value): unknown {
  if (value instanceof RegoNumber) {
    return /[.eE]/.test(value.text) ? Number(value.text) : BigInt(value.text)
  }
  if (isArray(value)) return value.map(toPlain)
  if (value instanceof RegoSet) return value.sorted().map(toPlain)
  if (!(value instanceof RegoObject)) return value
  const members = Array.from(value, ([key, of]) => [jsonKey(key), toPlain(of)] as const)
  return new Map(members.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
}

export const yamlBuiltins: BuiltinTable = {
  'yaml.unmarshal': { load: library, call: unmarshal },
  'yaml.marshal': {
    load: library,
    call: ([value]) => library().stringify(toPlain(value!), { indentSeq: false, lineWidth: 0 }),
  },
  'yaml.is_valid': {
    load: library,
    call: ([value]) => {
      if (typeof value !== 'string') return false
      // Documents after the first are checked too, although their values are not used.
      return documentsOf(value).every(({ errors }) => errors.length === 0)
    },
  },
}
