/**
 * Builds the `input` of a policy (docs/policies.md) from one exchange, as JSON text. It is concatenated, since the
 * module and the decision log both take text; only strings are serialised. The policy gets the parts that it reads
 * (input-usage.ts). The log gets these too, and always: the peer, method, path, host and headers, the caller and the
 * age of the feed, without secrets and bodies.
 */

import { encodedName, encodedValue, formDecode } from '../domain/form.ts'
import { quote, quoteBytes, textOfBytes } from '../domain/json.ts'
import { contentOf } from '../domain/principal.ts'
import { hideInAddress, isSecretHeader, isSecretParameter } from '../domain/secrets.ts'
import { inputUsageOf, type UsedField } from './input-usage.ts'

/** The request and its caller; they are the same each time the request is decided. */
export interface InputParts {
  readonly requestId: string
  readonly method: string
  /** The canonical target with its query. */
  readonly path: string
  readonly host: string
  readonly scheme: string
  readonly protocol: string
  /** Flat list of names and values; names in lower case, in the order received. */
  readonly headers: readonly string[]
  /** Size of the body in bytes, −1 when not known beforehand. */
  readonly size: number
  /** True when the request has a body that the policy does not get. */
  readonly bodyWithheld: boolean
  readonly sourceAddress: string
  readonly sourcePort: number
  readonly destinationAddress: string
  readonly destinationPort: number
  /** Segments of the path, percent-decoded once. */
  readonly parsedPath: readonly string[]
  readonly query: string | null
  /** The canonical target that goes to the upstream, with its query; `path` when the route does not change it. */
  readonly sentTarget?: string | undefined
  /** `{"name":…,"labels":…}` and the labels alone, serialised once for each route. */
  readonly routeJson: string
  readonly labelsJson: string
  /** The caller's claims, serialised once for each token. */
  readonly principal: { readonly json: string } | undefined
}

export interface BodyTexts {
  /** The body as a JSON string. */
  readonly quoted: string
  /** The body's content, as JSON text. */
  readonly parsed: string
}

/** The part of the input that may differ when the same request is decided again. */
export interface InputState {
  readonly timeRfc3339: string
  /** Undefined when the body was not collected, or the policy does not read it. */
  readonly body: BodyTexts | undefined
  readonly feedStale: boolean
  readonly feedAgeMs: number
}

export interface PolicyInput {
  /** The input for the policy. */
  readonly text: string
  /** The input for the decision log: no credentials, no bodies. */
  readonly logged: string
  /** JSON pointers of the members that were removed from `logged`. */
  readonly erased: readonly string[]
  /** JSON pointers of the members that are hidden in part. */
  readonly masked: readonly string[]
}

/** Which headers the policy reads: all of them, or those in the set. */
type Names = 'all' | ReadonlySet<string>

/** The parts of the input that a policy reads, in the form that `buildInput` needs. Made once for each policy. */
export class InputPlan {
  readonly headers: Names
  readonly headerValues: Names
  readonly source: boolean
  readonly destination: boolean
  readonly http: ReadonlySet<string>
  readonly time: boolean
  readonly labels: boolean
  readonly top: ReadonlySet<string>
  readonly #principal: UsedField | undefined
  /** Texts by principal, since one token is used for many requests. */
  readonly #principals = new WeakMap<object, PrincipalTexts>()

  constructor(usage: UsedField) {
    const read = (...path: readonly string[]): boolean => inputUsageOf(usage, ...path) !== undefined
    this.headers = namesOf(inputUsageOf(usage, 'attributes', 'request', 'http', 'headers'))
    this.headerValues = namesOf(inputUsageOf(usage, 'header_values'))
    this.source = read('attributes', 'source')
    this.destination = read('attributes', 'destination')
    this.time = read('attributes', 'request', 'time')
    this.http = new Set(httpFields.filter((name) => read('attributes', 'request', 'http', name)))
    this.labels = read('attributes', 'contextExtensions')
    this.top = new Set(topFields.filter((name) => read(name)))
    this.#principal = inputUsageOf(usage, 'principal')
  }

