/**
 * What a list of headers means by docs/boundary.md (R1, R3, R15 to R20) and what of it an upstream gets, worked out
 * from folded names and plain loops, apart from src/listener/headers.ts and src/upstream/headers.ts.
 */
import { decode } from './target.ts'

/** The refusals that are right: all of them where there is more than one reason. */
export type Reasons = ReadonlySet<string>

/** No other sign: a CGI-like server folds each of them into the same one. */
const nameSigns = '-0123456789abcdefghijklmnopqrstuvwxyz'

/** Names as they compare: case, `_`, `.` and space make no difference (R16). */
export function fold(name: string): string {
  let out = ''
  for (const sign of name.toLowerCase())
    out += sign === '_' || sign === '.' || sign === ' ' ? '-' : sign
  return out
}

export const listNames: readonly string[] = [
  'accept', 'accept-charset', 'accept-encoding', 'accept-language', 'access-control-request-headers', 'baggage', 'cache-control',
  'connection', 'content-encoding', 'content-language', 'cookie', 'forwarded', 'if-match', 'if-none-match', 'link', 'pragma', 'prefer',
  'sec-websocket-extensions', 'sec-websocket-protocol', 'te', 'trailer', 'tracestate', 'via', 'warning', 'x-forwarded-for',
] // biome-ignore format: a table

const once: readonly string[] = [
  'content-length', 'content-type', 'destination', 'dpop', 'expect', 'origin', 'proxy-authorization', 'transfer-encoding', 'upgrade', 'x-forwarded-method', 'x-forwarded-uri',
] // biome-ignore format: a table

/** Never taken from a client, whatever it says. */
export function isReserved(name: string): boolean {
  const folded = fold(name)
  const exact = [
    'connection', 'keep-alive', 'proxy-connection', 'proxy-authorization', 'proxy-authenticate', 'te', 'trailer', 'transfer-encoding', 'upgrade',
    'http2-settings', 'expect', 'host', 'forwarded', 'x-real-ip', 'x-client-ip', 'true-client-ip', 'x-rewrite-url', 'x-http-method',
    'x-http-method-override', 'x-method-override', 'x-cluster-client-ip', 'cf-connecting-ip', 'client-cert', 'client-cert-chain',
    'cf-connecting-ipv6', 'cf-pseudo-ipv4', 'fastly-client-ip', 'fly-client-ip', 'x-azure-clientip', 'x-azure-socketip', 'x-appengine-user-ip',
    'do-connecting-ip', 'x-nf-client-connection-ip', 'x-vercel-forwarded-for', 'proxy-client-ip', 'client-ip',
    'remote-user', 'remote-groups', 'remote-name', 'remote-email', 'remote-sub', 'x-user', 'x-userinfo', 'x-jwt-assertion',
    'x-client-cert', 'x-client-certificate', 'x-client-verify', 'x-client-dn', 'x-client-s-dn', 'x-tls-client-cert', 'x-arr-clientcert',
    'x-auth-user', 'x-auth-userid', 'x-auth-username', 'x-auth-email', 'x-auth-name', 'x-auth-groups', 'x-auth-roles', 'x-auth-subject',
    'x-auth-audience', 'x-auth-expiresin', 'x-credential-identifier', 'x-credential-username', 'x-anonymous-consumer',
    'x-pomerium-jwt-assertion', 'x-pomerium-jwt-assertion-for', 'x-goog-iap-jwt-assertion', 'x-appengine-inbound-appid',
    'x-endpoint-api-userinfo', 'x-apigateway-api-userinfo', 'cf-access-authenticated-user-email', 'cf-access-jwt-assertion',
    'tailscale-login', 'tailscale-name', 'tailscale-tailnet', 'tailscale-profile-picture', 'tailscale-app-capabilities', 'teleport-jwt-assertion',
    'l5d-client-id', 'l5d-remote-ip', 'l5d-dst-override', 'x-token-subject', 'x-token-user-name', 'x-token-user-email', 'x-token-user-roles',
    'oidc-access-token', 'oidc-id-token', 'oidc-id-token-payload', 'iv-user', 'iv-user-l', 'iv-groups', 'iv-creds', 'oam-remote-user',
    'sm-user', 'sm-userdn', 'sm-universalid', 'wl-proxy-client-cert', 'wl-proxy-client-ip', 'wl-proxy-ssl',
  ] // biome-ignore format: a table
  const families = [
    ...['x-dropgate', 'x-forwarded', 'x-original', 'x-envoy', 'x-auth-request', 'x-authenticated', 'ssl-client'],
    ...['x-remote', 'x-consumer', 'x-ssl', 'x-authentik', 'x-pomerium-claim', 'x-goog-authenticated-user', 'x-appengine-user'],
    ...['x-amzn-oidc', 'x-amzn-mtls', 'x-ms-client-principal', 'x-ms-token', 'tailscale-user', 'ngrok-auth', 'x-vouch', 'x-webauth'],
    ...['oidc-claim', 'shib'],
  ] // biome-ignore format: a table
  if (exact.includes(folded)) return true
  return families.some((family) => folded === family || folded.startsWith(`${family}-`))
}

export function isProtected(name: string): boolean {
  const folded = fold(name)
  const exact = [
    'host',
    'authorization',
    'dpop',
    'cookie',
    'client-cert',
    'origin',
    'expect',
    'transfer-encoding',
    'forwarded',
    'x-real-ip',
  ]
  const families = ['content-', 'proxy-', 'x-dropgate-', 'x-forwarded-', 'x-original-', 'x-envoy-']
  return exact.includes(folded) || families.some((family) => folded.startsWith(family))
}

