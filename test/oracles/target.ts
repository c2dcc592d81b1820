/**
 * What a target and a host mean by the rules 1.1 to 1.8 of docs/boundary.md, read byte by byte with a hand-written
 * UTF-8 decoder and without a regular expression: it shares no code and no way of thinking with src/route/target.ts.
 */
export interface Meaning {
  readonly wire: string
  readonly segments: readonly string[]
  readonly query: string | null
  readonly encodedSlash: boolean
  readonly matrix: boolean
  /** The path as it is without merging its slashes, where that makes a difference. */
  readonly apart: { readonly wire: string; readonly segments: readonly string[] } | undefined
  readonly strayPercent: boolean
}

export type Verdict = Meaning | 'target' | 'too long' | 'host'

const inPath = new Set(
  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/",
)
/** Signs that browsers send as they are, and that go on as triplets. */
const spelt: ReadonlyMap<string, string> = new Map([
  ['[', '%5B'],
  [']', '%5D'],
  ['^', '%5E'],
  ['|', '%7C'],
])
const plain = new Set('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~')
const hex = '0123456789abcdef'

/** @param authority What the host means, see `meaningOfHost`. */
export function meaningOf(
  method: string,
  raw: string,
  authority: string,
  maxBytes: number,
): Verdict {
  if (raw.length > maxBytes) return 'too long'
  if (raw === '*') {
    if (method !== 'OPTIONS') return 'target'
    const nothing = { apart: undefined, strayPercent: false }
    return { wire: '*', segments: [], query: null, encodedSlash: false, matrix: false, ...nothing }
  }
  let local = raw
  if (raw[0] !== '/') {
    const stripped = withoutOrigin(raw, authority)
    if (stripped === 'host' || stripped === 'target') return stripped
    local = stripped.local
  }
  let path = local
  let query: string | null = null
  for (let i = 0; i < local.length; i++) {
    if (local[i] === '?') {
      path = local.slice(0, i)
      query = local.slice(i + 1)
      break
    }
  }
  const sent = query === null ? null : settled(query)
  if (sent === undefined) return 'target'
  const strayPercent = sent !== query
  const read = readPath(path)
  if (read === undefined) return 'target'
  const merged = mergedSlashes(read.wire)
  const whole = merged === read.wire ? read : readPath(merged)
  if (whole === undefined) return 'target'
  const apart =
    merged === read.wire ? undefined : { wire: withQuery(read.wire, sent), segments: read.segments }
  if ((apart?.wire ?? withQuery(whole.wire, sent)).length > maxBytes) return 'too long'
  return { ...whole, query: sent, wire: withQuery(whole.wire, sent), apart, strayPercent }
}

function withQuery(path: string, query: string | null): string {
  return query === null ? path : `${path}?${query}`
}

function mergedSlashes(path: string): string {
  let out = ''
  for (const sign of path) if (sign !== '/' || out[out.length - 1] !== '/') out += sign
  return out
}

function withoutOrigin(raw: string, authority: string): 'target' | 'host' | { local: string } {
  const scheme = raw.slice(0, 7).toLowerCase()
  if (scheme !== 'http://') return 'target'
  let end = 7
  while (end < raw.length && raw[end] !== '/' && raw[end] !== '?') end++
  const named = raw.slice(7, end)
  if (named === '') return 'target'
  for (const sign of named) if (sign === '@' || sign === '#' || sign === '\\') return 'target'
  if (meaningOfHost(named)?.authority !== authority) return 'host'
  return { local: raw[end] === '/' ? raw.slice(end) : `/${raw.slice(end)}` }
}

/** The query as it is sent: a percent sign that begins no triplet is written as one. */
function settled(query: string): string | undefined {
  let pairs = 1
  let out = ''
  for (let i = 0; i < query.length; i++) {
    const code = query.charCodeAt(i)
    if (code < 0x21 || code > 0x7e || query[i] === '#') return undefined
    if (query[i] === '&') pairs++
    out += query[i] === '%' && byteAt(query, i) === undefined ? '%25' : query[i]
  }
  return pairs <= 1024 ? out : undefined
}

