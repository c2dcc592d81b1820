/**
 * Chooses the headers of upstream requests and of client responses. Hop-by-hop headers are removed, headers that
 * identify the caller or the gate are never taken from the client, and the headers of the gate are written last.
 */
import { isCors } from '../domain/cors.ts'
import { foldedName, hopByHop, isToken, obsText, valueCharacters } from '../domain/http.ts'
import type { Principal } from '../domain/principal.ts'
import { headerTest, identityHeaders, neverPassed } from '../domain/proxy-headers.ts'
import type { RequestHeaders } from '../domain/request-headers.ts'
import { GateError } from '../errors.ts'
import type { PublicUrls } from './public-urls.ts'

export interface UpstreamHeaderOptions {
  readonly forward: { readonly identity: 'headers' | 'none' }
  /** True when `Authorization` holds the credential of the gate, and the route does not forward it. */
  readonly withoutAuthorization: boolean
  /** The same for `DPoP`: a proof belongs to the token, is good for the gate alone, and used up. */
  readonly withoutProof: boolean
  readonly route: string
  readonly principal: Principal | undefined
  readonly decisionId: string
  readonly clientAddress: string
  /** The client and the proxies that the request came through. */
  readonly forwardedFor: string
  readonly scheme: string
  /** Host and port on which the policy decided. */
  readonly host: string
  /** Host and port that the upstream is told in their place. */
  readonly sentHost: string
  /** Path that the route has cut off; '' for none. */
  readonly prefix: string
  readonly policyHeaders: readonly (readonly [name: string, value: string])[]
  /** Header names that the policy removes, including headers that it set itself. */
  readonly removed: readonly string[]
}

/** Headers that are never taken from a client, but for those that a route passes. */
const isRemoved = headerTest([
  { of: 'one hop', names: [...hopByHop] },
  ...neverPassed,
  ...identityHeaders,
])

/**
 * Returns the client's headers for both the policy and the upstream, so that the upstream gets no header that the
 * policy did not see. `host` is kept for the policy; `listener/headers` has already put the names in lower case.
 * @param forward The header names that the route removes, and those that it passes, in lower case.
 * @param withheld Headers with a token that the gate has not verified, in lower case.
 * @param tokens Headers that carry tokens of their own; what is not withheld of them is passed on.
 */
export function passedOn(
  { pairs, connectionNames }: RequestHeaders,
  { remove, pass }: { readonly remove?: readonly string[]; readonly pass?: readonly string[] },
  withheld: readonly string[],
  tokens: readonly string[],
): readonly string[] {
  const out: string[] = []
  for (let i = 0; i < pairs.length; i += 2) {
    const name = pairs[i]!
    if (remove?.includes(name)) continue
    // The one value of TE that has a meaning for the upstream: it says that trailers reach the client.
    if (name === 'te' && asksForTrailers(pairs[i + 1])) out.push('te', 'trailers')
    if (isRemoved(name) && !tokens.includes(name) && pass?.includes(name) !== true) continue
    if (withheld.length > 0 && withheld.includes(name)) continue
    if (connectionNames.length > 0 && connectionNames.includes(name)) continue
    out.push(name, pairs[i + 1]!)
  }
  return out
}

/** @param pairs Headers that `passedOn` returned. @returns Flat list of names and values for undici. */
export function upstreamHeaders(
  pairs: readonly string[],
  options: UpstreamHeaderOptions,
): string[] {
  const { forward, principal, policyHeaders, removed } = options
  // Names as CGI-like servers see them: such an upstream would read a client's `x-role` and the policy's `x_role` as
  // one header.
  const set = policyHeaders.length === 0 ? none : policyHeaders.map(([name]) => foldedName(name))
  const withheld = removed.length === 0 ? none : removed.map(foldedName)
  const out: string[] = ['host', options.sentHost]
  for (let i = 0; i < pairs.length; i += 2) {
    const name = pairs[i]!
    if (name === 'host' || (name === 'authorization' && options.withoutAuthorization)) continue
    if (name === 'dpop' && options.withoutProof) continue
    if (set.length > 0 && set.includes(name)) continue
    if (withheld.length > 0 && withheld.includes(name)) continue
    out.push(name, pairs[i + 1]!)
  }
  out.push(
    'x-forwarded-for',
    options.forwardedFor,
    'x-forwarded-proto',
    options.scheme,
    'x-forwarded-host',
    options.host,
    'x-forwarded-port',
    portOf(options.host, options.scheme),
  )
  // Unlike the others, this one a policy may set or remove.
  if (!set.includes('x-real-ip') && !withheld.includes('x-real-ip'))
    out.push('x-real-ip', options.clientAddress)
  if (options.prefix !== '') out.push('x-forwarded-prefix', options.prefix)
  if (forward.identity === 'headers') {
    out.push(
      'x-dropgate-decision-id',
      options.decisionId,
      'x-dropgate-route',
      visible(options.route),
    )
    if (principal !== undefined) out.push(...identityOf(principal))
  }
  for (let i = 0; i < set.length; i++) {
    if (!withheld.includes(set[i]!)) out.push(...policyHeaders[i]!)
  }
  return out
}

