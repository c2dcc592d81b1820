/**
 * `json.verify_schema` and `json.match_schema`: JSON Schema with the mix of drafts 4 to 7 that OPA's library accepts,
 * and with its error texts. A schema may come from a request, so references must stay inside it, patterns use RE2
 * syntax, and steps are counted. Unsupported keywords (such as an unlisted format) are refused, never ignored.
 */

import type { BuiltinTable } from '../builtin.ts'
import { matches } from '../go/regex.ts'
import { isMultiple } from '../values/decimal.ts'
import { type Args, BuiltinError, refuseWork } from '../values/operand.ts'
import {
  compare,
  isArray,
  keyOf,
  RegoNumber,
  RegoObject,
  toJson,
  typeName,
  type Value,
} from '../values/value.ts'
import { checkSchema, resolve } from './json-schema-check.ts'
import { formats } from './json-schema-formats.ts'
import { readJson } from './json-text.ts'

interface Failure {
  readonly type: string
  readonly field: string
  readonly description: string
}

const maxSteps = 100_000
const maxDepth = 300

/** Reads a JSON value from a text or from a Rego value. @throws BuiltinError */
function readDocument(value: Value): Value {
  if (typeof value === 'string') return readJson(value, 'invalid JSON string')
  if (value instanceof RegoObject || isArray(value)) return readJson(toJson(value))
  throw new BuiltinError('wrong type, expected string or object')
}

/** Matches one document against one schema, which was checked before. */
class Matching {
  readonly #root: Value
  #steps = 0
  #depth = 0

  constructor(root: Value) {
    this.#root = root
  }

