/** Headers: R13 and R15 to R22 of docs/boundary.md; credentials: R23, R33 and R34. */
import { allowed, bare, type Case, type Expectation, get, head, host, refused } from './case.ts'

const malformed = refused(400, 'ERR_HEADER_MALFORMED')
const repeated = refused(400, 'ERR_HEADER_REPEATED')
const tooLarge = refused(431, 'ERR_HEADERS_TOO_LARGE')

const through = (...headers: string[]): Expectation => allowed('GET /public HTTP/1.1', { headers })

/** Never from a client: ours, what upstreams take for the word of a proxy, hop-by-hop, method overrides. */
const reserved: readonly string[] = [
  'X-Dropgate-Subject', 'X-Dropgate-Issuer', 'X-Dropgate-Client', 'X-Dropgate-Session', 'X-Dropgate-Scopes', 'X-Dropgate-Decision-Id',
  'X-Dropgate-Route', 'X-Dropgate-Anything', 'X-Forwarded-For', 'X-Forwarded-Host', 'X-Forwarded-Proto', 'X-Forwarded-Port',
  'X-Forwarded-Prefix', 'X-Forwarded-Uri', 'X-Forwarded-Method', 'X-Forwarded-User', 'X-Forwarded-Client-Cert', 'X-Original-Url',
  'X-Original-Uri', 'X-Original-Method', 'X-Rewrite-Url', 'X-Envoy-Original-Path', 'X-Envoy-External-Address', 'X-Real-Ip',
  'X-Client-Ip', 'True-Client-Ip', 'X-Http-Method-Override', 'X-Method-Override', 'X-Http-Method', 'X-Auth-Request-User',
  'X-Auth-Request-Email', 'X-User', 'Proxy-Authorization', 'Proxy-Connection', 'Keep-Alive',
  'Remote-User', 'Remote-Groups', 'Remote-Email', 'X-Authentik-Username', 'X-Authentik-Jwt', 'X-Pomerium-Claim-Email', 'X-Pomerium-Jwt-Assertion',
  'X-Goog-Authenticated-User-Email', 'X-Goog-Iap-Jwt-Assertion', 'Cf-Access-Authenticated-User-Email', 'Cf-Access-Jwt-Assertion',
  'X-Amzn-Oidc-Identity', 'X-Amzn-Oidc-Data', 'X-Amzn-Mtls-Clientcert-Subject', 'X-Ms-Client-Principal', 'X-Ms-Client-Principal-Name',
  'X-Ms-Token-Aad-Id-Token', 'Tailscale-User-Login', 'Tailscale-Login', 'Teleport-Jwt-Assertion', 'X-Ssl-Client-Verify', 'Ssl-Client-Subject-Dn',
  'X-Client-Cert', 'X-Webauth-User', 'X-Remote-User', 'X-Consumer-Username', 'X-Userinfo', 'L5d-Client-Id', 'Ngrok-Auth-User-Email',
  'Client-Cert', 'Client-Cert-Chain', 'X-Ssl-Client-Cert', 'Ssl-Client-Cert', 'X-Amzn-Mtls-Clientcert', 'X-Amzn-Mtls-Clientcert-Leaf',
] // biome-ignore format: a table

/** Of apps, though they begin like those of proxies. */
const ofApps: readonly string[] = [
  'X-Auth-Token', 'X-Auth-Key', 'X-User-Id', 'X-User-Agent', 'X-Users', 'X-Useful', 'X-Authorization', 'X-Access-Token', 'X-Api-Key', 'X-Csrf-Token',
  'Cf-Access-Client-Id', 'Cf-Access-Client-Secret', 'Remote-Desk', 'X-Hasura-Role', 'Impersonate-User',
] // biome-ignore format: a table

const nameless: readonly string[] = ['Forwarded', 'TE', 'Trailer', 'HTTP2-Settings']