const none: readonly string[] = []

/** @param authority Host and port; the port is absent when it is that of the scheme. */
function portOf(authority: string, scheme: string): string {
  const colon = authority.lastIndexOf(':')
  // The colons of an IPv6 address stand in brackets.
  if (colon > authority.lastIndexOf(']')) return authority.slice(colon + 1)
  return scheme === 'https' ? '443' : '80'
}

/** Cache of identity headers by principal: they are the same for each request with its token. */
const identities = new WeakMap<Principal, readonly string[]>()

function identityOf(principal: Principal): readonly string[] {
  let headers = identities.get(principal)
  if (headers === undefined) {
    headers = readIdentity(principal)
    identities.set(principal, headers)
  }
  return headers
}

function readIdentity({ subject, issuer, clientId, sessionId, scopes }: Principal): string[] {
  const out = ['x-dropgate-subject', visible(subject), 'x-dropgate-issuer', visible(issuer)]
  if (clientId !== undefined) out.push('x-dropgate-client', visible(clientId))
  if (sessionId !== undefined) out.push('x-dropgate-session', visible(sessionId))
  if (scopes.length > 0) out.push('x-dropgate-scopes', scopes.map(visible).join(' '))
  return out
}

const plain = /^[\x21-\x24\x26-\x7e]*$/

