/**
 * The Rego contract (design section 7): one exchange -> `input` as JSON text. Built by concatenation, since text is
 * what the module takes and what the decision log writes; only strings are ever serialised. The policy gets what
 * it reads (reads.ts); the log gets everything but secrets and bodies.
 */
import { keepDigits } from '../domain/json.ts'
import { type ReadField, readsOf } from './reads.ts'

/** The request and its caller: the same whenever it is decided on. */
export interface InputParts {
  readonly requestId: string
  readonly method: string
  /** The canonical target with its query. */
  readonly path: string
  readonly host: string
  readonly scheme: string
  readonly protocol: string
  /** Flat name, value list; names lower-case, in the order received. */
  readonly headers: readonly string[]
  /** Bytes of body, -1 when not known beforehand. */
  readonly size: number
  /** There is a body and the policy does not get it. */
  readonly bodyWithheld: boolean
  readonly sourceAddress: string
  readonly sourcePort: number
  readonly destinationAddress: string
  readonly destinationPort: number
  /** Segments of the path, percent-decoded once. */
  readonly parsedPath: readonly string[]
  readonly query: string | null
  /** `{"name":…,"labels":…}` and the labels alone, serialised once per route. */
  readonly routeJson: string
  readonly labelsJson: string
  /** Serialised once per token. */
  readonly principal: { readonly json: string } | undefined
}

export interface BodyTexts {
  /** The body as a JSON string. */
  readonly quoted: string
  /** What it says, as JSON text. */
  readonly parsed: string
}

/** What may differ when the same request is decided on again. */
export interface InputState {
  readonly timeRfc3339: string
  /** Undefined where it was not taken, or the policy does not read it. */
  readonly body: BodyTexts | undefined
  readonly feedStale: boolean
  readonly feedAgeMs: number
}

export interface PolicyInput {
  /** As the policy gets it. */
  readonly text: string
  /** Everything but credentials and bodies. */
  readonly logged: string
  /** JSON pointers of what `logged` lacks. */
  readonly erased: readonly string[]
}

/** Which headers are read: all, none, or those. */
type Names = 'all' | ReadonlySet<string>

/** What a policy reads, as questions that the building asks. Made once per policy. */
export class InputPlan {
  readonly headers: Names
  readonly headerValues: Names
  readonly source: boolean
  readonly destination: boolean
  readonly http: ReadonlySet<string>
  readonly time: boolean
  readonly labels: boolean
  readonly top: ReadonlySet<string>
  readonly #principal: ReadField | undefined
  /** Projected principals; a token is seen many times. */
  readonly #principals = new WeakMap<object, string>()

  constructor(reads: ReadField) {
    const read = (...path: readonly string[]): boolean => readsOf(reads, ...path) !== undefined
    this.headers = namesOf(readsOf(reads, 'attributes', 'request', 'http', 'headers'))
    this.headerValues = namesOf(readsOf(reads, 'header_values'))
    this.source = read('attributes', 'source')
    this.destination = read('attributes', 'destination')
    this.time = read('attributes', 'request', 'time')
    this.http = new Set(httpFields.filter((name) => read('attributes', 'request', 'http', name)))
    this.labels = read('attributes', 'contextExtensions')
    this.top = new Set(topFields.filter((name) => read(name)))
    this.#principal = readsOf(reads, 'principal')
  }

  /** A body is collected for such a policy. */
  get readsBody(): boolean {
    return this.http.has('body') || this.top.has('parsed_body')
  }

  principalText(principal: { readonly json: string }): string {
    const fields = this.#principal
    if (fields === undefined) return '{}'
    if (fields.whole) return principal.json
    let text = this.#principals.get(principal)
    if (text === undefined) {
      text = JSON.stringify(project(JSON.parse(principal.json, keepDigits), fields))
      this.#principals.set(principal, text)
    }
    return text
  }
}

const httpFields = ['id', 'method', 'path', 'host', 'scheme', 'protocol', 'size', 'body'] as const
const topFields = [
  'parsed_path',
  'parsed_query',
  'parsed_body',
  'truncated_body',
  'version',
  'route',
  'grants',
  'feed',
  'principal',
] as const

function namesOf(field: ReadField | undefined): Names {
  if (field?.whole) return 'all'
  return new Set(field?.fields.keys())
}

