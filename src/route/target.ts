/**
 * The canonical request target. It is made once, before routing: the policy sees it, the route table matches it and
 * undici sends it, byte for byte. A target that could be read in two ways is refused; what a route may accept by its own
 * word is kept apart as a doubt, until the route is known.
 */
import { isIPv4, isIPv6 } from 'node:net'
import { encodedName, formDecode } from '../domain/form.ts'
import { GateError } from '../errors.ts'

export interface Target {
  /** Path and query in the form in which they are sent to the upstream. */
  readonly wire: string
  /** The path alone, in the same form as in `wire`. */
  readonly path: string
  /** Text after the first `?`, byte for byte; null without a `?`. */
  readonly query: string | null
  /**
   * Percent-decoded once. An encoded slash does not split a segment; matrix parameters are cut off. Empty for `/` and
   * `*`.
   */
  readonly segments: readonly string[]
  /** Lower-case name without port, final dot or brackets. */
  readonly host: string
  /** Host with port, unless the port is the default of the scheme: the `Host` header for the upstream. */
  readonly authority: string
  /** True if the path contains `%2F` or `%25`. */
  readonly encodedSlash: boolean
  /** True if the path contains `;`, plain or encoded. */
  readonly matrix: boolean
  /** What only some routes accept, see `checkTarget`; undefined for most targets. */
  readonly doubt: Doubt | undefined
}

interface Doubt {
  /** The target with its empty segments; the target itself has them merged. Undefined when it has none. */
  readonly apart: Target | undefined
  /** True if the query had a `%` without two hexadecimal digits, which is encoded now. */
  readonly strayPercent: boolean
}

export interface TargetOptions {
  /** Scheme of the listener. */
  readonly scheme: 'http' | 'https'
  readonly maxBytes: number
}

const maxQueryPairs = 1024

/**
 * Paths without percent-encoding, which are most paths. `//`, a dot after a slash and `;` are checked on the slow
 * path.
 */
