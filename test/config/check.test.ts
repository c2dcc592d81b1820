/** What cannot match or work is refused with the path of its key, the reason, and what to write. */
import { join } from 'node:path'
import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import { schema } from '../../src/config/options.ts'
import { warningsOf } from '../../src/config/warnings.ts'
import type { GateError } from '../../src/errors.ts'

const route = { name: 'a', auth: 'none', upstream: 'http://127.0.0.1:9001' }
const least = { database: { url: 'postgres://gate@127.0.0.1/gate' }, routes: [route] }
const withRoute = (part: object): object => ({ ...least, routes: [{ ...route, ...part }] })
const withIssuer = (part: object): object => ({
  ...least,
  issuers: [{ issuer: 'https://idp.example', audience: ['api'], ...part }],
})

const withListen = (part: object): object => ({ ...least, listen: [part] })
const behind = { trusted_proxies: ['10.0.0.0/8'] }
const withFetch = (fetch: object, part: object = {}): object => withIssuer({ fetch, ...part })
const keySetFile = join(t.testdir({ 'keys.json': '{"keys": [{}]}' }), 'keys.json')
const tenant = '9122040d-6c67-4c5b-b112-36a304b66dad'
const entra = { issuer: 'https://login.example/{tenantid}/v2.0' }

const read = (written: object) => readConfig(JSON.stringify(written), '.', {})

function refusal(written: object): GateError {
  try {
    read(written)
  } catch (error) {
    return error as GateError
  }
  throw new Error(`accepted ${JSON.stringify(written)}`)
}