  failures(schema: Value, value: Value, path: readonly string[]): Failure[] {
    // A reference may point to itself, so steps and depth are limited.
    if (++this.#steps > maxSteps || this.#depth > maxDepth)
      refuseWork('json.match_schema needs too many steps')
    this.#depth++
    const failures = this.#failures(schema, value, path)
    this.#depth--
    return failures
  }

  #failures(schema: Value, value: Value, path: readonly string[]): Failure[] {
    const out: Failure[] = []
    const fail = (type: string, description: string): void => {
      out.push({ type, field: path.length === 0 ? '(Root)' : path.join('.'), description })
    }
    if (typeof schema === 'boolean') {
      if (!schema) fail('false', 'False always fails validation')
      return out
    }
    const keywords = schema as RegoObject
    const reference = keywords.get('$ref')
    if (typeof reference === 'string') {
      return this.failures(resolve(this.#root, reference), value, path)
    }
    const wrongType = typeMismatch(keywords.get('type'), value)
    if (wrongType !== undefined) {
      fail('invalid_type', wrongType)
      return out
    }
    out.push(...this.#combined(keywords, value, path, fail))
    if (value instanceof RegoObject) out.push(...this.#object(keywords, value, path, fail))
    if (isArray(value)) out.push(...this.#array(keywords, value, path, fail))
    common(keywords, value, path, fail)
    if (typeof value === 'string') ofText(keywords, value, fail)
    if (value instanceof RegoNumber) ofNumber(keywords, value, fail)
    return out
  }

  #combined(
    keywords: RegoObject,
    value: Value,
    path: readonly string[],
    fail: (type: string, description: string) => void,
  ): Failure[] {
    const out: Failure[] = []
    const each = (name: string): Failure[][] =>
      listOf(keywords, name).map((schema) => this.failures(schema, value, path))
    const any = each('anyOf')
    if (any.length > 0 && any.every((failures) => failures.length > 0)) {
      fail('number_any_of', 'Must validate at least one schema (anyOf)')
      out.push(...any[0]!)
    }
    const one = each('oneOf')
    const valid = one.filter((failures) => failures.length === 0).length
    if (one.length > 0 && valid !== 1) {
      fail('number_one_of', 'Must validate one and only one schema (oneOf)')
      if (valid === 0) out.push(...one[0]!)
    }
    const all = each('allOf').flat()
    out.push(...all)
    if (all.length > 0) fail('number_all_of', 'Must validate all the schemas (allOf)')
    const not = keywords.get('not')
    if (not !== undefined && this.failures(not, value, path).length === 0) {
      fail('number_not', 'Must not validate the schema (not)')
    }
    out.push(...this.#dependencies(keywords, value, path, fail))
    const condition = keywords.get('if')
    if (condition !== undefined) {
      const holds = this.failures(condition, value, path).length === 0
      const branch = keywords.get(holds ? 'then' : 'else')
      const failures = branch === undefined ? [] : this.failures(branch, value, path)
      if (failures.length > 0) {
        if (holds) fail('condition_then', 'Must validate "then" as "if" was valid')
        else fail('condition_else', 'Must validate "else" as "if" was not valid')
        out.push(...failures)
      }
    }
    return out
  }

  #dependencies(
    keywords: RegoObject,
    value: Value,
    path: readonly string[],
    fail: (type: string, description: string) => void,
  ): Failure[] {
    const dependencies = keywords.get('dependencies')
    if (!(dependencies instanceof RegoObject) || !(value instanceof RegoObject)) return []
    const out: Failure[] = []
    for (const [key] of value) {
      const dependency = dependencies.get(key)
      if (dependency === undefined) continue
      if (!isArray(dependency)) out.push(...this.failures(dependency, value, path))
      else {
        for (const name of dependency) {
          if (!value.has(name)) fail('missing_dependency', `Has a dependency on ${String(name)}`)
        }
      }
    }
    return out
  }

  #object(
    keywords: RegoObject,
    value: RegoObject,
    path: readonly string[],
    fail: (type: string, description: string) => void,
  ): Failure[] {
    const out: Failure[] = []
    const [least, most] = [numberOf(keywords, 'minProperties'), numberOf(keywords, 'maxProperties')]
    if (least !== undefined && value.size < least)
      fail('array_min_properties', `Must have at least ${least} properties`)
    if (most !== undefined && value.size > most)
      fail('array_max_properties', `Must have at most ${most} properties`)
    for (const name of listOf(keywords, 'required')) {
      if (!value.has(name)) fail('required', `${String(name)} is required`)
    }
    const properties = objectOf(keywords, 'properties')
    const patterns = objectOf(keywords, 'patternProperties').sorted()
    const additional = keywords.get('additionalProperties')
    const names = keywords.get('propertyNames')
    for (const [key, of] of value.sorted()) {
      const name = key as string
      const inner = [...path, name]
      const known = properties.get(key)
      const applied = patterns
        .filter(([pattern]) => matches(pattern as string, name))
        .map(([, schema]) => schema)
      if (known === undefined && applied.length === 0 && additional !== undefined) {
        if (additional === false)
          fail('additional_property_not_allowed', `Additional property ${name} is not allowed`)
        else applied.push(additional)
      }
      for (const schema of applied) out.push(...this.failures(schema, of, inner))
      if (names !== undefined) {
        const failures = this.failures(names, key, path)
        if (failures.length > 0)
          fail('invalid_property_name', `Property name of "${name}" does not match`)
        out.push(...failures)
      }
      if (known !== undefined) out.push(...this.failures(known, of, inner))
    }
    return out
  }

  #array(
    keywords: RegoObject,
    value: readonly Value[],
    path: readonly string[],
    fail: (type: string, description: string) => void,
  ): Failure[] {
    const out: Failure[] = []
    const items = keywords.get('items')
    const additional = keywords.get('additionalItems')
    for (const [i, item] of value.entries()) {
      const schema = items === undefined || !isArray(items) ? items : (items[i] ?? additional)
      if (schema === undefined) continue
      if (schema === false && isArray(items!) && i >= items.length) {
        fail('array_no_additional_items', 'No additional items allowed on array')
        break
      }
      out.push(...this.failures(schema, item, [...path, String(i)]))
    }
    const [least, most] = [numberOf(keywords, 'minItems'), numberOf(keywords, 'maxItems')]
    if (least !== undefined && value.length < least)
      fail('array_min_items', `Array must have at least ${least} items`)
    if (most !== undefined && value.length > most)
      fail('array_max_items', `Array must have at most ${most} items`)
    if (keywords.get('uniqueItems') === true) {
      const seen = new Map<string, number>()
      for (const [i, item] of value.entries()) {
        const first = seen.get(keyOf(item))
        if (first !== undefined) fail('unique', `array items[${first},${i}] must be unique`)
        seen.set(keyOf(item), i)
      }
    }
    const contains = keywords.get('contains')
    if (contains !== undefined) {
      const tried = value.map((item, i) => this.failures(contains, item, [...path, String(i)]))
      if (tried.every((failures) => failures.length > 0)) {
        fail('contains', 'At least one of the items must match')
        out.push(...(tried[0] ?? []))
      }
    }
    return out
  }
}

function listOf(keywords: RegoObject, name: string): readonly Value[] {
  return (keywords.get(name) ?? []) as readonly Value[]
}

function objectOf(keywords: RegoObject, name: string): RegoObject {
  return (keywords.get(name) ?? new RegoObject()) as RegoObject
}

function numberOf(keywords: RegoObject, name: string): number | undefined {
  const value = keywords.get(name)
  return value instanceof RegoNumber ? Number(value.text) : undefined
}

function typeMismatch(type: Value | undefined, value: Value): string | undefined {
  if (type === undefined) return undefined
  const expected = isArray(type) ? type : [type]
  const isWhole = value instanceof RegoNumber && value.isInteger
  const given = isWhole ? 'integer' : typeName(value)
  if (expected.includes(given) || (isWhole && expected.includes('number'))) return undefined
  const text = expected.length > 1 ? `[${expected.join(',')}]` : String(expected[0])
  return `Invalid type. Expected: ${text}, given: ${given}`
}

function common(
  keywords: RegoObject,
  value: Value,
  path: readonly string[],
  fail: (type: string, description: string) => void,
): void {
  const field = path.length === 0 ? '(Root)' : path.join('.')
  const constant = keywords.get('const')
  if (constant !== undefined && compare(constant, value) !== 0)
    fail('const', `${field} does not match: ${toJson(constant)}`)
  const allowed = keywords.get('enum')
  if (
    allowed !== undefined &&
    !listOf(keywords, 'enum').some((each) => compare(each, value) === 0)
  ) {
    const texts = listOf(keywords, 'enum')
      .map((each) => toJson(each))
      .join(', ')
    fail('enum', `${field} must be one of the following: ${texts}`)
  }
  const format = keywords.get('format')
  if (typeof format === 'string' && typeof value === 'string' && !formats[format]!(value))
    fail('format', `Does not match format '${format}'`)
}

function ofText(
  keywords: RegoObject,
  value: string,
  fail: (type: string, description: string) => void,
): void {
  const length = [...value].length
  const [least, most] = [numberOf(keywords, 'minLength'), numberOf(keywords, 'maxLength')]
  if (least !== undefined && length < least)
    fail('string_gte', `String length must be greater than or equal to ${least}`)
  if (most !== undefined && length > most)
    fail('string_lte', `String length must be less than or equal to ${most}`)
  const pattern = keywords.get('pattern')
  if (typeof pattern === 'string' && !matches(pattern, value))
    fail('pattern', `Does not match pattern '${pattern}'`)
}

function ofNumber(
  keywords: RegoObject,
  value: RegoNumber,
  fail: (type: string, description: string) => void,
): void {
  const multiple = keywords.get('multipleOf')
  if (multiple instanceof RegoNumber) {
    const is = isMultiple(value.decimal, multiple.decimal)
    if (is === undefined) refuseWork('multipleOf with a number that has too many digits')
    if (!is) fail('multiple_of', `Must be a multiple of ${multiple.text}`)
  }
  bound(keywords, 'minimum', 'exclusiveMinimum', (limit, exclusive) => {
    const by = compare(value, limit)
    if (exclusive && by <= 0) fail('number_gt', `Must be greater than ${limit.text}`)
    if (!exclusive && by < 0) fail('number_gte', `Must be greater than or equal to ${limit.text}`)
  })
  bound(keywords, 'maximum', 'exclusiveMaximum', (limit, exclusive) => {
    const by = compare(value, limit)
    if (exclusive && by >= 0) fail('number_lt', `Must be less than ${limit.text}`)
    if (!exclusive && by > 0) fail('number_lte', `Must be less than or equal to ${limit.text}`)
  })
}

/** Draft 4 marks a limit as exclusive by a boolean; later drafts use a keyword of its own. */
function bound(
  keywords: RegoObject,
  name: string,
  exclusiveName: string,
  each: (limit: RegoNumber, exclusive: boolean) => void,
): void {
  const [limit, exclusive] = [keywords.get(name), keywords.get(exclusiveName)]
  if (limit instanceof RegoNumber) each(limit, exclusive === true)
  if (exclusive instanceof RegoNumber) each(exclusive, true)
}

function matchSchema(args: Args): Value {
  const [document, schema] = [readDocument(args[0]!), readDocument(args[1]!)]
  checkSchema(schema)
  const failures = new Matching(schema).failures(schema, document, [])
  const described = failures.map(
    ({ type, field, description }) =>
      new RegoObject([
        ['error', `${field}: ${description}`],
        ['type', type],
        ['field', field],
        ['desc', description],
      ]),
  )
  return [failures.length === 0, described]
}

function verifySchema(args: Args): Value {
  try {
    checkSchema(readDocument(args[0]!))
    return [true, null]
  } catch (error) {
    if (error instanceof BuiltinError) return [false, `jsonschema: ${error.message}`]
    throw error
  }
}

export const jsonSchemaBuiltins: BuiltinTable = {
  'json.match_schema': { call: matchSchema },
  'json.verify_schema': { call: verifySchema },
}