/** Lists by definition (RFC 9110 section 5.3): every value of theirs goes on. */
const lists: readonly string[] = [
  'accept', 'accept-charset', 'accept-encoding', 'accept-language', 'baggage', 'cache-control', 'content-encoding', 'content-language',
  'cookie', 'if-match', 'if-none-match', 'link', 'pragma', 'prefer', 'tracestate', 'via', 'warning',
] // biome-ignore format: a table

const singles: readonly string[] = [
  'Content-Type', 'DPoP', 'Origin', 'Proxy-Authorization', 'X-Forwarded-Uri', 'X-Forwarded-Method', 'X-Dropgate-Subject', 'X-Dropgate-Route',
] // biome-ignore format: a table

/** What a hop must not be asked to drop. */
const notConnections: readonly string[] = [
  'host', 'authorization', 'Authorization', 'AUTHORIZATION', 'cookie', 'origin', 'expect', 'content-length', 'content-type', 'content-encoding',
  'transfer-encoding', 'x-dropgate-subject', 'X-Dropgate-Route', 'x-forwarded-for', 'x-forwarded-host', 'forwarded', 'proxy-authorization',
  'dpop', 'DPoP', 'client-cert', 'x-real-ip', 'x-original-url', 'x_dropgate_subject', 'x.forwarded.for',
] // biome-ignore format: a table

const controls = [1, 2, 7, 8, 11, 12, 14, 27, 31, 127, 128, 160, 233, 255]

