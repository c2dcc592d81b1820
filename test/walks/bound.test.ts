/** Tokens that are bound to a certificate or a key (claim `cnf`), over every kind of connection that they may come by. */
import { createHash, X509Certificate } from 'node:crypto'
import { request } from 'node:http'
import { Agent, type RequestOptions, request as requestTls } from 'node:https'
import { connect } from 'node:net'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import t from 'tap'
import { fileOf, pair, pemOf, thumbprint } from '../harness/certificates.ts'
import { type DecisionEvent, TestGate } from '../harness/gate.ts'
import { KeyHolder } from '../harness/proofs.ts'
import { ok } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'
import { handshake, switchOrOk } from '../harness/websocket.ts'

/** Both of the same authority, so that the gate lets either connect. */
const alices = pair('client')
const mallorys = pair('renewed')
const bound = { cnf: { 'x5t#S256': thumbprint('client') } }

const host = '127.0.0.1'
const tls = { cert: fileOf('server.pem'), key: fileOf('server.key') }
const mutual = { ...tls, client_ca: fileOf('authority.pem') }
const optional = { ...mutual, client_cert: 'optional' }
const gate = await TestGate.start({
  config: {
    // What one connection has put into the cache another finds there.
    workers: 1,
    listen: [
      { host, port: 0, tls: mutual },
      { host, port: 0, tls: optional },
      { host, port: 0, tls },
      { host, port: 0 },
      { host, port: 0, trusted_proxies: [host] },
      { host, port: 0, tls: optional, trusted_proxies: [host] },
      { host, port: 0, tls: optional, trusted_proxies: [host], proxy_protocol: 'required' },
    ],
  },
  issuer: { from: ['authorization', 'cookie:session', 'websocket-protocol'] },
  routes: [
    { name: 'orders', path: '/orders', origins: ['https://app.example'] },
    { name: 'public', path: '/public', auth: 'none', labels: { visibility: 'public' } },
  ],
}) // biome-ignore format: a table
t.teardown(() => gate.stop())
const [required, asked, unasked, plain, forwarding, secureForwarding, proxied] = gate.gate.address()
  .ports as [number, number, number, number, number, number, number]

interface Answer {
  readonly status: number
  readonly code: string | undefined
  readonly challenge: string | undefined
  readonly id: string
}

interface Ask extends RequestOptions {
  readonly token?: string
}

/** One request over TLS, or in the clear. */
function ask(port: number, { token, ...over }: Ask = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const clear = port === plain || port === forwarding
    const options = {
      host,
      port,
      path: '/orders',
      agent: false,
      ...(clear ? {} : { ca: pemOf('authority.pem'), servername: 'localhost' }),
      ...over,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(over.headers as Record<string, string> | undefined),
      },
    }
    const req = (clear ? request : requestTls)(options, (res) => {
      let body = ''
      res.on('data', (data) => {
        body += data
      })
      res.on('error', reject)
      res.on('end', () => {
        resolve({
          status: res.statusCode!,
          code: body.startsWith('{') ? JSON.parse(body).code : undefined,
          challenge: res.headers['www-authenticate'],
          id: res.headers['x-dropgate-decision-id'] as string,
        })
      })
    })
    req.on('upgrade', (res, socket) => {
      socket.destroy()
      resolve({ status: res.statusCode!, code: undefined, challenge: undefined, id: '' })
    })
    req.on('error', reject)
    req.end()
  })
}

async function recordOf({ id }: Answer): Promise<DecisionEvent> {
  let found: DecisionEvent | undefined
  await until('the record', () => {
    found = gate.log.find(({ decision_id }) => decision_id === id)
    return found !== undefined
  })
  return found!
}

const refused = { status: 401, code: 'ERR_TOKEN_BOUND', challenge: 'Bearer error="invalid_token"' }
const mismatch = (certificate: string): string =>
  `the token is bound to the certificate ${thumbprint('client')}; the connection has ${certificate}`

const elsewhere: [name: string, port: number, over: RequestOptions, connectionHas: string][] = [
  ["over Mallory's connection", required, mallorys, thumbprint('renewed')],
  ["over Mallory's where none is required", asked, mallorys, thumbprint('renewed')],
  ['over TLS without a certificate', asked, {}, 'none'],
  ["over TLS that asks for none, Alice's at hand", unasked, alices, 'none'],
  ['in the clear', plain, {}, 'none'],
] // biome-ignore format: a table

for (const [name, port, over, connectionHas] of elsewhere) {
  t.test(`a token bound to Alice's certificate is none ${name}, known or not`, async (t) => {
    const token = await gate.issuer.token('alice', { claims: bound })
    gate.upstream.seen.length = 0
    const first = await ask(port, { ...over, token })
    t.match(first, refused, 'before the gate has seen it')
    t.match((await recordOf(first)).custom, {
      code: 'ERR_TOKEN_BOUND',
      cause: mismatch(connectionHas),
      issuer: gate.issuer.url,
      subject: 'alice',
    })
    t.equal(gate.upstream.seen.length, 0)
    t.equal((await ask(required, { ...alices, token })).status, 200, "over Alice's connection")
    t.equal((await ask(asked, { ...alices, token })).status, 200, 'and where none is required')
    const { length } = gate.upstream.seen
    const again = await ask(port, { ...over, token })
    t.match(again, refused, 'after it was verified and remembered')
    t.match((await recordOf(again)).custom, { cause: mismatch(connectionHas) })
    t.equal(gate.upstream.seen.length, length)
    t.equal((await ask(required, { ...alices, token })).status, 200, "still good over Alice's")
    const other = await gate.issuer.token('alice')
    t.equal((await ask(port, { ...over, token: other })).status, 200, 'a plain bearer is none')
  })
}