/** Each is the only problem of its configuration. */
const refused: readonly (readonly [object, string, string])[] = [
  // Upstreams: an origin, since the path that was decided on is the path that is sent.
  [withRoute({ upstream: 'http://a/v1' }), 'routes[0].upstream', 'found a URL with the path /v1'],
  [withRoute({ upstream: 'http://a/v1?k=secret' }), 'routes[0].upstream', 'the path /v1 and a query'],
  [withRoute({ upstream: 'http://u:secret@a' }), 'routes[0].upstream', 'found a URL with a user or password'],
  [withRoute({ upstream: 'ws://a' }), 'routes[0].upstream', 'found a URL with the scheme ws'],
  [withRoute({ upstream: 'http://a:80' }), 'routes[0].upstream', 'write http://a'],
  [withRoute({ upstream: 'http://a:99999' }), 'routes[0].upstream', 'the host or port is malformed'],
  [withRoute({ upstream: 'unix:run/a.sock' }), 'routes[0].upstream', 'or unix:/run/app.sock'],
  [withRoute({ upstream: 'unix:/run/' }), 'routes[0].upstream', 'is a folder'],
  [withRoute({ upstream: `unix:/${'a'.repeat(107)}` }), 'routes[0].upstream', 'at most 107 bytes'],
  [withRoute({ upstream: 'unix:/run/a.sock', tls: {} }), 'routes[0].tls', 'not an https origin'],
  [withRoute({ base_path: 'v1' }), 'routes[0].base_path', 'such as /v1'],
  [withRoute({ base_path: '/v1/' }), 'routes[0].base_path', 'such as /v1'],
  [withRoute({ path: '/a', strip_prefix: true, methods: ['GET', 'MOVE'] }), 'routes[0].methods', 'MOVE cannot be used'],
  [withRoute({ base_path: '/v1', methods: ['COPY'] }), 'routes[0].methods', 'COPY cannot be used'],
  [withRoute({ preflight: 'pass', cors: { origins: ['https://a.example'] } }), 'routes[0].preflight', 'beside cors'],
  // Issuers and their tokens.
  [withIssuer({ issuer: 'https://login.example/{tenantid}/v2.0' }), 'issuers[0].issuer', '{tenantid} needs tenants: list the ids'],
  [withIssuer({ issuer: 'https://login.example/{tenant}/v2.0' }), 'issuers[0].issuer', '{tenant} is a placeholder'],
  [withIssuer({ issuer: 'https://login.example/{tenantid}/{policy}', tenants: 'any' }), 'issuers[0].issuer', '{policy} is a placeholder'],
  [withIssuer({ issuer: 'https://login.example/v2.0', tenants: 'any' }), 'issuers[0].issuer', 'expected {tenantid} once, as a whole segment'],
  [withIssuer({ issuer: 'https://{tenantid}.login.example/', tenants: 'any' }), 'issuers[0].issuer', 'expected {tenantid} once, as a whole segment'],
  [withIssuer({ issuer: 'https://login.example/{tenantid}/{tenantid}', tenants: 'any' }), 'issuers[0].issuer', 'expected {tenantid} once, as a whole segment'],
  [withIssuer({ ...entra, tenants: [] }), 'issuers[0].tenants', 'expected any, or a list of tenant ids'],
  [withIssuer({ ...entra, tenants: ['contoso.onmicrosoft.com'] }), 'issuers[0].tenants', 'expected any, or a list of tenant ids'],
  [withIssuer({ ...entra, tenants: [tenant.toUpperCase()] }), 'issuers[0].tenants', 'tenant ids in lower case'],
  [withIssuer({ ...entra, tenants: 'all' }), 'issuers[0].tenants', 'expected any, or a list of tenant ids'],
  [{ ...least, issuers: [{ ...entra, tenants: [tenant], audience: ['a'] }, { issuer: `https://login.example/${tenant}/v2.0`, audience: ['a'] }] }, 'issuers[1].issuer', `${tenant}/v2.0 is a duplicate`],
  [{ ...least, issuers: [{ ...entra, tenants: 'any', audience: ['a'] }, { ...entra, tenants: [tenant], audience: ['a'] }] }, 'issuers[1].issuer', '{tenantid}/v2.0 is a duplicate'],
  [withIssuer({ jwks_uri: 'https://login.example/{tenantid}/keys' }), 'issuers[0].jwks_uri', '{tenantid} is a placeholder'],
  [withIssuer({ issuer: 'https://idp.example/my realm' }), 'issuers[0].issuer', 'has a space'],
  [withIssuer({ issuer: 'https://idp.example#a' }), 'issuers[0].issuer', 'no fragment'],
  [withIssuer({ issuer: 'http://idp.example' }), 'issuers[0].issuer', 'expected an https URL, or http on loopback'],
  [withIssuer({ audience: ['api', '*'] }), 'issuers[0].audience', '* is no audience'],
  [withRoute({ audience: ['*'] }), 'routes[0].audience', '* is no audience'],
  [withRoute({ auth: 'optional' }), 'routes[0].auth', 'auth is optional, but there are no issuers'],
  [{ ...withIssuer({ from: ['cookie:s'] }), routes: [{ ...route, auth: 'optional' }] }, 'routes[0].origins', 'are taken from a cookie'],
  [withIssuer({ from: ['header:X-Goog-Iap-Jwt-Assertion'] }), 'issuers[0].from[0]', 'read from trusted proxies only, and there are none'],
  [withIssuer({ preset: 'google-iap' }), 'issuers[0].from[0]', 'the header x-goog-iap-jwt-assertion is read from trusted proxies only'],
  [withIssuer({ from: ['header:X_Token'] }), 'issuers[0].from[0]', 'header:NAME'],
  [withIssuer({ from: [5] }), 'issuers[0].from[0]', 'header:NAME'],
  [withIssuer({ from: [['header:x']] }), 'issuers[0].from[0]', 'header:NAME'],
  [withIssuer({ from: ['header:'] }), 'issuers[0].from[0]', 'header:NAME'],
  [withIssuer({ issuer: 'https://login.example/<tenant>' }), 'issuers[0].issuer', '<tenant> is a placeholder'],
  [withIssuer({ issuer: ' https://idp.example' }), 'issuers[0].issuer', 'begins or ends with a space'],
  [withIssuer({ issuer: 'https://idp.example?a=b' }), 'issuers[0].issuer', 'no query'],
  [withIssuer({ issuer: 'idp.example/realm' }), 'issuers[0].issuer', 'write https://idp.example/realm'],
  [withIssuer({ audience: [''] }), 'issuers[0].audience[0]', 'expected at least one audience name, such as [api], found ""'],
  [withIssuer({ audience: [] }), 'issuers[0].audience', 'expected a list'],
  [withIssuer({ audience: 'api' }), 'issuers[0].audience', 'write [api]'],
  [withIssuer({ from: ['cookie:a b'] }), 'issuers[0].from[0]', 'expected authorization, cookie:NAME'],
  [withIssuer({ from: ['cookie:a=b'] }), 'issuers[0].from[0]', 'expected authorization, cookie:NAME'],
  [withIssuer({ claims: { tenant: 'tid' } }), 'issuers[0].claims.tenant', 'write /tid'],
  // How an issuer's keys are fetched. No message has a header's value, a token or a proxy's password.
  [withFetch({ tls: { ca: '/no/such' } }), 'issuers[0].fetch.tls.ca', '/no/such cannot be read (ENOENT)'],
  [withFetch({ token_file: '/no/such' }), 'issuers[0].fetch.token_file', '/no/such cannot be read (ENOENT)'],
  [withFetch({ token_file: 'package.json', headers: { Authorization: 'x' } }), 'issuers[0].fetch.token_file', 'not both'],
  [withFetch({ headers: { 'a b': 'secret' } }), 'issuers[0].fetch.headers.a b', 'not the name of a header'],
  [withFetch({ headers: { Host: 'secret' } }), 'issuers[0].fetch.headers.Host', 'sets itself'],
  [withFetch({ headers: { 'transfer-encoding': 'secret' } }), 'issuers[0].fetch.headers.transfer-encoding', 'sets itself'],
  [withFetch({ headers: { 'accept-encoding': 'secret' } }), 'issuers[0].fetch.headers.accept-encoding', 'sets itself'],
  [withFetch({ headers: { 'If-None-Match': 'secret' } }), 'issuers[0].fetch.headers.If-None-Match', 'sets itself'],
  [withFetch({ headers: { 'x-key': 'secret\r\nhost: a' } }), 'issuers[0].fetch.headers.x-key', 'cannot have'],
  [withFetch({ headers: { 'x-key': '' } }), 'issuers[0].fetch.headers.x-key', 'empty'],
  [withFetch({ headers: { 'x-key': ['secret'] } }), 'issuers[0].fetch.headers.x-key', 'not shown'],
  [withFetch({ proxy: 'user:secret@proxy:3128' }), 'issuers[0].fetch.proxy', 'not shown'],
  [withFetch({ proxy: 'socks5://user:secret@proxy' }), 'issuers[0].fetch.proxy', 'not shown'],
  [withFetch({ proxy: 'http://user:secret%zz@proxy' }), 'issuers[0].fetch.proxy', 'malformed'],
  [withFetch({ proxy: 'http://proxy:3128', http_networks: ['10.0.0.0/8'] }), 'issuers[0].fetch.http_networks', 'proxy'],
  [withFetch({ http_networks: ['10.1.2.3/8'] }), 'issuers[0].fetch.http_networks[0]', 'bits set after its prefix'],
  [withFetch({ http_networks: ['10.0.0.0/8'] }, { jwks_uri: 'http://11.0.0.1/jwks' }), 'issuers[0].jwks_uri', 'in fetch.http_networks'],
  [withFetch({}, { jwks_uri: 'http://idp.internal/jwks' }), 'issuers[0].jwks_uri', 'in fetch.http_networks'],
  [withFetch({ proxy: 'http://proxy:3128' }, { jwks_uri: 'http://127.0.0.1/jwks' }), 'issuers[0].jwks_uri', 'expected an https URL'],
  [withFetch({ headers: { 'x-key': 'a' } }, { jwks_file: keySetFile }), 'issuers[0].fetch', 'nothing is fetched'],
  [withIssuer({ jwks_file: '/no/such' }), 'issuers[0].jwks_file', '/no/such cannot be read (ENOENT)'],
  // Headers that a route passes: only those of the list, and not what it removes.
  [withRoute({ forward: { pass: ['X-Dropgate-Subject'] } }), 'routes[0].forward.pass[0]', 'is not a header by which another proxy names'],
  [withRoute({ forward: { pass: ['remote-user', 'x-forwarded-user'] } }), 'routes[0].forward.pass[1]', 'is not a header by which another proxy names'],
  [withRoute({ forward: { pass: ['connection'] } }), 'routes[0].forward.pass[0]', 'is not a header by which another proxy names'],
  [withRoute({ forward: { pass: ['x-auth-token'] } }), 'routes[0].forward.pass[0]', 'so this changes nothing'],
  [withRoute({ forward: { pass: ['X-User'], remove: ['x-user'] } }), 'routes[0].forward.pass[0]', 'x-user is in remove too'],
  // Certificates that proxies pass on.
  [withListen({ client_cert_form: 'client-cert' }), 'listen[0].trusted_proxies', 'list the proxies that may pass on client certificates'],
  [withListen({ ...behind, client_cert_form: 'envoy' }), 'listen[0].client_cert_form', 'expected one of none, client-cert, nginx, xfcc'],
  [withListen({ ...behind, client_cert_form: 'xfcc', client_cert_header: 'X-Cert' }), 'listen[0].client_cert_header', 'only used with client_cert_form: nginx'],
  [withListen({ ...behind, client_cert_header: 'X-Cert' }), 'listen[0].client_cert_header', 'only used with client_cert_form: nginx'],
  [withListen({ ...behind, client_cert_form: 'nginx', client_cert_header: 'X-Forwarded-For' }), 'listen[0].client_cert_header', 'is the name of another header'],
  [withListen({ ...behind, client_cert_form: 'nginx', client_cert_header: 'Authorization' }), 'listen[0].client_cert_header', 'a header name that begins with X- or SSL-'],
  // Proofs.
  [{ ...least, limits: { dpop_proofs: '1KiB' } }, 'limits.dpop_proofs', 'at least 64KiB'],
  [{ ...least, limits: { dpop_proof_age: '500ms' } }, 'limits.dpop_proof_age', 'at least 1s'],
  [withRoute({ dpop_nonce: 'require' }), 'routes[0].dpop_nonce', 'did you mean required?'],
  // Pages: what a browser sends, compared exactly.
  [withRoute({ origins: ['https://app.example/'] }), 'routes[0].origins[0]', 'a slash at its end'],
  [withRoute({ origins: ['https://*.example'] }), 'routes[0].origins[0]', 'write out each origin'],
  ...['chrome-extension://*', '*://app.example', 'https://app.example:*'].flatMap((origin) => [
    [withRoute({ origins: [origin] }), 'routes[0].origins[0]', origin.startsWith('*') ? 'expected origins' : 'write out each origin'],
    [withRoute({ cors: { origins: [origin] } }), 'routes[0].cors.origins[0]', origin.startsWith('*') ? 'expected origins' : 'write out each origin'],
  ] as const),
  ...['wss://app.example', 'ws://app.example', 'file://app', 'ftp://app.example', 'data://a', 'blob://a'].map((origin) =>
    [withRoute({ origins: [origin] }), 'routes[0].origins[0]', 'no page has the origin'] as const),
  [withRoute({ origins: ['null'] }), 'routes[0].origins[0]', 'expected origins'],
  [withRoute({ origins: ['https://b\u00fccher.example'] }), 'routes[0].origins[0]', 'write https://xn--bcher-kva.example'],
  [withRoute({ origins: ['https://app.example:0443'] }), 'routes[0].origins[0]', 'write https://app.example'],
  [withRoute({ origins: ['https://0x7f.1'] }), 'routes[0].origins[0]', 'write https://127.0.0.1'],
  [withRoute({ origins: ['https://App.example'] }), 'routes[0].origins[0]', 'write https://app.example'],
  [withRoute({ cors: { origins: ['https://a.example:443'] } }), 'routes[0].cors.origins[0]', 'write https://a.example'],
  // Values that are nearly right.
  [withRoute({ methods: ['get'] }), 'routes[0].methods[0]', 'did you mean GET?'],
  [withRoute({ methods: 'GET' }), 'routes[0].methods', 'write [GET]'],
  [withRoute({ stale: 'alow' }), 'routes[0].stale', 'did you mean allow?'],
  [withRoute({ decision: 'data.gate.authz.decision' }), 'routes[0].decision', 'write gate/authz/decision'],
  [withRoute({ path: 'orders' }), 'routes[0].path', 'write /orders'],
  [{ ...least, drain_timeout: 30 }, 'drain_timeout', 'write 30s for seconds'],
  [{ ...least, drain_timeout: '5 sec' }, 'drain_timeout', 'write 5s'],
  [{ ...least, drain_timeout: '1h30m' }, 'drain_timeout', 'write 90m'],
  [{ ...least, limits: { header_bytes: '16MB' } }, 'limits.header_bytes', 'write 16MiB'],
  [{ ...least, listen: { port: '8080' } }, 'listen[0].port', 'write 8080, without quotes'],
  [{ ...least, listen: { host: 'http://0.0.0.0:80' } }, 'listen[0].host', 'write 0.0.0.0, and 80 as port'],
  [{ ...least, admin: { host: '[::1]' } }, 'admin.host', 'write ::1'],
  [{ ...least, admin: { port: 8080 } }, 'admin.port', '8080 is already used by listen[0].port'],
  [{ ...least, database: 'embeded' }, 'database', 'did you mean embedded?'],
  [{ ...least, listen: { tls: { cert: '/no/such', key: '/no/such' } } }, 'listen[0].tls.cert', 'cannot be read (ENOENT)'],
] // biome-ignore format: a table

