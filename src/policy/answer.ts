/**
 * The policy's result set -> Answer. Only a boolean `true`, or an object whose `allowed` is `true`, allows; a
 * wrong type anywhere, a field of a later release, a second result: no usable answer, which denies (design law 1).
 */
import type { Answer } from '../domain/decision.ts'

const allowResult = '[{"result":true}]'
const denyResult = '[{"result":false}]'
const undefinedResult = '[]'

type Header = readonly [name: string, value: string]

const allowed = plain(true, 'true')
const denied = plain(false, 'false')
/** Undefined is the policy's silence: a deny like any other. */
const silent = plain(false, undefined)

/** Never throws. */
export function readAnswer(resultSet: string): Answer {
  if (resultSet === allowResult) return allowed
  if (resultSet === denyResult) return denied
  if (resultSet === undefinedResult) return silent
  try {
    return parse(resultSet)
  } catch (error) {
    return unusable((error as Error).message)
  }
}

/** An answer that denies because there is none to be had. @param detail For the gate's log. */
export function unusable(detail: string, resultJson?: string): Answer {
  return { ...denied, failure: 'ERR_POLICY_FAILED', detail, status: 503, resultJson }
}

function parse(resultSet: string): Answer {
  const set: unknown = JSON.parse(resultSet)
  if (!Array.isArray(set) || set.length !== 1) throw new Error('the result set is not one result')
  const { result, ...rest } = set[0] as Record<string, unknown>
  if (Object.keys(rest).length > 0) throw new Error('the result set has bindings')
  const resultJson = resultSet.slice('[{"result":'.length, -'}]'.length)
  try {
    return ofObject(result, resultJson)
  } catch (error) {
    return unusable((error as Error).message, resultJson)
  }
}

function ofObject(result: unknown, resultJson: string): Answer {
  if (typeof result !== 'object' || result === null || Array.isArray(result)) {
    throw new Error('the result is neither a boolean nor an object')
  }
  const {
    allowed: verdict,
    headers,
    body,
    http_status,
    reason,
    ...rest
  } = result as Record<string, unknown>
  const unknown = Object.keys(rest)[0]
  if (unknown !== undefined)
    throw new Error(`the field ${JSON.stringify(unknown.slice(0, 60))} is not supported`)
  if (typeof verdict !== 'boolean') throw new Error('allowed is not a boolean')
  if (body !== undefined && typeof body !== 'string') throw new Error('body is not a string')
  if (reason !== undefined && typeof reason !== 'string') throw new Error('reason is not a string')
  return {
    allowed: verdict,
    failure: undefined,
    detail: undefined,
    headers: headers === undefined ? [] : readHeaders(headers),
    body,
    status: http_status === undefined ? 403 : readStatus(http_status),
    reason,
    resultJson,
  }
}

function readStatus(status: unknown): number {
  if (!Number.isInteger(status) || (status as number) < 400 || (status as number) > 599) {
    throw new Error('http_status is not an error status')
  }
  return status as number
}

/** An object of strings or lists of strings, or a list of such objects, as the Envoy plugin takes them. */
function readHeaders(headers: unknown): Header[] {
  const maps = Array.isArray(headers) ? headers : [headers]
  const out: Header[] = []
  for (const map of maps) {
    if (typeof map !== 'object' || map === null || Array.isArray(map))
      throw new Error('headers is not an object')
    for (const [name, value] of Object.entries(map)) {
      for (const one of Array.isArray(value) ? value : [value]) out.push(readHeader(name, one))
    }
  }
  return out
}

const token = /^[!#$%&'*+\-^`|~0-9A-Za-z]+$/
const fieldValue = /^[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?$|^$/

/** Names that frame the message, name the caller or belong to the gate: never a policy's to set. */
const reserved =
  /^(?:x-dropgate-.*|x-forwarded-.*|forwarded|host|content-length|transfer-encoding|connection|te|trailer|upgrade|expect|keep-alive|proxy-.*)$/

function readHeader(name: string, value: unknown): Header {
  const lower = name.toLowerCase()
  if (!token.test(name) || reserved.test(lower.replace(/[_. ]/g, '-'))) {
    throw new Error(`the header name ${JSON.stringify(name.slice(0, 60))} is not allowed`)
  }
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
    headers: [],
    body: undefined,
    status: 403,
    reason: undefined,
    resultJson,
  }
}