export interface HeaderLimits {
  readonly headers: number
  readonly header_bytes: number
}

export function reasonsAgainst(
  pairs: readonly (readonly [name: string, value: string])[],
  version: '1.0' | '1.1',
  limits: HeaderLimits,
): Reasons {
  const reasons = new Set<string>()
  const seen = new Map<string, string[]>()
  let bytes = 0
  for (const [name, value] of pairs) {
    const lower = name.toLowerCase()
    bytes += name.length + value.length + 4
    if (lower === '' || [...lower].some((sign) => !nameSigns.includes(sign)))
      reasons.add('ERR_HEADER_MALFORMED')
    for (const sign of value) {
      const code = sign.charCodeAt(0)
      if ((code < 0x20 && code !== 9) || code === 0x7f || code > 0xff)
        reasons.add('ERR_HEADER_MALFORMED')
      if (code > 0x7f && isRead(lower)) reasons.add('ERR_HEADER_MALFORMED')
    }
    seen.set(lower, [...(seen.get(lower) ?? []), value])
  }
  if (pairs.length > limits.headers || bytes > limits.header_bytes)
    reasons.add('ERR_HEADERS_TOO_LARGE')
  for (const [name, values] of seen) {
    if (values.length < 2) continue
    if (name === 'host') reasons.add('ERR_HOST_MALFORMED')
    else if (name === 'authorization') reasons.add('ERR_CREDENTIAL_REPEATED')
    else if (once.includes(name) || name.startsWith('x-dropgate-'))
      reasons.add('ERR_HEADER_REPEATED')
  }
  const valuesOf = (name: string): string[] => seen.get(name) ?? []
  const [host] = valuesOf('host')
  if (host === undefined || host === '') reasons.add('ERR_HOST_MALFORMED')
  for (const length of valuesOf('content-length')) if (!isLength(length)) reasons.add('ERR_FRAMING')
  for (const coding of valuesOf('transfer-encoding')) {
    if (version !== '1.1' || valuesOf('content-length').length > 0) reasons.add('ERR_FRAMING')
    if (coding.toLowerCase() !== 'chunked') reasons.add('ERR_TRANSFER_CODING')
  }
  for (const expectation of valuesOf('expect')) {
    if (version === '1.1' && expectation.toLowerCase() !== '100-continue')
      reasons.add('ERR_EXPECTATION')
  }
  if (named(pairs).some(isProtected)) reasons.add('ERR_HEADER_MALFORMED')
  return reasons
}

/** Headers that the gate reads, or that are lists: bytes above 0x7F are refused there on every route. */
function isRead(name: string): boolean {
  if (name === 'cookie') return false
  if (once.includes(name) || listNames.includes(name)) return true
  const families = ['sec-', 'x-forwarded-', 'x-dropgate-', 'access-control-']
  return (
    ['host', 'authorization', 'forwarded'].includes(name) ||
    families.some((each) => name.startsWith(each))
  )
}

/** A value with bytes above 0x7F, for the route to say: any, but a cookie in UTF-8. */
export function needsRoute(pairs: readonly (readonly [name: string, value: string])[]): boolean {
  return pairs.some(([name, value]) => {
    const high = [...value].some((sign) => sign > '\x7f')
    return high && (name.toLowerCase() !== 'cookie' || decode(value) === undefined)
  })
}

function isLength(text: string): boolean {
  if (text.length < 1 || text.length > 16) return false
  for (const sign of text) if (sign < '0' || sign > '9') return false
  return Number(text) <= Number.MAX_SAFE_INTEGER
}

/** Lower-case names that the `Connection` headers list. */
function named(pairs: readonly (readonly [name: string, value: string])[]): string[] {
  const names: string[] = []
  for (const [name, value] of pairs) {
    if (name.toLowerCase() !== 'connection') continue
    for (const part of value.split(','))
      if (part.trim() !== '') names.push(part.trim().toLowerCase())
  }
  return names
}

/** A name that comes twice and is no list: for the route to say. */
export function repeats(pairs: readonly (readonly [name: string, value: string])[]): boolean {
  const names = pairs.map(([name]) => name.toLowerCase())
  return names.some((name, i) => names.indexOf(name) !== i && !listNames.includes(name))
}

/** What the upstream gets of the client's headers, in their order. */
export function passed(
  pairs: readonly (readonly [name: string, value: string])[],
  keepAuthorization: boolean,
): (readonly [string, string])[] {
  const dropped = named(pairs)
  return pairs
    .map(([name, value]) => [name.toLowerCase(), value] as const)
    .map(([name, value]) => (name === 'te' && wantsTrailers(value) ? trailers : [name, value]))
    .filter((pair) => pair === trailers || (!isReserved(pair[0]!) && !dropped.includes(pair[0]!)))
    .map((pair) => [pair[0]!, pair[1]!] as const)
    .filter(([name]) => keepAuthorization || (name !== 'authorization' && name !== 'dpop'))
}

/** All that is left of `TE`: that trailers are welcome. */
const trailers: readonly string[] = ['te', 'trailers']

function wantsTrailers(te: string): boolean {
  return te.split(',').some((part) => part.trim().toLowerCase() === 'trailers')
}