t.test('each is refused where it stands, with the reason and what to write', async (t) => {
  for (const [written, path, said] of refused) {
    const { code, problems, message } = refusal(written)
    t.match(code, /^ERR_CONFIG_(?:VALUE|FILE)$/, message)
    t.equal(problems![0]!.path, path, message)
    t.match(problems![0]!.message, said, message)
    t.notMatch(message, /secret/)
  }
})

t.test('an algorithm that is not supported is not taken for one that looks like it', async (t) => {
  t.notMatch(refusal(withIssuer({ algorithms: ['HS256'] })).message, /did you mean/)
  t.match(refusal(withIssuer({ algorithms: ['es256'] })).message, /did you mean ES256\?/)
})

t.test('a header with a meaning of its own carries no token', async (t) => {
  const behind = (name: string): object => ({
    ...withIssuer({ from: [`header:${name}`] }),
    listen: { trusted_proxies: ['10.0.0.0/8'] },
  })
  for (const name of [
    ...[
      'Authorization',
      'Cookie',
      'Set-Cookie',
      'Host',
      'Forwarded',
      'Via',
      'Origin',
      'Referer',
      'User-Agent',
      'Expect',
    ],
    ...[
      'X-SSL-Client-Cert',
      'SSL-Client-Cert',
      'X-Amzn-Mtls-Clientcert',
      'X-Forwarded-For',
      'X-Forwarded-Proto',
      'X-Forwarded-Host',
      'X-Forwarded-User',
      'X-Real-IP',
      'X-Original-URL',
    ],
    ...[
      'Connection',
      'Keep-Alive',
      'TE',
      'Trailer',
      'Transfer-Encoding',
      'Upgrade',
      'Proxy-Authorization',
      'Proxy-Status',
    ],
    ...[
      'Content-Length',
      'Content-Type',
      'Content-Anything',
      'Accept',
      'Accept-Language',
      'Access-Control-Request-Method',
    ],
    ...[
      'Sec-WebSocket-Protocol',
      'If-Match',
      'Cache-Control',
      'Client-Cert',
      'X-Dropgate-Subject',
      'X-HTTP-Method-Override',
    ],
  ]) {
    const { problems } = refusal(behind(name))
    t.equal(problems![0]!.path, 'issuers[0].from[0]', name)
    t.match(problems![0]!.message, /has another meaning and cannot carry a token.*; write /, name)
  }
  for (const name of [
    'X-Goog-Iap-Jwt-Assertion',
    'Cf-Access-Jwt-Assertion',
    'X-Amzn-Oidc-Accesstoken',
    'X-Forwarded-Access-Token',
    'X-Token',
    'Authorization-Token',
  ])
    t.same(read(behind(name)).issuers[0]!.from, [`header:${name.toLowerCase()}`])
  const edge = {
    ...behind('X-Edge'),
    listen: {
      trusted_proxies: ['10.0.0.0/8'],
      client_cert_form: 'nginx',
      client_cert_header: 'x-EDGE',
    },
  }
  t.match(
    refusal(edge).message,
    /issuers\[0\]\.from\[0\].*another meaning/,
    'the certificate of another listener',
  )
  const one = {
    ...withIssuer({ from: ['header:X-Token'] }),
    listen: [{ port: 0 }, { port: 0, trusted_proxies: ['10.0.0.0/8'] }],
  }
  t.ok(read(one), 'one listener with proxies is enough')
})