const cases: readonly [rule: string, name: string, bytes: string, expectation: Expectation][] = [
  ['R16', 'a header named like a property', get('__proto__: x'), malformed],
  ['R16', 'headers named like methods of objects', get('constructor: x', 'toString: y', 'hasOwnProperty: z'), through('constructor: x', 'tostring: y', 'hasownproperty: z')],
  ['R16', 'every sign a name may have', get('X-09-az: x'), through('x-09-az: x')],
  ...[..."!#$%&'*+.^_`|~"].map((sign): [string, string, string, Expectation] => ['R16', `${sign} in a name`, get(`X${sign}Dropgate${sign}Subject: x`), malformed]),
  ['R17', 'a header that Connection names', get('Connection: x-hop', 'X-Hop: 1', 'X-Kept: 2'), through('x-kept: 2')],
  ['R17', 'named in other letters, with space around it', get('Connection: keep-alive ,\t X-HOP ', 'x-hop: 1'), through()],
  ['R17', 'named in a second Connection header', get('Connection: keep-alive', 'Connection: x-hop', 'X-Hop: 1'), through()],
  ['R17', 'a list with empty elements', get('Connection: ,, x-hop,', 'X-Hop: 1'), through()],
  ['R17', 'an empty Connection', get('Connection:', 'X-A: 1'), through('x-a: 1')],
  ['R17', 'a protected name behind others', get(`Connection: ${'a, '.repeat(50)}authorization`), malformed],
  ['R17', 'a protected name in a second Connection header', get('Connection: close', 'Connection: authorization'), malformed],
  ['R18', 'a header twice', get('X-A: 1', 'X-A: 2'), repeated],
  ['R18', 'a header twice, alike', get('X-A: 1', 'X-A: 1'), repeated],
  ['R18', 'a header twice, in other letters', get('X-A: 1', 'x-a: 2'), repeated],
  ['R18', 'a header twice, far apart', get('X-A: 1', ...Array.from({ length: 50 }, (_, i) => `X-N${i}: 1`), 'X-A: 2'), repeated],
  ['R18', 'where the route joins, both go on', head('GET /lenient HTTP/1.1', 'X-A: 1', 'X-A: 2'), allowed('GET /lenient HTTP/1.1', { route: 'lenient', headers: ['x-a: 1', 'x-a: 2'] })],
  ['R18', 'where the route joins, not what frames', head('GET /lenient HTTP/1.1', 'Content-Type: a/b', 'Content-Type: a/c'), repeated],
  ['R18', 'where the route joins, not the credential', head('GET /lenient HTTP/1.1', 'Authorization: a', 'Authorization: b'), refused(400, 'ERR_CREDENTIAL_REPEATED')],
  ['R19', 'a value of all that may be', get(`X-A: ${visible()}`), through(`x-a: ${visible()}`)],
  ['R19', 'a cookie in UTF-8', get('Cookie: a=caf\xc3\xa9; b=\xe2\x82\xac; c=\xc3\xa0'), through('cookie: a=caf\xc3\xa9; b=\xe2\x82\xac; c=\xc3\xa0')],
  ['R19', 'cookies in UTF-8, apart', get('Cookie: a=\xc3\xa0', 'Cookie: b=\xc3\xa0'), through('cookie: a=\xc3\xa0', 'cookie: b=\xc3\xa0')],
  ...['caf\xe9', '\xc3', '\xa9', '\xc0\xaf', '\xed\xa0\x80', '\xf4\x90\x80\x80', '\xff', 'a\xc3\xa9\x7f', 'a\xc3\xa9\x01'].map((value): [string, string, string, Expectation] => ['R19', 'a cookie in no UTF-8', get(`Cookie: a=${value}`), malformed]),
  ['R19', 'another header in UTF-8', get('X-A: caf\xc3\xa9'), malformed],
  ['R19', 'where the route passes them, bytes go on as they came', head('GET /apart HTTP/1.1', 'X-A: caf\xe9 \xff', 'X-B: caf\xc3\xa9', 'Cookie: a=\xe9'), allowed('GET /apart HTTP/1.1', { route: 'apart', headers: ['x-a: caf\xe9 \xff', 'x-b: caf\xc3\xa9', 'cookie: a=\xe9'] })],
  ...['Content-Type', 'Accept', 'Origin', 'Authorization', 'Sec-Websocket-Protocol', 'Forwarded', 'X-Forwarded-For', 'Access-Control-Request-Method', 'Destination', 'Connection'].map((name): [string, string, string, Expectation] => ['R19', `where the route passes bytes, not in ${name}`, head('GET /apart HTTP/1.1', `${name}: a\xc3\xa9`), malformed]),
  ['R19', 'where the route passes bytes, no control', head('GET /apart HTTP/1.1', 'X-A: \xe9\x7f'), malformed],
  ['R14', 'a method of WebDAV where the route lists it', head('PROPFIND /dav/a HTTP/1.1', 'Depth: 1'), allowed('PROPFIND /dav/a HTTP/1.1', { route: 'dav', headers: ['depth: 1'], framing: 'length' })],
  ['R14', 'a method of WebDAV where the route does not list it', head('LOCK /public HTTP/1.1'), refused(501, 'ERR_METHOD_UNKNOWN')],
  ['R14', 'another method of WebDAV', head('UNLOCK /dav/a HTTP/1.1'), refused(501, 'ERR_METHOD_UNKNOWN')],
  ['R14', 'a usual method that a route of WebDAV does not list', head('DELETE /dav/a HTTP/1.1'), refused(405, 'ERR_METHOD_NOT_ALLOWED', false)],
  ['R14', 'a method that names a second resource in its body', head('BIND /dav/a HTTP/1.1'), refused(501, 'ERR_METHOD_UNKNOWN')],
  ...['/dav/b', `http://${host}/dav/b`, `https://${host}:8443/dav/b`].map((to): [string, string, string, Expectation] => ['R14', `COPY to ${to}`, head('COPY /dav/a HTTP/1.1', `Destination: ${to}`), allowed('COPY /dav/a HTTP/1.1', { route: 'dav', headers: [`destination: ${to}`] })]),
  ...['/public/b', '/dav/../public', '/dav/%2e%2e/public', '/dav//b', '//dav/b', '/dav/a%62', '/dav/[b]', 'dav/b', '', `http://evil.example/dav/b`, `http://${host}@evil.example/dav/b`, `http://u@${host}/dav/b`, `ftp://${host}/dav/b`, '/dav/b#c', '/dav/a%2fb'].map((to): [string, string, string, Expectation] => ['R14', `MOVE to ${to}`, head('MOVE /dav/a HTTP/1.1', `Destination: ${to}`), refused(400, 'ERR_TARGET_MALFORMED')]),
  ['R14', 'two destinations', head('MOVE /dav/a HTTP/1.1', 'Destination: /dav/b', 'Destination: /public/b'), repeated],
  ['R19', 'a tab in a value', get('X-A: a\tb'), through('x-a: a\tb')],
  ['R19', 'space around a value', get('X-A: \t a b \t '), through('x-a: a b')],
  ['R19', 'an empty value', get('X-A:'), through('x-a: ')],
  ['R19', 'NUL in a value', get('X-A: a\0b'), malformed],
  ['R19', 'LF alone in a value', get('X-A: a\nX-B: b'), refused(400, 'ERR_FRAMING')],
  ['R19', 'CR alone in a value', get('X-A: a\rX-B: b'), refused(400, 'ERR_FRAMING')],
  ['R19', 'a value that continues with space', get('X-A: a', ' b'), malformed],
  ['R19', 'a value that continues with a tab', get('X-A: a', '\tb'), malformed],
  ['R19', 'a continued line before any header', `GET /public HTTP/1.1\r\n X-A: b\r\nHost: ${host}\r\n\r\n`, refused(400, 'ERR_FRAMING')],
  ['R16', 'a line without colon', get('X-A'), malformed],
  ['R16', 'a line without name', get(': a'), malformed],
  ['R16', 'a space in a name', get('X A: b'), malformed],
  ['R16', 'a space before the colon', get('X-A : b'), malformed],
  ['R16', 'a tab before the colon', get('X-A\t: b'), malformed],
  ['R16', 'obs-text in a name', get('X-\xe9: b'), malformed],
  ['R16', 'NUL in a name', get('X-\0: b'), malformed],
  ['R20', 'two values of 7 KiB', get(`X-A: ${'a'.repeat(7000)}`, `X-B: ${'b'.repeat(7000)}`), through(`x-a: ${'a'.repeat(7000)}`, `x-b: ${'b'.repeat(7000)}`)],
  ['R20', 'a value of more than 16 KiB', get(`X-A: ${'a'.repeat(16 * 1024 + 1)}`), tooLarge],
  ['R20', 'a value of 64 KiB', get(`X-A: ${'a'.repeat(64 * 1024)}`), tooLarge],
  ['R20', 'a name of 24 KiB', get(`X-${'a'.repeat(24 * 1024)}: b`), tooLarge],
  ['R20', '25 headers of 1 KiB', get(...Array.from({ length: 25 }, (_, i) => `X-N${i}: ${'a'.repeat(1024)}`)), tooLarge],
  ['R23', 'an Authorization of the app where the gate reads none', get('Authorization: Bearer x'), through('authorization: Bearer x')],
  ['R23', 'an Authorization of the app in another scheme', get('Authorization: Basic YTpi'), through('authorization: Basic YTpi')],
  ['R23', 'a proof of the app where the gate reads none', get('Authorization: DPoP x', 'DPoP: y'), through('authorization: DPoP x', 'dpop: y')],
  ['R23', 'no credential', head('GET /orders HTTP/1.1'), refused(401, 'ERR_CREDENTIAL_MISSING', false)],
  ['R34', 'two credentials', get('Authorization: Bearer x', 'authorization: Bearer y'), refused(400, 'ERR_CREDENTIAL_REPEATED')],
].map((each) => each as [string, string, string, Expectation]) // biome-ignore format: a table