/** The byte that a percent triplet means. */
function byteAt(text: string, at: number): number | undefined {
  const high = hex.indexOf((text[at + 1] ?? '?').toLowerCase())
  const low = hex.indexOf((text[at + 2] ?? '?').toLowerCase())
  return high < 0 || low < 0 ? undefined : high * 16 + low
}

function readPath(
  path: string,
): Pick<Meaning, 'wire' | 'segments' | 'encodedSlash' | 'matrix'> | undefined {
  let wire = ''
  let encodedSlash = false
  let matrix = false
  for (let i = 0; i < path.length; i++) {
    const sign = path[i]!
    if (sign === '%') {
      const byte = byteAt(path, i)
      if (byte === undefined) return undefined
      const meant = String.fromCharCode(byte)
      if (meant === '/' || meant === '%') encodedSlash = true
      if (meant === ';') matrix = true
      wire += plain.has(meant) ? meant : path.slice(i, i + 3).toUpperCase()
      i += 2
    } else if (inPath.has(sign)) {
      if (sign === ';') matrix = true
      wire += sign
    } else if (spelt.has(sign)) wire += spelt.get(sign)!
    else return undefined
  }
  if (wire === '/') return { wire, segments: [], encodedSlash, matrix }
  const segments: string[] = []
  const parts = split(wire.slice(1), '/')
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i]!
    const whole = decode(part)
    if (whole === undefined) return undefined
    for (const sign of whole) {
      const code = sign.codePointAt(0)!
      if (code < 0x20 || (code >= 0x7f && code < 0xa0) || sign === '\\') return undefined
    }
    if (climbs(whole) || climbs(decodeOnceMore(whole))) return undefined
    // Parameters, encoded or not, are no part of a name.
    const [name = '', ...parameters] = split(whole, ';')
    // No part of the path is out of the policy's sight.
    const hidden = parameters.join(';').toLowerCase()
    if (hidden.includes('/') || hidden.includes('%2f')) return undefined
    if (name === '' && part !== '') return undefined
    segments.push(name)
  }
  return { wire, segments, encodedSlash, matrix }
}

/** Whether any of the parts that someone could see in it is a dot segment. */
function climbs(text: string): boolean {
  for (const outer of split(text, '/')) {
    for (const inner of split(outer, '\\')) {
      const name = split(inner, ';')[0]!
      if (name === '.' || name === '..') return true
    }
  }
  return false
}

/** What an upstream that decodes what is decoded already would see of dots and separators. */
function decodeOnceMore(text: string): string {
  let out = ''
  for (let i = 0; i < text.length; i++) {
    const byte = text[i] === '%' ? byteAt(text, i) : undefined
    if (byte === 0x2e || byte === 0x2f || byte === 0x5c) {
      out += String.fromCharCode(byte)
      i += 2
    } else out += text[i]
  }
  return out
}

function split(text: string, sign: string): string[] {
  const parts: string[] = ['']
  for (const each of text) {
    if (each === sign) parts.push('')
    else parts[parts.length - 1] += each
  }
  return parts
}

/** Percent-decodes and reads UTF-8 (Unicode table 3-7); undefined where it is none. */
export function decode(text: string): string | undefined {
  const bytes: number[] = []
  for (let i = 0; i < text.length; i++) {
    if (text[i] === '%') {
      bytes.push(byteAt(text, i)!)
      i += 2
    } else bytes.push(text.charCodeAt(i))
  }
  let out = ''
  for (let i = 0; i < bytes.length; ) {
    const first = bytes[i]!
    if (first < 0x80) {
      out += String.fromCharCode(first)
      i++
      continue
    }
    const length =
      first >= 0xc2 && first <= 0xdf
        ? 2
        : first >= 0xe0 && first <= 0xef
          ? 3
          : first >= 0xf0 && first <= 0xf4
            ? 4
            : 0
    if (length === 0 || i + length > bytes.length) return undefined
    let code = first & (0x7f >> length)
    for (let k = 1; k < length; k++) {
      const next = bytes[i + k]!
      if (next < 0x80 || next > 0xbf) return undefined
      code = code * 64 + (next & 0x3f)
    }
    const least = length === 2 ? 0x80 : length === 3 ? 0x800 : 0x10000
    if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return undefined
    out += String.fromCodePoint(code)
    i += length
  }
  return out
}