t.test('any tenant is accepted with a warning', async (t) => {
  t.same(warningsOf(read(withIssuer({ ...entra, tenants: [tenant] }))), [])
  t.match(warningsOf(read(withIssuer({ ...entra, tenants: 'any' }))), [
    { path: 'issuers[0].tenants', message: /every tenant/ },
  ])
  const own = { issuer: `https://login.example/${tenant}/v2.0`, audience: ['a'] }
  t.ok(
    read({ ...least, issuers: [{ ...entra, tenants: 'any', audience: ['a'] }, own] }),
    'one of them has rules of its own',
  )
})

t.test('what is unusual and works is accepted', async (t) => {
  const accepted: readonly object[] = [
    withRoute({ upstream: 'http://A.example' }),
    withRoute({ upstream: 'http://[::1]:9001/' }),
    withRoute({ origins: ['chrome-extension://abc', 'http://localhost:3000'] }),
    withRoute({ cors: { origins: ['*', 'null'] } }),
    withIssuer({ issuer: 'https://login.example/6f1b/v2.0/' }),
    withFetch({ http_networks: ['10.0.0.0/8'] }, { issuer: 'http://10.9.8.7:8080/realms/a' }),
    withFetch({ http_networks: ['10.0.0.0/8'] }, { jwks_uri: 'http://idp.internal/jwks' }),
    withFetch({ headers: { 'x-key': 'a b', accept: '*/*' }, token_file: 'package.json' }),
    withFetch({ proxy: 'http://user:pass@proxy.internal:3128/' }),
    { ...least, listen: { host: '::' } },
    { ...least, listen: { host: 'localhost' } },
  ]
  for (const written of accepted) t.ok(read(written), JSON.stringify(written))
})