const credentials: readonly [name: string, value: string, code: string][] = [
  ['another scheme', 'Basic YWxpY2U6eA==', 'ERR_CREDENTIAL_MISSING'],
  ['a scheme that begins like ours', 'Bearerx a.b.c', 'ERR_CREDENTIAL_MISSING'],
  ['a scheme alone', 'Bearer', 'ERR_CREDENTIAL_MISSING'],
  ['a token without scheme', 'a.b.c', 'ERR_CREDENTIAL_MISSING'],
  ['a token of one part', 'Bearer abc', 'ERR_TOKEN_MALFORMED'],
  ['a token of two parts', 'Bearer a.b', 'ERR_TOKEN_MALFORMED'],
  ['a token of empty parts', 'Bearer ..', 'ERR_TOKEN_MALFORMED'],
  ['two tokens', 'Bearer a.b.c, Bearer a.b.c', 'ERR_TOKEN_MALFORMED'],
  ['a token and more', 'Bearer a.b.c d', 'ERR_TOKEN_MALFORMED'],
  ['a token that is no JSON', 'Bearer eHg.eHg.eHg', 'ERR_TOKEN_MALFORMED'],
  ['a token without algorithm', `Bearer ${[{}, {}].map(part).join('.')}.eA`, 'ERR_TOKEN_MALFORMED'],
  ['a token without issuer', `Bearer ${[{ alg: 'ES256' }, {}].map(part).join('.')}.eA`, 'ERR_TOKEN_ISSUER'],
  ['a token of five parts', `Bearer ${part({ alg: 'dir', enc: 'A128GCM' })}.a.b.c.d`, 'ERR_TOKEN_MALFORMED'],
] // biome-ignore format: a table