t.test('a token that is bound in another way is refused over every connection', async (t) => {
  const own = bound.cnf
  const jkt = createHash('sha256').update('proof').digest('base64url')
  const jwk = gate.issuer.keys[0]!
  const only = 'only "x5t#S256" and "jkt" are supported'
  const cases: [name: string, cnf: unknown, cause: string][] = [
    ['a key', { jwk }, `its cnf has ["jwk"]; ${only}`],
    ['an encrypted key', { jwe: 'a.b.c.d.e' }, `its cnf has ["jwe"]; ${only}`],
    ['the name of a key', { kid: 'one' }, `its cnf has ["kid"]; ${only}`],
    ['a key elsewhere', { jku: 'https://evil.example/jwks' }, `its cnf has ["jku"]; ${only}`],
    ['a member that is not known', { futures: true }, `its cnf has ["futures"]; ${only}`],
    ['the certificate and more', { ...own, kid: 'one' }, `its cnf has ["x5t#S256","kid"]; ${only}`],
    ['a key and more', { jkt, osc: {} }, `its cnf has ["jkt","osc"]; ${only}`],
    ['nothing', {}, `its cnf has []; ${only}`],
    ['no object', own['x5t#S256'], 'its cnf is not an object'],
    ['a list', [own], 'its cnf is not an object'],
    ['null', null, 'its cnf is not an object'],
    ['a thumbprint of SHA-1', { 'x5t#S256': 'A'.repeat(27) }, 'its x5t#S256 is not a SHA-256 thumbprint in base64url'],
    ['a thumbprint that is no text', { 'x5t#S256': [own['x5t#S256']] }, 'its x5t#S256 is not a SHA-256 thumbprint in base64url'],
  ] // biome-ignore format: a table
  for (const [name, cnf, cause] of cases) {
    const token = await gate.issuer.token('alice', { claims: { cnf } })
    const answers = [
      await ask(required, { ...alices, token }),
      await ask(asked, { token }),
      await ask(plain, { token }),
      // A proof that is not looked at proves nothing.
      await ask(plain, { token, headers: { dpop: await gate.issuer.token('alice', { header: { typ: 'dpop+jwt', jwk } }) } }),
    ] // biome-ignore format: a table
    for (const answer of answers) t.match(answer, refused, name)
    t.match((await recordOf(answers[0]!)).custom, { code: 'ERR_TOKEN_BOUND', cause }, name)
  }
})

t.test('a token that is bound to a certificate and a key needs both', async (t) => {
  const holder = await KeyHolder.make()
  const claims = { cnf: { 'x5t#S256': thumbprint('client'), jkt: holder.jkt } }
  const token = await gate.issuer.token('alice', { claims })
  const authorization = `DPoP ${token}`
  const proof = (): Promise<string> => holder.proof(`https://${host}:${required}/orders`, token)
  const withProof = async (over: object): Promise<Answer> =>
    ask(required, { ...over, headers: { authorization, dpop: await proof() } })
  const used = await proof()
  t.equal((await ask(required, { ...mallorys, headers: { authorization, dpop: used } })).code, 'ERR_TOKEN_BOUND')
  t.equal((await ask(required, { ...alices, headers: { authorization, dpop: used } })).status, 200, 'which has not used it up')
  t.equal((await withProof(alices)).status, 200)
  t.equal((await withProof(mallorys)).code, 'ERR_TOKEN_BOUND')
  t.equal((await ask(required, { ...alices, headers: { authorization } })).code, 'ERR_PROOF_INVALID')
  t.equal((await ask(required, { ...alices, token })).code, 'ERR_TOKEN_BOUND')
}) // biome-ignore format: short

t.test(
  'a certificate that only a header tells of is none, also from a trusted proxy',
  async (t) => {
    const token = await gate.issuer.token('alice', { claims: bound })
    const pem = pemOf('client.pem')
    const der = new X509Certificate(pem).raw.toString('base64')
    const headers = {
      'x-forwarded-for': '198.51.100.7',
      'x-forwarded-proto': 'https',
      'x-forwarded-client-cert': `Hash=${thumbprint('client')};Cert="${encodeURIComponent(pem)}"`,
      'client-cert': `:${der}:`,
      'x-ssl-client-cert': encodeURIComponent(pem),
      'x-client-cert': der,
    }
    for (const [port, over, connectionHas] of [
      [plain, {}, 'none'],
      [forwarding, {}, 'none'],
      [secureForwarding, {}, 'none'],
      [secureForwarding, mallorys, thumbprint('renewed')],
    ] as const) {
      const answer = await ask(port, { ...over, token, headers })
      t.match(answer, refused)
      t.match((await recordOf(answer)).custom, { cause: mismatch(connectionHas) })
    }
    // The proxy is the client of this connection: a token that is bound to the proxy's certificate is the proxy's own.
    const own = { 'x-forwarded-for': '198.51.100.7' }
    t.equal((await ask(secureForwarding, { ...alices, token, headers: own })).status, 200)
  },
)