t.test('a header with client certificates at one port is removed on every route', async (t) => {
  const edge = { ...behind, client_cert_form: 'nginx', client_cert_header: 'X-Edge-Cert' }
  const routes = [route, { ...route, name: 'b', path: '/b', forward: { remove: ['X-Role'] } }]
  const config = read({ ...least, listen: [{ port: 1 }, { port: 2, ...edge }], routes })
  t.same(config.routes.map(({ forward }) => forward.remove), [['x-edge-cert'], ['x-role', 'x-edge-cert']])
  t.notOk(read(least).routes[0]!.forward.remove)
}) // biome-ignore format: short

t.test(
  'every audience is accepted with a warning, where a route asks for none of its own',
  async (t) => {
    const any = withIssuer({ audience: 'none' })
    const pathsWith = (part: object): readonly string[] =>
      warningsOf(read({ ...any, routes: [{ ...route, ...part }] })).map(({ path }) => path)
    t.same(pathsWith({ auth: 'required' }), ['issuers[0].audience'])
    t.same(pathsWith({ auth: 'optional' }), ['issuers[0].audience'])
    t.same(pathsWith({ auth: 'required', audience: ['api'] }), [])
    t.same(pathsWith({ auth: 'none' }), [])
  },
)
interface Node {
  readonly properties?: Record<string, Node>
  readonly items?: Node
  readonly description?: string
  readonly 'x-unit'?: string
  readonly 'x-zero'?: string
  readonly 'x-compared'?: true
}

