/**
 * The Rego contract (design section 7): one exchange -> `input` as JSON text. Built by concatenation, since text is
 * what the module takes and what the decision log writes; only strings are ever serialised. Beside the text
 * goes the same text without secrets, for the log.
 */
export interface InputParts {
  readonly requestId: string
  readonly timeRfc3339: string
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
  readonly principalJson: string | undefined
  readonly feedStale: boolean
  readonly feedAgeMs: number
}

export interface PolicyInput {
  readonly text: string
  /** `text` without credentials. */
  readonly logged: string
  /** JSON pointers of what `logged` lacks. */
  readonly erased: readonly string[]
}

const none: readonly string[] = []

export function buildInput(parts: InputParts): PolicyInput {
  const headers = readHeaderTexts(parts.headers)
  const before =
    `{"attributes":{"source":{"address":{"socketAddress":{"address":${quote(parts.sourceAddress)},"portValue":${parts.sourcePort}}}}` +
    `,"destination":{"address":{"socketAddress":{"address":${quote(parts.destinationAddress)},"portValue":${parts.destinationPort}}}}` +
    `,"request":{"time":"${parts.timeRfc3339}","http":{"id":"${parts.requestId}","method":${quote(parts.method)}` +
    `,"path":${quote(parts.path)},"host":${quote(parts.host)},"scheme":"${parts.scheme}","protocol":"${parts.protocol}"` +
    `,"size":${parts.size},"body":"","headers":{`
  const between = `}}},"contextExtensions":${parts.labelsJson}},"header_values":{`
  const after =
    `},"parsed_path":${list(parts.parsedPath)},"parsed_query":${queryJson(parts.query)}` +
    ',"parsed_body":null,"truncated_body":false,"version":{"encoding":"protojson","ext_authz":"v3"}' +
    `,"route":${parts.routeJson},"grants":[],"feed":{"stale":${parts.feedStale},"age_ms":${parts.feedAgeMs}}` +
    (parts.principalJson === undefined ? '}' : `,"principal":${parts.principalJson}}`)
  const logged = before + headers.open + between + headers.openValues + after
  if (headers.secret === '') return { text: logged, logged, erased: none }
  const text =
    before +
    joinTexts(headers.open, headers.secret) +
    between +
    joinTexts(headers.openValues, headers.secretValues) +
    after
  return { text, logged, erased: headers.erased }
}

interface HeaderTexts {
  open: string
  openValues: string
  secret: string
  secretValues: string
  erased: string[]
}

/** Two runs of members for `headers` and `header_values`: those that may be logged and those that may not. */
function readHeaderTexts(flat: readonly string[]): HeaderTexts {
  const texts: HeaderTexts = { open: '', openValues: '', secret: '', secretValues: '', erased: [] }
  for (let i = 0; i < flat.length; i += 2) {
    const name = flat[i]!
    if (appearsBefore(flat, i)) continue
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
    if (isSecret(name)) {
      texts.secret = joinTexts(texts.secret, member)
      texts.secretValues = joinTexts(texts.secretValues, valuesMember)
      texts.erased.push(
        `/input/attributes/request/http/headers/${name}`,
        `/input/header_values/${name}`,
      )
    } else {
      texts.open = joinTexts(texts.open, member)
      texts.openValues = joinTexts(texts.openValues, valuesMember)
    }
  }
  return texts
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