function project(value: unknown, { whole, fields }: ReadField): unknown {
  if (whole || typeof value !== 'object' || value === null) return value
  // A list is stepped into by numbers, which no field's name is: it is kept as it is.
  if (Array.isArray(value) || JSON.isRawJSON(value)) return value
  const out = Object.create(null) as Record<string, unknown>
  for (const [name, field] of fields) {
    if (Object.hasOwn(value, name)) {
      out[name] = project((value as Record<string, unknown>)[name], field)
    }
  }
  return out
}

const none: readonly string[] = []
const bodyPointers = ['/input/attributes/request/http/body', '/input/parsed_body']

export function buildInput(parts: InputParts, state: InputState, plan: InputPlan): PolicyInput {
  const headers = readHeaderTexts(parts.headers, plan)
  const quoted = {
    method: quote(parts.method),
    path: quote(parts.path),
    host: quote(parts.host),
    parsedPath: list(parts.parsedPath),
    query: queryJson(parts.query),
  }
  const { sourceAddress, sourcePort, destinationAddress, destinationPort } = parts
  const { body } = state
  const source = `"source":${addressJson(sourceAddress, sourcePort)}`
  const destination = `"destination":${addressJson(destinationAddress, destinationPort)}`
  const truncated = parts.bodyWithheld
  const version = '"version":{"encoding":"protojson","ext_authz":"v3"}'
  const feed = `"feed":{"stale":${state.feedStale},"age_ms":${state.feedAgeMs}}`
  const logged =
    `{"attributes":{${source},${destination},"request":{"time":"${state.timeRfc3339}","http":{"id":"${parts.requestId}"` +
    `,"method":${quoted.method},"path":${quoted.path},"host":${quoted.host},"scheme":"${parts.scheme}"` +
    `,"protocol":"${parts.protocol}","size":${parts.size},"body":"","headers":{${headers.open}}}}` +
    `,"contextExtensions":${parts.labelsJson}},"header_values":{${headers.openValues}}` +
    `,"parsed_path":${quoted.parsedPath},"parsed_query":${quoted.query},"parsed_body":null` +
    `,"truncated_body":${truncated},${version},"route":${parts.routeJson},"grants":[],${feed}` +
    (parts.principal === undefined ? '}' : `,"principal":${parts.principal.json}}`)

  const { http, top } = plan
  let fields = ''
  if (http.has('id')) fields += `"id":"${parts.requestId}",`
  if (http.has('method')) fields += `"method":${quoted.method},`
  if (http.has('path')) fields += `"path":${quoted.path},`
  if (http.has('host')) fields += `"host":${quoted.host},`
  if (http.has('scheme')) fields += `"scheme":"${parts.scheme}",`
  if (http.has('protocol')) fields += `"protocol":"${parts.protocol}",`
  if (http.has('size')) fields += `"size":${parts.size},`
  if (http.has('body')) fields += `"body":${body?.quoted ?? '""'},`
  let text = '{"attributes":{'
  if (plan.source) text += `${source},`
  if (plan.destination) text += `${destination},`
  if (plan.labels) text += `"contextExtensions":${parts.labelsJson},`
  text += plan.time ? `"request":{"time":"${state.timeRfc3339}",` : '"request":{'
  text += `"http":{${fields}"headers":{${headers.read}}}}},"header_values":{${headers.readValues}}`
  if (top.has('parsed_path')) text += `,"parsed_path":${quoted.parsedPath}`
  if (top.has('parsed_query')) text += `,"parsed_query":${quoted.query}`
  if (top.has('parsed_body')) text += `,"parsed_body":${body?.parsed ?? 'null'}`
  if (top.has('truncated_body')) text += `,"truncated_body":${truncated}`
  if (top.has('version')) text += `,${version}`
  if (top.has('route')) text += `,"route":${parts.routeJson}`
  if (top.has('grants')) text += ',"grants":[]'
  if (top.has('feed')) text += `,${feed}`
  if (top.has('principal') && parts.principal !== undefined)
    text += `,"principal":${plan.principalText(parts.principal)}`
  text += '}'
  const erased = body === undefined ? headers.erased : [...headers.erased, ...bodyPointers]
  return { text, logged, erased }
}