  /** True when the policy reads the body, so it must be collected. */
  get readsBody(): boolean {
    return this.http.has('body') || this.top.has('parsed_body')
  }

  textsOf(principal: { readonly json: string }): PrincipalTexts {
    let texts = this.#principals.get(principal)
    if (texts === undefined) {
      texts = this.#project(principal)
      this.#principals.set(principal, texts)
    }
    return texts
  }

  #project(from: { readonly json: string }): PrincipalTexts {
    const fields = this.#principal
    if (fields?.whole) return { read: from.json, logged: from.json }
    const principal = contentOf(from)
    const claims = fields?.fields.get('claims')
    const logged = {
      ...principal,
      claims: claims === undefined ? undefined : project(principal.claims, claims),
    }
    return {
      read: fields === undefined ? '{}' : JSON.stringify(project(principal, fields)),
      logged: JSON.stringify(logged),
    }
  }
}

interface PrincipalTexts {
  readonly read: string
  /** The principal with all its fields, but only the claims that the policy reads. */
  readonly logged: string
}

const httpFields = ['id', 'method', 'path', 'host', 'scheme', 'protocol', 'size', 'body'] as const
const topFields = [
  'parsed_path',
  'parsed_query',
  'parsed_body',
  'sent_target',
  'truncated_body',
  'version',
  'route',
  'grants',
  'feed',
  'principal',
] as const

function namesOf(field: UsedField | undefined): Names {
  if (field?.whole) return 'all'
  return new Set(field?.fields.keys())
}

function project(value: unknown, { whole, fields }: UsedField): unknown {
  if (whole || typeof value !== 'object' || value === null) return value
  // The policy steps into a list by numbers, which are not field names: keep the whole list.
  if (Array.isArray(value) || JSON.isRawJSON(value)) return value
  const out = Object.create(null) as Record<string, unknown>
  for (const [name, field] of fields) {
    if (Object.hasOwn(value, name)) {
      out[name] = project((value as Record<string, unknown>)[name], field)
    }
  }
  return out
}

/** Most characters that are logged of a target that could not be parsed. */
const maxAskedPath = 2048
const none: readonly string[] = []
const pathPointers: readonly string[] = ['/input/attributes/request/http/path']
const bothPointers: readonly string[] = [...pathPointers, '/input/sent_target']
const bodyPointers = ['/input/attributes/request/http/body', '/input/parsed_body']