const plainPath = /^\/[A-Za-z0-9\-_~!$&'()*+,=:@./]*$/
const doubtful = /\/\/|\/\./
/**
 * Allowed characters of a path: pchar of RFC 3986, `/` and `;`, and those that browsers send as they are although RFC
 * 3986 has them encoded (URL Standard, path percent-encode set). Every other byte is refused.
 */
const pathAlphabet = /^(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/[\]|^]|%[0-9A-Fa-f]{2})*$/
/** What is not in its one spelling: a triplet, or a character that is sent as one. */
const unsettled = /%([0-9A-Fa-f]{2})|[[\]|^]/g
const queryAlphabet = /^(?:[\x21-\x22\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*$/
const queryBytes = /^[\x21-\x22\x24-\x7e]*$/
const strayPercents = /%(?![0-9A-Fa-f]{2})/g

/**
 * @param raw Request target as received, one character per byte.
 * @param rawHost Value of the single `Host` header.
 * @throws GateError ERR_TARGET_MALFORMED, ERR_TARGET_TOO_LONG, ERR_HOST_MALFORMED
 */
export function parseRequestTarget(
  method: string,
  raw: string,
  rawHost: string,
  options: TargetOptions,
): Target {
  if (raw.length > options.maxBytes) throw new GateError('ERR_TARGET_TOO_LONG')
  const place = readAuthority(rawHost, options.scheme)
  const { host, authority } = place
  if (raw === '*' && method === 'OPTIONS') {
    return {
      wire: '*',
      path: '*',
      query: null,
      segments: [],
      host,
      authority,
      encodedSlash: false,
      matrix: false,
      doubt: undefined,
    }
  }
  const local = raw.charCodeAt(0) === 0x2f ? raw : ofAbsolute(raw, place, options.scheme)
  const mark = local.indexOf('?')
  const rawPath = mark === -1 ? local : local.slice(0, mark)
  const rawQuery = mark === -1 ? null : local.slice(mark + 1)
  const query = rawQuery === null ? null : canonicalQuery(rawQuery)
  if (query === rawQuery && plainPath.test(rawPath) && !doubtful.test(rawPath)) {
    const segments = rawPath === '/' ? [] : rawPath.slice(1).split('/')
    return {
      wire: local,
      path: rawPath,
      query,
      segments,
      host,
      authority,
      encodedSlash: false,
      matrix: false,
      doubt: undefined,
    }
  }
  const path = canonicalPath(rawPath)
  const target = targetOf(path, query, place, options)
  const empty = path.includes('//')
  if (!empty && query === rawQuery) return target
  const one = empty ? targetOf(path.replace(/\/{2,}/g, '/'), query, place, options) : target
  return {
    ...one,
    doubt: { apart: empty ? target : undefined, strayPercent: query !== rawQuery },
  }
}

/**
 * Decodes unreserved characters; writes all other triplets in upper case (RFC 3986 section 6.2.2), and as triplets the
 * characters that browsers leave as they are. @throws GateError ERR_TARGET_MALFORMED
 */
function canonicalPath(raw: string): string {
  if (!pathAlphabet.test(raw)) throw new GateError('ERR_TARGET_MALFORMED')
  return raw.replace(unsettled, (found, hex: string | undefined) => {
    if (hex === undefined) return `%${found.charCodeAt(0).toString(16).toUpperCase()}`
    const code = Number.parseInt(hex, 16)
    return unreserved(code) ? String.fromCharCode(code) : found.toUpperCase()
  })
}

/** @param path In its canonical form. @throws GateError ERR_TARGET_MALFORMED, ERR_TARGET_TOO_LONG */
function targetOf(
  path: string,
  query: string | null,
  { host, authority }: Authority,
  { maxBytes }: TargetOptions,
): Target {
  const wire = query === null ? path : `${path}?${query}`
  // What was written as a triplet here has made it longer.
  if (wire.length > maxBytes) throw new GateError('ERR_TARGET_TOO_LONG')
  return {
    wire,
    path,
    query,
    segments: readSegments(path),
    host,
    authority,
    encodedSlash: path.includes('%2F') || path.includes('%25'),
    // An encoded `;` counts too: an upstream that decodes first would cut parameters off at it.
    matrix: path.includes(';') || path.includes('%3B'),
    doubt: undefined,
  }
}

/**
 * Changes the query of a target as the policy wants. Names are those that the policy saw in `parsed_query`: every pair
 * that decodes to a removed name goes, the other pairs stay byte for byte, and new pairs come last. The result passes
 * the same checks as a client's target (design law 5).
 * @throws GateError ERR_TARGET_MALFORMED, ERR_TARGET_TOO_LONG
 */
export function withQuery(
  method: string,
  target: Target,
  change: {
    readonly set: readonly (readonly [name: string, value: string])[]
    readonly remove: readonly string[]
  },
  options: TargetOptions,
): Target {
  const gone = new Set([...change.remove, ...change.set.map(([name]) => name)])
  const kept = (target.query ?? '')
    .split('&')
    .filter((pair) => pair !== '' && !gone.has(formDecode(encodedName(pair))))
  const removed = new Set(change.remove)
  const set = change.set
    .filter(([name]) => !removed.has(name))
    .map(([name, value]) => `${encode(name)}=${encode(value)}`)
  const query = [...kept, ...set].join('&')
  const wire = query === '' ? target.path : `${target.path}?${query}`
  const parsed = parseRequestTarget(method, wire, target.authority, options)
  // The route has passed the empty segments already.
  const sent = parsed.doubt?.apart ?? parsed
  if (sent.path !== target.path) throw new GateError('ERR_TARGET_MALFORMED')
  return sent
}

function encode(text: string): string {
  return encodeURIComponent(text.toWellFormed()).replace(
    /['()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  )
}

/** The URL of a request without its query, as it is decided on and sent, in the form of `canonicalUrl`. */
export function urlOf(scheme: 'http' | 'https', { authority, path }: Target): string {
  return `${scheme}://${authority}${path}`
}

const httpUrl = /^(https?):\/\/([^/?#@\\]+)(\/[^?#]*)?(?:[?#]|$)/i

/**
 * Brings a URL that a client names into the one form in which URLs are compared (RFC 3986 sections 6.2.2 and 6.2.3): by the
 * same rules as the target of a request, and without query and fragment.
 * @returns undefined for what is no http URL, or no URL that a request could have
 */
export function canonicalUrl(text: string): string | undefined {
  const [, scheme = '', authority = '', path = '/'] = httpUrl.exec(text) ?? []
  const lower = scheme.toLowerCase()
  if (lower !== 'http' && lower !== 'https') return undefined
  // A character becomes three at most.
  const options = { scheme: lower, maxBytes: text.length * 3 } as const
  try {
    const target = parseRequestTarget('GET', path, authority, options)
    return urlOf(lower, target.doubt?.apart ?? target)
  } catch {
    return undefined
  }
}

/** The rules of a route about targets. */
export interface TargetRules {
  readonly encoded_slashes: 'refuse' | 'pass'
  readonly matrix_parameters: 'refuse' | 'pass'
  readonly empty_segments: 'refuse' | 'merge' | 'pass'
  readonly stray_percent: 'refuse' | 'encode'
}

/**
 * Refuses features that a route must allow explicitly. The route was found by the merged path, so that empty segments
 * lead no request around a route with stricter rules.
 * @returns the target to decide on and to send
 * @throws GateError ERR_TARGET_MALFORMED
 */
export function checkTarget(target: Target, route: TargetRules): Target {
  const settled = target.doubt === undefined ? target : settle(target, target.doubt, route)
  if (settled.encodedSlash && route.encoded_slashes === 'refuse')
    throw new GateError('ERR_TARGET_MALFORMED')
  if (settled.matrix && route.matrix_parameters === 'refuse')
    throw new GateError('ERR_TARGET_MALFORMED')
  return settled
}

function settle(target: Target, { apart, strayPercent }: Doubt, route: TargetRules): Target {
  if (strayPercent && route.stray_percent === 'refuse') throw new GateError('ERR_TARGET_MALFORMED')
  if (apart === undefined || route.empty_segments === 'merge')
    return { ...target, doubt: undefined }
  // Some upstreams read what follows two slashes at the beginning as a host (RFC 3986 section 4.2).
  if (route.empty_segments === 'refuse' || apart.path.startsWith('//'))
    throw new GateError('ERR_TARGET_MALFORMED')
  return apart
}

interface Authority {
  readonly host: string
  readonly authority: string
}

const hostName =
  /^(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/
/**
 * Matches hosts whose last label is a number. Some programs read them as an IPv4 address, others as a name; only the
 * usual form of an IPv4 address is accepted.
 */
const numeric = /(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$/

/** Cache of parsed `Host` values: clients use few hosts, and the value is checked on every request. */
const parsedHosts = { http: new Map<string, Authority>(), https: new Map<string, Authority>() }
const maxParsedHosts = 256

/** Parses host and port into one canonical form. @throws GateError ERR_HOST_MALFORMED */
export function readAuthority(raw: string, scheme: 'http' | 'https'): Authority {
  const places = parsedHosts[scheme]
  const before = places.get(raw)
  if (before !== undefined) return before
  const parts = /^(\[[^\]]*\]|[^:]*)(?::([0-9]{1,5}))?$/.exec(raw)
  if (parts === null) throw new GateError('ERR_HOST_MALFORMED')
  const [, name = '', digits] = parts
  const lower = name.toLowerCase()
  const host = lower.endsWith('.') ? lower.slice(0, -1) : lower
  if (!isHost(host)) throw new GateError('ERR_HOST_MALFORMED')
  const port = digits === undefined ? undefined : Number(digits)
  if (port !== undefined && (port < 1 || port > 65535)) throw new GateError('ERR_HOST_MALFORMED')
  const standard = scheme === 'https' ? 443 : 80
  const place: Authority = {
    host: host.startsWith('[') ? host.slice(1, -1) : host,
    authority: port === undefined || port === standard ? host : `${host}:${port}`,
  }
  if (places.size >= maxParsedHosts) places.clear()
  places.set(raw, place)
  return place
}

/** Accepts a name, or an address in its canonical form. A second form of an address could bypass a route by host. */
function isHost(host: string): boolean {
  if (host.startsWith('[')) {
    // `isIPv6` also accepts a zone, which has a meaning only on the client's machine.
    return (
      isIPv6(host.slice(1, -1)) &&
      !host.includes('%') &&
      new URL(`http://${host}`).hostname === host
    )
  }
  return host.length <= 253 && hostName.test(host) && (!numeric.test(host) || isIPv4(host))
}

/**
 * Returns path and query of an absolute-form target. It must have our scheme, no credentials and the same host (RFC
 * 9112 section 3.2.2).
 */
function ofAbsolute(raw: string, place: Authority, scheme: 'http' | 'https'): string {
  const parts = /^([A-Za-z][A-Za-z0-9+.-]*):\/\/([^/?#@\\]+)((?:[/?].*)?)$/s.exec(raw)
  if (parts === null) throw new GateError('ERR_TARGET_MALFORMED')
  const [, itsScheme = '', authority = '', rest = ''] = parts
  if (itsScheme.toLowerCase() !== scheme) throw new GateError('ERR_TARGET_MALFORMED')
  if (readAuthority(authority, scheme).authority !== place.authority)
    throw new GateError('ERR_HOST_MALFORMED')
  return rest.startsWith('/') ? rest : `/${rest}`
}

/** @returns the query, with stray percent signs encoded. @throws GateError ERR_TARGET_MALFORMED */
function canonicalQuery(query: string): string {
  let pairs = 1
  for (let at = query.indexOf('&'); at !== -1; at = query.indexOf('&', at + 1)) pairs++
  if (pairs > maxQueryPairs) throw new GateError('ERR_TARGET_MALFORMED')
  if (queryAlphabet.test(query)) return query
  if (!queryBytes.test(query)) throw new GateError('ERR_TARGET_MALFORMED')
  return query.replace(strayPercents, '%25')
}

/** Returns the decoded segments of a canonical path. @throws GateError ERR_TARGET_MALFORMED */
function readSegments(path: string): string[] {
  if (path === '/') return []
  const parts = path.slice(1).split('/')
  return parts.map((part) => {
    const whole = decodeSegment(part)
    const end = whole.indexOf(';')
    const decoded = end === -1 ? whole : whole.slice(0, end)
    // Nothing but parameters: some upstreams take that for an empty segment.
    if (part !== '' && decoded === '') throw new GateError('ERR_TARGET_MALFORMED')
    refuseDots(whole)
    // The policy does not see the part after the semicolon, so no slash may hide there.
    if (end !== -1 && /%2f|\//i.test(whole.slice(end))) throw new GateError('ERR_TARGET_MALFORMED')
    return decoded
  })
}

/** Control characters, NUL and backslash have no legitimate use in a path. */
const refused = /[\0-\x1f\x7f-\x9f\\]/

function decodeSegment(text: string): string {
  if (!text.includes('%')) return text
  let decoded: string
  try {
    // Throws for overlong forms, surrogates and bytes that are not UTF-8.
    decoded = decodeURIComponent(text)
  } catch {
    throw new GateError('ERR_TARGET_MALFORMED')
  }
  if (refused.test(decoded)) throw new GateError('ERR_TARGET_MALFORMED')
  return decoded
}

/** Refuses `.` and `..`, also after an encoded slash or encoded twice: an upstream may decode further than the gate. */
function refuseDots(segment: string): void {
  if (!segment.includes('.') && !segment.includes('%')) return
  for (const part of segment
    .replace(/%2f/gi, '/')
    .replace(/%5c/gi, '/')
    .replace(/%2e/gi, '.')
    .replace(/%3b/gi, ';')
    .split('/')) {
    const name = part.split(';', 1)[0]
    if (name === '.' || name === '..') throw new GateError('ERR_TARGET_MALFORMED')
  }
}

function unreserved(code: number): boolean {
  return (
    (code >= 0x61 && code <= 0x7a) ||
    (code >= 0x41 && code <= 0x5a) ||
    (code >= 0x30 && code <= 0x39) ||
    code === 0x2d ||
    code === 0x2e ||
    code === 0x5f ||
    code === 0x7e
  )
}
