/**
 * Checks that a JSON value is a valid schema: each keyword has the right type, patterns compile, references resolve.
 */

import { matches } from '../go/regex.ts'
import { toBigInt } from '../values/decimal.ts'
import { BuiltinError, refuseWork } from '../values/operand.ts'
import { isArray, keyOf, RegoNumber, RegoObject, type Value } from '../values/value.ts'
import { isKnownFormat } from './json-schema-formats.ts'

const types = ['array', 'boolean', 'integer', 'number', 'null', 'object', 'string']
const schemas = [
  'not',
  'if',
  'then',
  'else',
  'contains',
  'propertyNames',
  'additionalItems',
  'additionalProperties',
]
const lists = ['oneOf', 'anyOf', 'allOf']
const maps = ['properties', 'patternProperties', 'definitions']
const counts = ['minLength', 'maxLength', 'minItems', 'maxItems', 'minProperties', 'maxProperties']
const numbers = ['minimum', 'maximum', 'multipleOf']

const maxSchemas = 10_000

/** @throws BuiltinError */
export function checkSchema(root: Value): void {
  const open: Value[] = [root]
  const seen = new Set<Value>()
  for (let schema = open.pop(); schema !== undefined; schema = open.pop()) {
    if (typeof schema === 'boolean' || seen.has(schema)) continue
    if (!(schema instanceof RegoObject)) {
      throw new BuiltinError(
        schema === root ? 'schema is invalid' : 'Expected: valid schema, given: Invalid JSON',
      )
    }
    seen.add(schema)
    if (seen.size > maxSchemas) refuseWork('the JSON Schema has too many parts')
    open.push(...checkKeywords(schema, root))
  }
}

/** Finds the value that a reference within the schema points at. @throws BuiltinError */
export function resolve(root: Value, reference: string): Value {
  if (!reference.startsWith('#')) {
    throw new BuiltinError(`the reference ${reference.slice(0, 100)} leaves the schema`)
  }
  let value = root
  for (const part of reference.slice(1).split('/').slice(1)) {
    const name = decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~')
    const next: Value | undefined =
      value instanceof RegoObject
        ? value.get(name)
        : isArray(value)
          ? value[Number(name)]
          : undefined
    if (next === undefined) throw new BuiltinError('the reference points at nothing')
    value = next
  }
  return value
}

function invalid(given: string, expected: string): BuiltinError {
  return new BuiltinError(`Invalid type. Expected: ${expected}, given: ${given}`)
}

/** Checks the keywords of one schema. @returns The schemas inside it. */
function checkKeywords(schema: RegoObject, root: Value): Value[] {
  const within: Value[] = []
  const reference = schema.get('$ref')
  if (reference !== undefined) {
    if (typeof reference !== 'string') throw invalid('$ref', 'string')
    return [...innerMaps(schema, ['definitions']), resolve(root, reference)]
  }
  checkType(schema.get('type'))
  for (const name of schemas) if (schema.has(name)) within.push(schema.get(name)!)
  for (const name of lists) within.push(...list(schema, name))
  within.push(...innerMaps(schema, maps))
  const items = schema.get('items')
  if (items !== undefined) within.push(...(isArray(items) ? items : [items]))
  within.push(...checkDependencies(schema))
  checkLimits(schema)
  checkTexts(schema)
  return within
}

function checkType(type: Value | undefined): void {
  if (type === undefined) return
  const named = isArray(type) ? type : [type]
  for (const each of named) {
    if (typeof each !== 'string') throw invalid('type', 'string/array of strings')
    if (!types.includes(each)) {
      throw new BuiltinError(
        `has a primitive type that is NOT VALID -- given: /${each}/ Expected valid values are:[${types.join(' ')}]`,
      )
    }
  }
  if (new Set(named).size !== named.length) throw new BuiltinError('a type is duplicated')
}

function list(schema: RegoObject, name: string): readonly Value[] {
  const value = schema.get(name) ?? []
  if (!isArray(value)) throw invalid(name, 'array')
  return value
}

function innerMaps(schema: RegoObject, names: readonly string[]): Value[] {
  return names.flatMap((name) => {
    const value = schema.get(name)
    if (value === undefined) return []
    if (!(value instanceof RegoObject)) throw new BuiltinError(`${name} must be of type object`)
    // `matches` throws if the pattern does not compile.
    if (name === 'patternProperties') for (const [key] of value) matches(key as string, '')
    return Array.from(value, ([, inner]) => inner)
  })
}

function checkDependencies(schema: RegoObject): Value[] {
  const dependencies = schema.get('dependencies')
  if (dependencies === undefined) return []
  if (!(dependencies instanceof RegoObject))
    throw new BuiltinError('dependencies must be of type object')
  return Array.from(dependencies, ([, of]) => of).filter((of) => {
    if (!isArray(of)) return true
    if (!of.every((name) => typeof name === 'string')) throw invalid('dependency', 'strings')
    return false
  })
}

function checkLimits(schema: RegoObject): void {
  for (const name of numbers) {
    const value = schema.get(name)
    if (value !== undefined && !(value instanceof RegoNumber)) throw invalid(name, 'number')
  }
  const multiple = schema.get('multipleOf') as RegoNumber | undefined
  if (multiple !== undefined && (multiple.decimal.negative || multiple.decimal.digits === '0')) {
    throw new BuiltinError('multipleOf must be strictly greater than 0')
  }
  for (const name of counts) {
    const value = schema.get(name)
    if (value === undefined) continue
    const whole = value instanceof RegoNumber ? toBigInt(value.decimal) : undefined
    if (whole === undefined) throw new BuiltinError(`${name} must be of an integer`)
    if (whole < 0n) throw new BuiltinError(`${name} must be greater than or equal to 0`)
  }
  for (const [name, limit] of [
    ['exclusiveMinimum', 'minimum'],
    ['exclusiveMaximum', 'maximum'],
  ]) {
    const value = schema.get(name!)
    if (value === undefined || value instanceof RegoNumber) continue
    if (typeof value !== 'boolean') throw invalid(name!, 'boolean/number')
    if (!schema.has(limit!)) throw new BuiltinError(`${name} cannot be used without ${limit}`)
  }
}

function checkTexts(schema: RegoObject): void {
  for (const name of ['title', 'description', 'pattern', 'format', '$id', 'id']) {
    const value = schema.get(name)
    if (value !== undefined && typeof value !== 'string') throw invalid(name, 'string')
  }
  const pattern = schema.get('pattern')
  if (typeof pattern === 'string') matches(pattern, '')
  const format = schema.get('format')
  if (typeof format === 'string' && !isKnownFormat(format)) {
    refuseWork(`the format ${format.slice(0, 60)} is not supported in a JSON Schema`)
  }
  const required = list(schema, 'required')
  if (!required.every((name) => typeof name === 'string')) throw invalid('required', 'string')
  for (const name of ['required', 'enum']) {
    const keys = list(schema, name).map(keyOf)
    if (new Set(keys).size !== keys.length) throw new BuiltinError(`${name} items must be unique`)
  }
  const unique = schema.get('uniqueItems')
  if (unique !== undefined && typeof unique !== 'boolean') throw invalid('uniqueItems', 'boolean')
}