export function buildInput(parts: InputParts, state: InputState, plan: InputPlan): PolicyInput {
  const { http, top } = plan
  const { body } = state
  const headers = readHeaderTexts(parts.headers, plan)
  const method = `"method":${quote(parts.method)},`
  const path = `"path":${quote(parts.path)},`
  const host = `"host":${quote(parts.host)},`
  const scheme = `"scheme":"${parts.scheme}",`
  const protocol = `"protocol":"${parts.protocol}",`

  const source = `"source":${addressJson(parts.sourceAddress, parts.sourcePort)},`
  const feed = `,"feed":{"stale":${state.feedStale},"age_ms":${state.feedAgeMs}}`

  let before = ''
  if (plan.destination)
    before += `"destination":${addressJson(parts.destinationAddress, parts.destinationPort)},`
  if (plan.labels) before += `"contextExtensions":${parts.labelsJson},`
  before += plan.time ? `"request":{"time":"${state.timeRfc3339}","http":{` : '"request":{"http":{'
  if (http.has('id')) before += `"id":"${parts.requestId}",`
  if (http.has('size')) before += `"size":${parts.size},`

  const parsedPath = `,"parsed_path":${list(parts.parsedPath)}`
  const query = readQueryTexts(parts.query)
  let after = ''
  if (top.has('truncated_body')) after += `,"truncated_body":${parts.bodyWithheld}`
  if (top.has('version')) after += ',"version":{"encoding":"protojson","ext_authz":"v3"}'
  if (top.has('route')) after += `,"route":${parts.routeJson}`
  if (top.has('grants')) after += ',"grants":[]'

  const principal = parts.principal === undefined ? undefined : plan.textsOf(parts.principal)
  let text = plan.source ? `{"attributes":{${source}${before}` : `{"attributes":{${before}`
  if (http.has('method')) text += method
  if (http.has('path')) text += path
  if (http.has('host')) text += host
  if (http.has('scheme')) text += scheme
  if (http.has('protocol')) text += protocol
  if (http.has('body')) text += `"body":${body?.quoted ?? '""'},`
  text += `"headers":{${headers.read}}}}},"header_values":{${headers.readValues}}${after}`
  if (top.has('parsed_path')) text += parsedPath
  if (top.has('parsed_query')) text += `,"parsed_query":${query.read}`
  if (top.has('feed')) text += feed
  if (top.has('parsed_body')) text += `,"parsed_body":${body?.parsed ?? 'null'}`
  if (top.has('principal') && principal !== undefined) text += `,"principal":${principal.read}`
  // On a route that changes no path, both targets are the same: a rule about one that were absent could not deny.
  const { path: asked, sentTarget = asked } = parts
  const showsSent = top.has('sent_target')
  if (showsSent) text += `,"sent_target":${quote(sentTarget)}`
  text += '}'

  const both = showsSent || sentTarget !== asked
  const pointers = both ? bothPointers : pathPointers
  const masked = query.erased.length === 0 ? none : pointers
  const shown = masked === none ? path : `"path":${quote(hideInAddress(parts.path))},`
  let logged = `{"attributes":{${source}${before}${method}${shown}${host}${scheme}${protocol}"headers":{${headers.open}}}}}`
  if (headers.openValues !== '') logged += `,"header_values":{${headers.openValues}}`
  logged += `${after}${parsedPath},"parsed_query":${query.logged}${feed}`
  if (both) logged += `,"sent_target":${quote(hideInAddress(sentTarget))}`
  logged += principal === undefined ? '}' : `,"principal":${principal.logged}}`
  let { erased } = headers
  if (body !== undefined) erased = [...erased, ...bodyPointers]
  if (masked !== none) erased = [...erased, ...query.erased.map(queryPointer)]
  return { text, logged, erased, masked }
}

/** The input for the log of a request that was refused before any evaluation, in the same fields as `input`. */
export function askedInput(asked: {
  readonly method: string
  /** The target as it came when it could not be parsed. */
  readonly path: string
  readonly host: string | undefined
  readonly address: string | undefined
  readonly port: number | undefined
}): Pick<PolicyInput, 'logged' | 'erased' | 'masked'> {
  const { method, host, address, port = 0 } = asked
  const path = asked.path.slice(0, maxAskedPath)
  const shown = hideInAddress(path)
  const source = address === undefined ? '' : `"source":${addressJson(address, port)},`
  const at = host === undefined ? '' : `,"host":${quote(host)}`
  const http = `"method":${quote(method)},"path":${quote(shown)}${at}`
  return {
    logged: `{"attributes":{${source}"request":{"http":{${http}}}}}`,
    erased: none,
    masked: shown === path ? none : pathPointers,
  }
}

/** JSON pointer of a query parameter (RFC 6901 section 3). */
function queryPointer(name: string): string {
  return `/input/parsed_query/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`
}

function addressJson(address: string, port: number): string {
  return `{"address":{"socketAddress":{"address":${quote(address)},"portValue":${port}}}}`
}

interface HeaderTexts {
  /** Members of `headers` that may be logged; of `header_values` those that the policy reads. */
  open: string
  openValues: string
  /** Members that the policy reads. */
  read: string
  readValues: string
  erased: readonly string[]
}

