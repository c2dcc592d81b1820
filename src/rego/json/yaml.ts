/**
 * `yaml.*`: converts the first document of a YAML text to JSON values. At most a hundred aliases are followed, so
 * that a short text cannot become a huge value.
 */
import { createRequire } from 'node:module'
import type * as Library from 'yaml'
import type { BuiltinTable } from '../builtin.ts'
import { type Args, BuiltinError, refuseWork, text } from '../values/operand.ts'
import {
  isArray,
  jsonKey,
  RegoNumber,
  RegoObject,
  RegoSet,
  toJson,
  type Value,
} from '../values/value.ts'
import { isUnprintable } from './json-text.ts'

const require = createRequire(import.meta.url)
/** Loaded only when a policy uses it, because loading takes 35 ms of CPU per thread. */
const library = (): typeof Library => require('yaml') as typeof Library

const maxLength = 1 << 16

/** Numbers as the library of OPA reads them, which is YAML 1.1: `1_000`, `010` (which is 8), `0x1f`, `0b11`. */
const goNumber: Library.ScalarTag = {
  tag: 'tag:yaml.org,2002:int',
  default: true,
  test: /^[-+]?\.?[0-9][-+._0-9a-zA-Z]*$/,
  resolve: (text) => numberIn(text) ?? text,
}

function numberIn(text: string): bigint | number | undefined {
  const plain = text.replaceAll('_', '')
  const whole = /^([-+]?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)$/.exec(plain)
  if (whole !== null) {
    const value = BigInt(whole[2]!.replace(/^0[oO]?(?=[0-7])/, '0o'))
    return whole[1] === '-' ? -value : value
  }
  if (!/^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$/.test(plain)) return undefined
  const value = Number(plain)
  return Number.isFinite(value) ? value : undefined
}

function documentsOf(source: string): Library.Document[] {
  if (source.length > maxLength) refuseWork(`YAML of more than ${maxLength} characters`)
  if (!source.isWellFormed() || isUnprintable(source))
    throw new BuiltinError('yaml: control characters are not allowed')
  const options = {
    intAsBigInt: true,
    merge: true,
    // If a key appears twice, the last one counts, as in OPA.
    uniqueKeys: false,
    logLevel: 'silent',
    customTags: (tags: Library.Tags) => [goNumber, ...tags],
  } as const
  // Without a line break the library takes an escaped quote at the end for the closing one.
  const whole = source.endsWith('\\"') ? `${source}\n` : source
  const documents = library().parseAllDocuments(whole, options)
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
    return new RegoObject(Array.from(value, ([key, of]) => [textKey(toRego(key)), toRego(of)]))
  }
  if (value instanceof Date) return value.toISOString().replace('.000Z', 'Z')
  throw new BuiltinError('yaml: the value has a type that JSON does not have')
}

function textKey(key: Value): string {
  if (key === null) throw new BuiltinError('yaml: a key without a value')
  return jsonKey(key)
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

function marshal(value: Value): string {
  // OPA makes YAML of JSON, which its library reads as YAML.
  if (isUnprintable(toJson(value)))
    throw new BuiltinError('yaml: control characters are not allowed')
  return library().stringify(toPlain(value), { indentSeq: false, lineWidth: 0 })
}

export const yamlBuiltins: BuiltinTable = {
  'yaml.unmarshal': { load: library, call: unmarshal },
  'yaml.marshal': {
    load: library,
    call: ([value]) => marshal(value!),
  },
  'yaml.is_valid': {
    load: library,
    call: ([value]) => {
      if (typeof value !== 'string') return false
      try {
        unmarshal([value])
        // Documents after the first are checked too, although their values are not used.
        return documentsOf(value).every(({ errors }) => errors.length === 0)
      } catch (error) {
        if (error instanceof BuiltinError) return false
        throw error
      }
    },
  },
}