function addressJson(address: string, port: number): string {
  return `{"address":{"socketAddress":{"address":${quote(address)},"portValue":${port}}}}`
}

interface HeaderTexts {
  /** Members of `headers` and `header_values` that may be logged. */
  open: string
  openValues: string
  /** Those that the policy reads. */
  read: string
  readValues: string
  erased: readonly string[]
}

function readHeaderTexts(flat: readonly string[], plan: InputPlan): HeaderTexts {
  const texts: HeaderTexts = { open: '', openValues: '', read: '', readValues: '', erased: none }
  let erased: string[] | undefined
  for (let i = 0; i < flat.length; i += 2) {
    const name = flat[i]!
    if (appearsBefore(flat, i)) continue
    const secret = isSecret(name)
    if (secret) {
      erased ??= []
      erased.push(`/input/attributes/request/http/headers/${name}`, `/input/header_values/${name}`)
      if (!wants(plan.headers, name) && !wants(plan.headerValues, name)) continue
    }
    const value = flat[i + 1]!
    let joined = value
    let values = quote(value)
    for (let k = i + 2; k < flat.length; k += 2) {
      if (flat[k] !== name) continue
      // Cookie crumbs join by "; " (RFC 9113 section 8.2.3), lists by ", " (RFC 9110 section 5.3).
      joined += (name === 'cookie' ? '; ' : ', ') + flat[k + 1]!
      values += `,${quote(flat[k + 1]!)}`
    }
    const key = quote(name)
    const member = `${key}:${joined === value ? values : quote(joined)}`
    const valuesMember = `${key}:[${values}]`
    if (!secret) {
      texts.open = joinTexts(texts.open, member)
      texts.openValues = joinTexts(texts.openValues, valuesMember)
    }
    if (wants(plan.headers, name)) texts.read = joinTexts(texts.read, member)
    if (wants(plan.headerValues, name)) texts.readValues = joinTexts(texts.readValues, valuesMember)
  }
  if (erased !== undefined) texts.erased = erased
  return texts
}

function wants(names: Names, name: string): boolean {
  return names === 'all' || names.has(name)
}

function appearsBefore(flat: readonly string[], at: number): boolean {
  for (let k = 0; k < at; k += 2) if (flat[k] === flat[at]) return true
  return false
}

/** Headers that carry credentials, by their usual names. */
function isSecret(name: string): boolean {
  switch (name) {
    case 'host':
    case 'accept':
    case 'user-agent':
    case 'content-type':
    case 'content-length':
      return false
    case 'authorization':
    case 'cookie':
    case 'proxy-authorization':
    case 'sec-websocket-protocol':
    case 'set-cookie':
      return true
    default:
      return (
        name.includes('key') ||
        name.includes('token') ||
        name.includes('secret') ||
        name.includes('auth')
      )
  }
}

function joinTexts(a: string, b: string): string {
  return a === '' ? b : b === '' ? a : `${a},${b}`
}

function quote(text: string): string {
  return JSON.stringify(text)
}

function list(items: readonly string[]): string {
  let out = ''
  for (const item of items) out = joinTexts(out, quote(item))
  return `[${out}]`
}

/** `{name: [values]}`, form-decoded, in order of first appearance. */
function queryJson(query: string | null): string {
  if (query === null || query === '') return '{}'
  const values = new Map<string, string>()
  for (const pair of query.split('&')) {
    if (pair === '') continue
    const split = pair.indexOf('=')
    const name = decode(split === -1 ? pair : pair.slice(0, split))
    const value = quote(split === -1 ? '' : decode(pair.slice(split + 1)))
    const known = values.get(name)
    values.set(name, known === undefined ? value : `${known},${value}`)
  }
  let out = ''
  for (const [name, texts] of values) out = joinTexts(out, `${quote(name)}:[${texts}]`)
  return `{${out}}`
}

/** The target's check has refused bad triplets; bytes that are not UTF-8 become U+FFFD, as in the module. */
function decode(text: string): string {
  if (!text.includes('%') && !text.includes('+')) return text
  const spaced = text.replaceAll('+', ' ')
  try {
    return decodeURIComponent(spaced)
  } catch {
    return Buffer.from(
      spaced.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) =>
        String.fromCharCode(Number.parseInt(hex, 16)),
      ),
      'latin1',
    ).toString('utf8')
  }
}