/** Percent-encodes each byte of the UTF-8 text that is not visible ASCII, and `%`. */
export function visible(text: string): string {
  if (plain.test(text)) return text
  let out = ''
  for (const byte of Buffer.from(text)) {
    out +=
      byte > 0x20 && byte < 0x7f && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return out
}

/** Bytes above 0x7f are allowed in a header value (obs-text), control characters are not. */
const fieldValue = new RegExp(`^[${valueCharacters}${obsText}]*$`)

/**
 * Returns the headers of the client's response.
 * @param raw Flat list of names and values as undici gives it.
 * @param cors Flat list of the cross-origin headers of the route, which replace those of the upstream and the policy;
 * undefined if the route has no cross-origin rules.
 * @param set Headers of the policy, which replace those of the upstream with the same names.
 * @param publicUrls Changes what the upstream says of its own URLs; undefined if there is nothing to change.
 * @throws GateError ERR_UPSTREAM_MALFORMED
 */
export function responseHeaders(
  raw: readonly Buffer[] | readonly string[],
  cors: readonly string[] | undefined,
  set: readonly (readonly [name: string, value: string])[],
  publicUrls: PublicUrls | undefined,
): string[] {
  const out: string[] = []
  let named: string[] | undefined
  for (let i = 0; i < raw.length; i += 2) {
    const name = textOf(raw[i]!)
    const value = textOf(raw[i + 1]!)
    if (!isToken(name) || !fieldValue.test(value)) throw new GateError('ERR_UPSTREAM_MALFORMED')
    const lower = name.toLowerCase()
    if (lower === 'connection') {
      named = [...(named ?? []), ...value.split(',').map((part) => part.trim().toLowerCase())]
    }
    // Refuse any other transfer coding: the header is removed here, so the client would take the coded body for plain.
    if (lower === 'transfer-encoding' && value.toLowerCase() !== 'chunked')
      throw new GateError('ERR_UPSTREAM_MALFORMED')
    // Remove the offer of connection-bound authentication: it needs a connection per caller, see `listener/headers`.
    if (lower === 'www-authenticate' && /^\s*(?:ntlm|negotiate)\b/i.test(value)) continue
    if (cors !== undefined && isCors(lower)) continue
    if (hopByHop.has(lower) || isOurs(lower)) continue
    // A cookie of the policy is added to those of the upstream; every other header is replaced.
    if (set.length > 0 && lower !== 'set-cookie' && set.some(([one]) => one === lower)) continue
    out.push(name, publicUrls === undefined ? value : publicUrls(lower, value))
  }
  const given = cors === undefined ? set : set.filter(([name]) => !isCors(name))
  if (named === undefined) return withPolicy(cors === undefined ? out : [...out, ...cors], given)
  const kept: string[] = [...(cors ?? [])]
  for (let i = 0; i < out.length; i += 2) {
    const lower = out[i]!.toLowerCase()
    if (lower === 'content-length' || !named.includes(lower)) kept.push(out[i]!, out[i + 1]!)
  }
  return withPolicy(kept, given)
}

/**
 * Headers that an answer may not have as trailers (RFC 9110 section 6.5.1): what frames it, what a client or a cache
 * acts on before the body, and what logs in. A client that merges trailers would let them change what was decided.
 */
const noTrailer =
  /^(?:content-.*|access-control-.*|(?:www|proxy)-authenticate|authentication-info|authorization|dpop-nonce|set-cookie2?|cookie|host|expect|range|age|cache-control|expires|date|location|refresh|retry-after|vary|warning|clear-site-data|strict-transport-security|x-frame-options|link|status)$/

/**
 * Returns the trailers that may be passed on.
 * @param raw Flat list of names and values as undici gives it.
 * @param set Headers of the policy, which no trailer may contradict.
 */
export function trailersOf(
  raw: readonly Buffer[],
  set: readonly (readonly [name: string, value: string])[],
): [name: string, value: string][] {
  const out: [name: string, value: string][] = []
  for (let i = 0; i < raw.length; i += 2) {
    const name = textOf(raw[i]!)
    const value = textOf(raw[i + 1]!)
    const lower = name.toLowerCase()
    if (!isToken(name) || !fieldValue.test(value)) continue
    if (hopByHop.has(lower) || isOurs(lower) || noTrailer.test(lower)) continue
    if (set.some(([one]) => one === lower)) continue
    out.push([name, value])
  }
  return out
}

export function asksForTrailers(te: string | undefined): boolean {
  return te !== undefined && /(?:^|,)[ \t]*trailers[ \t]*(?:,|$)/i.test(te)
}

/**
 * The links that Node accepts for an interim answer, and no others. Node's own test reads a value with several `=` in
 * many ways: for one that it refuses in the end, it takes twice as long with every parameter, and 100 bytes would stop the
 * worker for hours.
 */
const plainLink = /^<[^<>]*>(?:[ \t]*;[ \t]*[^=;"\s]+(?:=(?:"[^=;"\s]*"|[^=;"\s]*))?)*$/

/** Returns the values of `Link` in an interim answer. A value that is not passed on is only a hint less. */
export function linksOf(raw: readonly Buffer[]): string[] {
  const out: string[] = []
  for (let i = 0; i < raw.length; i += 2) {
    if (textOf(raw[i]!).toLowerCase() !== 'link') continue
    const value = textOf(raw[i + 1]!)
    if (fieldValue.test(value) && plainLink.test(value)) out.push(value)
  }
  return out
}

/** True when an upstream may take this header for one that the gate writes. @param name Lower case. */
function isOurs(name: string): boolean {
  return name.charCodeAt(0) === 0x78 && foldedName(name).startsWith('x-dropgate-')
}

/** Removes Content-Length: a 204 response must not have it (RFC 9110 section 8.6). */
export function withoutLength(headers: readonly string[]): string[] {
  const kept: string[] = []
  for (let i = 0; i < headers.length; i += 2)
    if (headers[i]!.toLowerCase() !== 'content-length') kept.push(headers[i]!, headers[i + 1]!)
  return kept
}

function withPolicy(
  out: string[],
  set: readonly (readonly [name: string, value: string])[],
): string[] {
  for (const [name, value] of set) out.push(name, value)
  return out
}

function textOf(bytes: Buffer | string): string {
  return typeof bytes === 'string' ? bytes : bytes.toString('latin1')
}