function part(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

function visible(): string {
  return Array.from({ length: 0x7e - 0x21 + 1 }, (_, i) => String.fromCharCode(0x21 + i)).join('')
}

export const headerCases: readonly Case[] = [
  ...[...reserved, ...nameless].map((name) => ({
    rule: name.includes('Method') ? 'R13' : 'R15',
    name: `${name} ends here`,
    bytes: get(`${name}: forged`, 'X-Kept: 1'),
    expectation: through('x-kept: 1'),
  })),
  ...ofApps.map((name) => ({
    rule: 'R15',
    name: `${name} goes on`,
    bytes: get(`${name}: of the app`),
    expectation: through(`${name.toLowerCase()}: of the app`),
  })),
  {
    rule: 'R15',
    name: 'one that another proxy gives, on a route that passes it',
    bytes: head('GET /lenient HTTP/1.1', 'Remote-User: x', 'X-Auth-User: y', 'X-User: z'),
    expectation: allowed('GET /lenient HTTP/1.1', {
      route: 'lenient',
      headers: ['remote-user: x', 'x-auth-user: y'],
    }),
  },
  ...reserved.flatMap((name) =>
    ['_', '.'].map((sign) => ({
      rule: 'R16',
      name: `${name} with ${sign}`,
      bytes: get(`${name.replaceAll('-', sign)}: forged`),
      expectation: malformed,
    })),
  ),
  ...lists.map((name) => ({
    rule: 'R18',
    name: `${name} twice is a list`,
    bytes: get(`${name}: a`, `X-A: 1`, `${name.toUpperCase()}: b`),
    expectation: through(`${name}: a`, 'x-a: 1', `${name}: b`),
  })),
  ...singles.map((name) => ({
    rule: 'R18',
    name: `${name} twice`,
    bytes: get(`${name}: a`, `${name.toLowerCase()}: a`),
    expectation: repeated,
  })),
  ...notConnections.map((name) => ({
    rule: 'R17',
    name: `Connection names ${name}`,
    bytes: get(`Connection: ${name}`),
    expectation: malformed,
  })),
  ...controls.map((code) => ({
    rule: 'R19',
    name: `byte ${code} in a value`,
    bytes: get(`X-A: a${String.fromCharCode(code)}b`),
    expectation: malformed,
  })),
  ...[...'"(),/:;<=>?@[\\]{}'].map((sign) => ({
    rule: 'R16',
    name: `${sign} in a name`,
    bytes: get(`X${sign}A: b`),
    // A colon ends the name: what follows is the value.
    expectation: sign === ':' ? through('x: A: b') : malformed,
  })),
  ...cases.map(([rule, name, bytes, expectation]) => ({ rule, name, bytes, expectation })),
  ...credentials.map(([name, value, code]) => ({
    rule: 'R33',
    name,
    bytes: bare('GET /orders HTTP/1.1', `Host: ${host}`, `Authorization: ${value}`),
    expectation: refused(401, code, false),
  })),
]