function readHeaderTexts(flat: readonly string[], plan: InputPlan): HeaderTexts {
  const texts: HeaderTexts = { open: '', openValues: '', read: '', readValues: '', erased: none }
  for (let i = 0; i < flat.length; i += 2) {
    const name = flat[i]!
    if (appearsBefore(flat, i)) continue
    const secret = isSecret(flat, i)
    const read = wants(plan.headers, name)
    const valuesRead = wants(plan.headerValues, name)
    if (secret) {
      texts.erased = erasing(texts.erased, name, valuesRead)
      if (!read && !valuesRead) continue
    }
    const value = flat[i + 1]!
    let joined: string | undefined
    let values = quoteBytes(value)
    for (let k = i + 2; k < flat.length; k += 2) {
      if (flat[k] !== name) continue
      // Repeated cookie headers are joined by "; " (RFC 9113 section 8.2.3), lists by ", " (RFC 9110 section 5.3).
      const more = flat[k + 1]!
      joined = `${joined ?? textOfBytes(value)}${name === 'cookie' ? '; ' : ', '}${textOfBytes(more)}`
      values += `,${quoteBytes(more)}`
    }
    const key = quote(name)
    const member = `${key}:${joined === undefined ? values : quote(joined)}`
    if (!secret) texts.open = joinTexts(texts.open, member)
    if (read) texts.read = joinTexts(texts.read, member)
    if (!valuesRead) continue
    const valuesMember = `${key}:[${values}]`
    if (!secret) texts.openValues = joinTexts(texts.openValues, valuesMember)
    texts.readValues = joinTexts(texts.readValues, valuesMember)
  }
  return texts
}

/** True when one of the values of a repeated header is secret. */
function isSecret(flat: readonly string[], at: number): boolean {
  const name = flat[at]!
  for (let k = at; k < flat.length; k += 2)
    if (flat[k] === name && isSecretHeader(name, flat[k + 1]!)) return true
  return false
}

const headersPointer = '/input/attributes/request/http/headers/'
/** The list for most requests; it is shared, so that its text is made once. */
const usuallyErased: readonly string[] = [`${headersPointer}authorization`]

function erasing(erased: readonly string[], name: string, inValues: boolean): readonly string[] {
  if (erased === none && name === 'authorization' && !inValues) return usuallyErased
  const more = [...erased, headersPointer + name]
  if (inValues) more.push(`/input/header_values/${name}`)
  return more
}

function wants(names: Names, name: string): boolean {
  return names === 'all' || names.has(name)
}

function appearsBefore(flat: readonly string[], at: number): boolean {
  for (let k = 0; k < at; k += 2) if (flat[k] === flat[at]) return true
  return false
}

function joinTexts(a: string, b: string): string {
  return a === '' ? b : b === '' ? a : `${a},${b}`
}

function list(items: readonly string[]): string {
  let out = ''
  for (const item of items) out = joinTexts(out, quote(item))
  return `[${out}]`
}

interface QueryTexts {
  readonly read: string
  readonly logged: string
  /** Names of the parameters that were removed from `logged`. */
  readonly erased: readonly string[]
}

const noQuery: QueryTexts = { read: '{}', logged: '{}', erased: none }

/** Query parameters as `{name: [values]}`, form-decoded, in order of first appearance. */
function readQueryTexts(query: string | null): QueryTexts {
  if (query === null || query === '') return noQuery
  const values = new Map<string, string>()
  for (const pair of query.split('&')) {
    if (pair === '') continue
    const name = formDecode(encodedName(pair))
    const value = quote(formDecode(encodedValue(pair)))
    const known = values.get(name)
    values.set(name, known === undefined ? value : `${known},${value}`)
  }
  let read = ''
  let logged = ''
  const erased: string[] = []
  for (const [name, texts] of values) {
    const member = `${quote(name)}:[${texts}]`
    read = joinTexts(read, member)
    if (isSecretParameter(name)) erased.push(name)
    else logged = joinTexts(logged, member)
  }
  return { read: `{${read}}`, logged: `{${logged}}`, erased }
}