/** What a whole connection behind a load balancer is answered. */
async function behindBalancer(over: object, token: string): Promise<string> {
  const under = connect(proxied, host)
  under.write('PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n')
  const secure = connectTls({
    socket: under,
    ca: pemOf('authority.pem'),
    servername: 'localhost',
    ...over,
  })
  t.teardown(() => under.destroy())
  let answer = ''
  secure.on('error', () => {})
  secure.on('data', (data) => {
    answer += data.toString('latin1')
  })
  secure.write(`GET /orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${token}\r\n\r\n`)
  await until('an answer', () => /\r\n\r\n[\s\S]+$/.test(answer))
  under.destroy()
  return answer
}

t.test('behind a load balancer that passes TLS on the inner certificate counts', async (t) => {
  const token = await gate.issuer.token('alice', { claims: bound })
  t.match(await behindBalancer(alices, token), /^HTTP\/1\.1 200/)
  t.match(await behindBalancer(mallorys, token), /^HTTP\/1\.1 401[\s\S]*ERR_TOKEN_BOUND/)
  t.match(await behindBalancer({}, token), /^HTTP\/1\.1 401[\s\S]*ERR_TOKEN_BOUND/)
})

t.test('a WebSocket, and tokens in a cookie or a subprotocol, are no other way in', async (t) => {
  gate.upstream.answer = switchOrOk
  t.teardown(() => {
    gate.upstream.answer = ok
  })
  const token = await gate.issuer.token('alice', { claims: bound })
  const ways: [name: string, headers: Record<string, string>, status: number][] = [
    ['a WebSocket', { ...handshake, authorization: `Bearer ${token}` }, 101],
    ['a WebSocket, by subprotocol', { ...handshake, 'sec-websocket-protocol': `bearer.${token}` }, 101],
    ['a WebSocket, by cookie', { ...handshake, cookie: `session=${token}` }, 101],
    ['a cookie', { cookie: `session=${token}`, origin: 'https://app.example' }, 200],
  ] // biome-ignore format: a table
  for (const [name, headers, status] of ways) {
    const { length } = gate.upstream.seen
    for (const [, port, over] of elsewhere)
      t.match(await ask(port, { ...over, headers }), refused, name)
    t.equal(gate.upstream.seen.length, length, name)
    t.equal((await ask(required, { ...alices, headers })).status, status, name)
  }
})

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  t.test(
    `a connection that resumes a session of ${version} is whose that session was`,
    async (t) => {
      const tokens = {
        bound: await gate.issuer.token('alice', { claims: bound }),
        mallory: await gate.issuer.token('mallory', {
          claims: { cnf: { 'x5t#S256': thumbprint('renewed') } },
        }),
      }
      for (const [who, own, others] of [
        [alices, tokens.bound, tokens.mallory],
        [mallorys, tokens.mallory, tokens.bound],
      ] as const) {
        const agent = new Agent({ maxCachedSessions: 1, minVersion: version, maxVersion: version })
        t.teardown(() => agent.destroy())
        const reused: boolean[] = []
        const once = async (token: string): Promise<number> =>
          (await ask(required, { ...who, token, agent })).status
        agent.on('keylog', (_line, socket: TLSSocket) => {
          socket.once('secureConnect', () => reused.push(socket.isSessionReused()))
        })
        t.equal(await once(own), 200)
        t.equal(await once(others), 401)
        t.equal(await once(own), 200)
        t.same([...new Set(reused.slice(-1))], [true], 'it was resumed')
      }
    },
  )
}

t.test('a row that names the certificate a token is bound to denies that token', async (t) => {
  const revoker = await gate.revoker()
  const insert = async (proofKey: string): Promise<string> => {
    const { rows } = await revoker.query(
      'INSERT INTO dropgate.revocations (proof_key) VALUES ($1) RETURNING id',
      [proofKey],
    )
    return rows[0].id
  }
  const remove = (id: string): Promise<unknown> =>
    revoker.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
  const token = await gate.issuer.token('alice', { claims: bound })
  const other = await gate.issuer.token('alice')
  const codeOf = async (token: string): Promise<string | undefined> =>
    (await ask(required, { ...alices, token })).code
  const beside = await insert(thumbprint('renewed'))
  const id = await insert(thumbprint('client'))
  await until('denied', async () => (await codeOf(token)) === 'ERR_REVOKED')
  t.equal(await codeOf(other), undefined, 'not a token that is bound to nothing')
  await remove(id)
  await until('allowed', async () => (await codeOf(token)) === undefined)
  t.equal(await codeOf(token), undefined, 'a row on another certificate is beside the point')
  await remove(beside)
})
