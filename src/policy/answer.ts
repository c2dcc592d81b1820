/**
 * Reads the policy's result: a boolean, or the object that OPA's Envoy plugin takes, or AuthZEN's `{"decision": true}`. Only
 * the boolean `true`, or an object whose `allowed` is `true`, allows; `decision` counts where `allowed` is absent. A known field with a wrong type, or a second result, makes the answer
 * unusable, and an unusable answer denies (design law 1). Fields that the plugin does not know are ignored, as the
 * plugin does.
 */
import type { Answer, QueryChange } from '../domain/decision.ts'
import { foldedName, hopByHop, isToken, valueCharacters } from '../domain/http.ts'
import type { Code } from '../errors.ts'

const allowResult = '[{"result":true}]'
const denyResult = '[{"result":false}]'
const undefinedResult = '[]'

type Header = readonly [name: string, value: string]

const none: readonly never[] = []

const allowed = plain(true, 'true')
const denied = plain(false, 'false')
/** The answer when no rule of the policy applied: it denies, like `false`. */
const silent = plain(false, undefined)

/**
 * Cache of parsed answers, since policies give few different objects. It is not a cache of decisions: the key is the
 * text that the policy returned.
 */
const known = new Map<string, Answer>()
const knownMax = 256
const knownLength = 1000

/** Parses a result set. Never throws. */
export function parseAnswer(resultSet: string): Answer {
  if (resultSet === allowResult) return allowed
  if (resultSet === denyResult) return denied
  if (resultSet === undefinedResult) return silent
  const before = known.get(resultSet)
  if (before !== undefined) return before
  const answer = parse(resultSet)
  if (resultSet.length <= knownLength) {
    if (known.size >= knownMax) known.clear()
    known.set(resultSet, answer)
  }
  return answer
}

/** The denial for a policy that gave no usable answer. @param detail For the gate's log. */
export function unusable(
  detail: string,
  resultJson?: string,
  failure: Code = 'ERR_POLICY_FAILED',
): Answer {
  return { ...denied, failure, detail, status: 503, resultJson }
}

function parse(resultSet: string): Answer {
  let resultJson: string | undefined
  try {
    const set: unknown = JSON.parse(resultSet)
    if (!Array.isArray(set) || set.length !== 1) throw new Error('the result set is not one result')
    const { result, ...rest } = set[0] as Record<string, unknown>
    if (Object.keys(rest).length > 0) throw new Error('the result set has bindings')
    resultJson = resultSet.slice('[{"result":'.length, -'}]'.length)
    return ofObject(result, resultJson)
  } catch (error) {
    return unusable((error as Error).message, resultJson)
  }
}

function ofObject(result: unknown, resultJson: string): Answer {
  if (!isObject(result))
    throw new Error(`the result is ${kindOf(result)}, neither a boolean nor an object`)
  const verdict = readVerdict(result)
  const { body, reason } = result
  if (body !== undefined && typeof body !== 'string') throw new Error('body is not a string')
  if (reason !== undefined && typeof reason !== 'string') throw new Error('reason is not a string')
  const { dynamic_metadata: metadata } = result
  if (metadata !== undefined && !isObject(metadata))
    throw new Error('dynamic_metadata is not an object')
  const set = readParameters(result.query_parameters_to_set)
  const remove = readNames(result.query_parameters_to_remove, 'query_parameters_to_remove')
  const query: QueryChange | undefined =
    set.length === 0 && remove.length === 0 ? undefined : { set, remove }
  return {
    allowed: verdict,
    failure: undefined,
    detail: undefined,
    headers: readHeaders(result.headers, 'headers'),
    responseHeaders: readHeaders(result.response_headers_to_add, 'response_headers_to_add'),
    removeHeaders: readNames(result.request_headers_to_remove, 'request_headers_to_remove').map(
      headerName,
    ),
    query,
    metadataJson: metadata === undefined ? undefined : JSON.stringify(metadata),
    body,
    status: result.http_status === undefined ? 403 : readStatus(result.http_status),
    reason,
    resultJson,
  }
}

/** Two verdicts in one object could differ, today or after the next change of the policy: neither counts. */
function readVerdict(result: Record<string, unknown>): boolean {
  const names = ['allowed', 'decision'].filter((name) => Object.hasOwn(result, name))
  const [name] = names
  if (name === undefined) throw new Error('the object has no allowed')
  if (names.length > 1) throw new Error('the object has both allowed and decision')
  const verdict = result[name]
  if (typeof verdict !== 'boolean') throw new Error(`${name} is ${kindOf(verdict)}, not a boolean`)
  return verdict
}

/** What kind of value it is; never the value itself, which may be from a request. */
function kindOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'a list or set'
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The status of a denial. It may be a redirect, but neither a success nor an interim status. */
function readStatus(status: unknown): number {
  if (!Number.isInteger(status) || (status as number) < 300 || (status as number) > 599) {
    throw new Error('http_status is not a status of a denial')
  }
  return status as number
}

/** Headers as the Envoy plugin takes them: an object of strings or lists of strings, or a list of such objects. */
function readHeaders(headers: unknown, field: string): readonly Header[] {
  if (headers === undefined) return none
  const maps = Array.isArray(headers) ? headers : [headers]
  const out: Header[] = []
  for (const map of maps) {
    if (!isObject(map)) throw new Error(`${field} is not an object`)
    for (const [name, value] of Object.entries(map)) {
      for (const one of Array.isArray(value) ? value : [value]) out.push(readHeader(name, one))
    }
  }
  return out
}

function readNames(names: unknown, field: string): readonly string[] {
  if (names === undefined) return none
  if (!Array.isArray(names) || !names.every((name) => typeof name === 'string'))
    throw new Error(`${field} is not a list of strings`)
  return names
}

function readParameters(parameters: unknown): readonly Header[] {
  if (parameters === undefined) return none
  if (!isObject(parameters)) throw new Error('query_parameters_to_set is not an object')
  const out: Header[] = []
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (typeof one !== 'string')
        throw new Error('query_parameters_to_set has a value that is not a string')
      out.push([name, one])
    }
  }
  return out
}

/** Visible ASCII characters. No spaces at the ends, since a reader removes them (RFC 9110 section 5.5). */
const fieldValue = new RegExp(`^(?:[\\x21-\\x7e](?:[${valueCharacters}]*[\\x21-\\x7e])?)?$`)

/** Headers that a policy may neither set nor remove: they frame the message, name the caller or belong to the gate. */
const reserved: ReadonlySet<string> = new Set([
  ...hopByHop,
  'content-length',
  'expect',
  'forwarded',
  'host',
])
const reservedPrefix = /^(?:x-dropgate-|x-forwarded-|proxy-)/

function headerName(name: string): string {
  const lower = name.toLowerCase()
  const folded = foldedName(lower)
  if (!isToken(name) || reserved.has(folded) || reservedPrefix.test(folded)) {
    throw new Error(`the header name ${JSON.stringify(name.slice(0, 60))} is not allowed`)
  }
  return lower
}

function readHeader(name: string, value: unknown): Header {
  const lower = headerName(name)
  if (typeof value !== 'string' || !fieldValue.test(value)) {
    throw new Error(`the value of header ${lower} is not allowed`)
  }
  return [lower, value]
}

function plain(isAllowed: boolean, resultJson: string | undefined): Answer {
  return {
    allowed: isAllowed,
    failure: undefined,
    detail: undefined,
    headers: none,
    responseHeaders: none,
    removeHeaders: none,
    query: undefined,
    metadataJson: undefined,
    body: undefined,
    status: 403,
    reason: undefined,
    resultJson,
  }
}