/** The path of each duration and size in the table of options. */
function unitsOf(
  node: Node,
  path: readonly string[] = [],
): [path: readonly string[], node: Node][] {
  if (node.properties !== undefined)
    return Object.entries(node.properties).flatMap(([key, child]) => unitsOf(child, [...path, key]))
  if (node.items?.properties !== undefined) return unitsOf(node.items, [...path, '0'])
  const unit = node['x-unit']
  return unit === 'duration' || unit === 'size' ? [[path, node]] : []
}

/** The least configuration with one more value. */
function withValue(path: readonly string[], value: string): object {
  const written = structuredClone({
    ...withIssuer({}),
    routes: [{ ...route, cors: { origins: ['https://a.example'] } }],
  }) as Record<string, unknown>
  let at = written
  for (const key of path.slice(0, -1)) {
    at[key] ??= {}
    at = at[key] as Record<string, unknown>
  }
  at[path.at(-1)!] = value
  return written
}

t.test('0 of a duration or size is what the table says, or is refused', async (t) => {
  const units = unitsOf(schema as Node)
  t.ok(units.length > 35)
  for (const [path, node] of units) {
    const name = path.join('.')
    const zero = node['x-unit'] === 'size' ? '0B' : '0s'
    if (node['x-zero'] !== undefined) {
      t.ok(read(withValue(path, zero)), name)
      t.match(node.description, new RegExp(zero), `${name} says what ${zero} means`)
    } else {
      const { problems } = refusal(withValue(path, zero))
      t.equal(problems![0]!.path, name.replace(/\.0(?=\.)/g, '[0]'), name)
      t.match(problems![0]!.message, /with 0[sB] nothing could work/, name)
    }
    if (node['x-unit'] === 'size') continue
    if (node['x-compared']) t.ok(read(withValue(path, '400d')), name)
    else t.match(refusal(withValue(path, '400d')).message, /no timer can wait for longer/, name)
  }
  t.equal(read({ ...least, drain_timeout: '0.1ms' }).drain_timeout, 1, 'very little is not nothing')
})