const digit = (code: number): boolean => code >= 0x30 && code <= 0x39
const letter = (code: number): boolean => code >= 0x61 && code <= 0x7a

/** Host and authority on a port for http; undefined where there is more or less than one reading. */
export function meaningOfHost(raw: string): { host: string; authority: string } | undefined {
  let name = raw
  let port: number | undefined
  const bracket = raw.lastIndexOf(']')
  const colon = raw.indexOf(':', bracket + 1)
  if (colon !== -1) {
    const digits = raw.slice(colon + 1)
    if (digits.length < 1 || digits.length > 5) return undefined
    for (const each of digits) if (!digit(each.charCodeAt(0))) return undefined
    port = Number.parseInt(digits, 10)
    if (port < 1 || port > 65535) return undefined
    name = raw.slice(0, colon)
  }
  let lower = ''
  for (const each of name) {
    const code = each.charCodeAt(0)
    lower += code >= 0x41 && code <= 0x5a ? String.fromCharCode(code + 32) : each
  }
  // The dot at the end makes a name absolute; an address has no such form.
  if (lower[0] !== '[' && lower[lower.length - 1] === '.') lower = lower.slice(0, -1)
  if (lower[0] === '[') {
    if (lower[lower.length - 1] !== ']') return undefined
    const inner = lower.slice(1, -1)
    if (!isAddress6(inner)) return undefined
    return {
      host: inner,
      authority: port === undefined || port === 80 ? lower : `${lower}:${port}`,
    }
  }
  if (lower.length < 1 || lower.length > 253) return undefined
  const labels = split(lower, '.')
  for (const label of labels) {
    if (label.length < 1 || label.length > 63) return undefined
    for (let i = 0; i < label.length; i++) {
      const code = label.charCodeAt(i)
      const edge = i === 0 || i === label.length - 1
      const fine = letter(code) || digit(code) || label[i] === '_' || (label[i] === '-' && !edge)
      if (!fine) return undefined
    }
  }
  if (looksNumeric(labels[labels.length - 1]!) && !isAddress4(labels)) return undefined
  return { host: lower, authority: port === undefined || port === 80 ? lower : `${lower}:${port}` }
}

/** The WHATWG "ends in a number" test: such a name is an address to browsers. */
function looksNumeric(label: string): boolean {
  const digits = label.startsWith('0x') ? label.slice(2) : label
  for (const each of digits) {
    if (label.startsWith('0x') ? !hex.includes(each) : !digit(each.charCodeAt(0))) return false
  }
  return true
}

function isAddress4(labels: readonly string[]): boolean {
  return (
    labels.length === 4 &&
    labels.every((label) => String(Number(label)) === label && Number(label) < 256)
  )
}

/** RFC 5952: shortest groups, the first longest run of at least two zeros folded, never the IPv4 form. */
function isAddress6(text: string): boolean {
  const halves = text.split('::')
  if (halves.length > 2) return false
  const [left, right] = halves.map((half) => (half === '' ? [] : half.split(':')))
  const given = [...left!, ...(right ?? [])]
  if (right === undefined ? given.length !== 8 : given.length > 6) return false
  for (const group of given) {
    if (group.length < 1 || group.length > 4) return false
    for (const each of group) if (!hex.includes(each)) return false
  }
  const zeros = Array.from({ length: 8 - given.length }, () => '0')
  const groups = [...left!, ...zeros, ...(right ?? [])].map((group) => Number.parseInt(group, 16))
  return write6(groups) === text
}

function write6(groups: readonly number[]): string {
  let [best, bestAt] = [1, -1]
  for (let at = 0; at < 8; at++) {
    let run = 0
    while (at + run < 8 && groups[at + run] === 0) run++
    if (run > best) {
      best = run
      bestAt = at
    }
  }
  const text = (part: readonly number[]): string =>
    part.map((group) => group.toString(16)).join(':')
  return bestAt === -1
    ? text(groups)
    : `${text(groups.slice(0, bestAt))}::${text(groups.slice(bestAt + best))}`
}
