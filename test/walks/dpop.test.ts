/**
 * Tokens that a real provider has bound to a key or a certificate, on a whole gate with several workers: their proofs, the
 * ways around them, and certificates that a proxy in front of the gate passes on.
 */
import { createHash, X509Certificate } from 'node:crypto'
import { createServer, type IncomingHttpHeaders, Agent as PlainAgent, request } from 'node:http'
import { createServer as createTlsServer, request as requestTls } from 'node:https'
import type { TLSSocket } from 'node:tls'
import { exportJWK, generateKeyPair } from 'jose'
import Provider from 'oidc-provider'
import t from 'tap'
import { fileOf, pair, pemOf, thumbprint } from '../harness/certificates.ts'
import { type DecisionEvent, TestGate } from '../harness/gate.ts'
import { KeyHolder } from '../harness/proofs.ts'
import { clientOf, jwtAccessTokens } from '../harness/provider.ts'
import { ok } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'
import { handshake, switchOrOk } from '../harness/websocket.ts'

const alices = pair('client')
const mallorys = pair('renewed')
const pem = alices.cert
const der = new X509Certificate(pem).raw

// --- A provider that binds tokens to keys (DPoP) and certificates (mTLS) ---------------------------------------------------

const plainProvider = createServer()
const secureProvider = createTlsServer({
  ...pair('server'),
  ca: pemOf('authority.pem'),
  requestCert: true,
  rejectUnauthorized: false,
})
for (const server of [plainProvider, secureProvider])
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const portOf = (server: typeof plainProvider): number => (server.address() as { port: number }).port
const issuer = `http://127.0.0.1:${portOf(plainProvider)}`
const { privateKey } = await generateKeyPair('ES256', { extractable: true })
const provider = new Provider(issuer, {
  clients: [
    clientOf('billing'),
    clientOf('payroll', { tls_client_certificate_bound_access_tokens: true }),
  ],
  jwks: {
    keys: [{ ...(await exportJWK(privateKey)), kid: 'idp-1', alg: 'ES256', use: 'sig' } as never],
  },
  extraTokenClaims: () => ({ roles: ['clerk', 'manager'] }),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    dPoP: { enabled: true },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      getCertificate: ({ socket }: { socket: TLSSocket }) => socket.getPeerX509Certificate?.(),
    },
    resourceIndicators: jwtAccessTokens,
  },
})
for (const server of [plainProvider, secureProvider]) server.on('request', provider.callback())

interface SignIn {
  readonly holder?: KeyHolder
  readonly over?: typeof alices
}

/** An access token, bound to the key of this holder or to the certificate of the connection. */
async function signIn(id: 'billing' | 'payroll', { holder, over }: SignIn = {}): Promise<string> {
  const server = over === undefined ? plainProvider : secureProvider
  const origin = over === undefined ? issuer : `https://127.0.0.1:${portOf(server)}`
  const headers: Record<string, string> = {
    authorization: `Basic ${btoa(`${id}:a-secret`)}`,
    'content-type': 'application/x-www-form-urlencoded',
  }
  if (holder !== undefined)
    headers.dpop = await holder.proof(`${origin}/token`, undefined, { method: 'POST' })
  const form = 'grant_type=client_credentials&scope=orders:read&resource=https://orders.example'
  const { body } = await send(portOf(server), {
    path: '/token',
    method: 'POST',
    headers,
    form,
    ...(over === undefined ? {} : { tls: over }),
  })
  const { access_token: token } = JSON.parse(body) as { access_token?: string }
  if (token === undefined) throw new Error(body)
  return token
}

// --- The gate --------------------------------------------------------------------------------------------------------------

const host = '127.0.0.1'
const tls = {
  cert: fileOf('server.pem'),
  key: fileOf('server.key'),
  client_ca: fileOf('authority.pem'),
  client_cert: 'optional',
}
const behind = { host, port: 0, trusted_proxies: [host] }
const forms = ['client-cert', 'nginx', 'xfcc', 'aws', 'aws-passthrough'] as const
const gate = await TestGate.start({
  config: {
    workers: 3,
    issuers: [
      {
        issuer,
        audience: ['api'],
        algorithms: ['ES256'],
        from: ['authorization', 'cookie:session', 'websocket-protocol'],
      },
    ],
    listen: [
      { host, port: 0 },
      { host, port: 0, tls },
      behind,
      { ...behind, tls, client_cert_form: 'client-cert' },
      ...forms.map((form) => ({
        ...behind,
        client_cert_form: form,
        ...(form === 'nginx' ? { client_cert_header: 'X-Edge-Certificate' } : {}),
      })),
    ],
  },
  routes: [
    { name: 'orders', path: '/orders', origins: ['https://app.example'] },
    { name: 'kept', path: '/orders/kept', forward: { authorization: 'keep' }, origins: ['https://app.example'] },
    { name: 'fresh', path: '/orders/fresh', dpop_nonce: 'required', origins: ['https://app.example'] },
    { name: 'open', path: '/public/open', auth: 'optional', labels: { visibility: 'public' }, origins: ['https://app.example'] },
    { name: 'public', path: '/public', auth: 'none', labels: { visibility: 'public' } },
  ],
}) // biome-ignore format: a table
t.teardown(async () => {
  await gate.stop()
  for (const server of [plainProvider, secureProvider]) {
    server.closeAllConnections()
    server.close()
  }
})
const [plain, secure, forwarding, secureForwarding, ...byForm] = gate.gate.address().ports as [
  number,
  number,
  number,
  number,
  ...number[],
]

interface Sent {
  readonly path?: string
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly form?: string
  /** Over TLS, with the client's certificate. */
  readonly tls?: object
  readonly agent?: PlainAgent
}

interface Answer {
  readonly status: number
  readonly code: string | undefined
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

function send(port: number, { path = '/orders', tls: over, form, agent, ...rest }: Sent): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const options = { host, port, path, ...rest, agent: agent ?? (false as const) }
    const secured = { ...options, agent: false as const, ca: pemOf('authority.pem'), servername: 'localhost', ...over }
    const req = over === undefined ? request(options) : requestTls(secured)
    req.on('response', (res) => {
      let body = ''
      res.on('data', (data) => {
        body += data
      })
      res.on('error', reject)
      res.on('end', () => {
        const code = body.startsWith('{') ? JSON.parse(body).code : undefined
        resolve({ status: res.statusCode!, code, headers: res.headers, body })
      })
    })
    req.on('upgrade', (res, socket) => {
      socket.destroy()
      resolve({ status: res.statusCode!, code: undefined, headers: res.headers, body: '' })
    })
    req.on('error', reject)
    req.end(form)
  })
} // biome-ignore format: long signatures

const urlAt = (port: number, path = '/orders'): string => `http://${host}:${port}${path}`
const dpop = (token: string, proof: string): Record<string, string> => ({
  authorization: `DPoP ${token}`,
  dpop: proof,
})
const bearer = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` })
const algs = 'algs="ES256 ES384 ES512 EdDSA Ed25519 RS256 RS384 RS512 PS256 PS384 PS512"'
const challenge = (error: string) => ({ 'www-authenticate': `DPoP error="${error}", ${algs}` })

/** A refusal names its record itself, the record of an allowed request is named to the upstream. */
async function recordOf({ headers }: Pick<Answer, 'headers'>): Promise<DecisionEvent> {
  const id = headers['x-dropgate-decision-id']
  let found: DecisionEvent | undefined
  await until('the record', () => {
    found = gate.log.find(({ decision_id }) => decision_id === id)
    return found !== undefined
  })
  return found!
}

const holder = await KeyHolder.make()
const mallory = await KeyHolder.make('EdDSA')
const keyBound = await signIn('billing', { holder })

// --- Keys ------------------------------------------------------------------------------------------------------------------

t.test('a token that the provider bound to a key passes with a proof, and the proof stays here', async (t) => {
  for (const [path, kept] of [['/orders', false], ['/orders/kept', true]] as const) {
    gate.upstream.seen.length = 0
    const proof = await holder.proof(urlAt(plain, path), keyBound)
    const answer = await send(plain, { path, headers: dpop(keyBound, proof) })
    t.match(answer, { status: 200 }, path)
    t.equal(answer.headers['dpop-nonce'], undefined)
    const told = Object.fromEntries(gate.upstream.seen[0]!.headers)
    t.equal(told['x-dropgate-client'], 'billing')
    t.equal(told.authorization, kept ? `DPoP ${keyBound}` : undefined)
    t.equal(told.dpop, kept ? proof : undefined)
    const { input, erased } = await recordOf({ headers: told })
    t.notMatch(JSON.stringify(input), proof.slice(0, 30), 'nor is it logged')
    t.ok(erased!.includes('/input/attributes/request/http/headers/dpop'))
  }
  const post = await holder.proof(urlAt(plain, '/orders?a=1'), keyBound, { method: 'POST' })
  t.match(await send(plain, { path: '/orders?b=2', method: 'POST', headers: dpop(keyBound, post) }), { status: 200 })
}) // biome-ignore format: short

t.test('a proof that is presented again is refused on every worker, also at the same moment', async (t) => {
  const agents = Array.from({ length: 24 }, () => new PlainAgent({ keepAlive: true, maxSockets: 1 }))
  t.teardown(() => { for (const agent of agents) agent.destroy() })
  const workers = new Set<unknown>()
  for (let round = 0; round < 5; round++) {
    const headers = dpop(keyBound, await holder.proof(urlAt(plain), keyBound))
    gate.upstream.seen.length = 0
    const answers = await Promise.all(agents.map((agent) => send(plain, { headers, agent })))
    t.equal(answers.filter(({ status }) => status === 200).length, 1, 'one of them passes')
    t.equal(gate.upstream.seen.length, 1)
    const others = answers.filter(({ status }) => status !== 200)
    t.same([...new Set(others.map(({ code }) => code))], ['ERR_PROOF_REPLAYED'])
    t.match(others[0]!.headers, challenge('invalid_dpop_proof'))
    for (const answer of others) workers.add((await recordOf(answer)).custom.worker)
    const later = await Promise.all(agents.map((agent) => send(plain, { headers, agent })))
    t.same([...new Set(later.map(({ code }) => code))], ['ERR_PROOF_REPLAYED'], 'and none later')
  }
  t.ok(workers.size > 1, `workers ${[...workers]}`)
}) // biome-ignore format: short

t.test('a token that is bound to a key is worth nothing without a proof of its own', async (t) => {
  const proof = (): Promise<string> => holder.proof(urlAt(plain), keyBound)
  const foreign = await signIn('billing', { holder: mallory })
  const unbound = await signIn('billing')
  const [head, body, signature] = keyBound.split('.')
  const claims = JSON.parse(Buffer.from(body!, 'base64url').toString())
  t.equal(claims.cnf.jkt, holder.jkt, 'as the provider writes it')
  const stripped = Buffer.from(JSON.stringify({ ...claims, cnf: undefined })).toString('base64url')
  const rebound = Buffer.from(JSON.stringify({ ...claims, cnf: { jkt: mallory.jkt } })).toString('base64url')
  const malloryFor = (token: string): Promise<string> => mallory.proof(urlAt(plain), token)
  const strippedToken = `${head}.${stripped}.${signature}`
  const reboundToken = `${head}.${rebound}.${signature}`
  const cases: [name: string, headers: Record<string, string>, code: string, error: string, cause: RegExp][] = [
    ['as a plain bearer', bearer(keyBound), 'ERR_TOKEN_BOUND', 'invalid_token', /scheme Bearer/],
    ['as a bearer with a good proof', { ...bearer(keyBound), dpop: await proof() }, 'ERR_TOKEN_BOUND', 'invalid_token', /scheme Bearer/],
    ['under DPoP without a proof', { authorization: `DPoP ${keyBound}` }, 'ERR_PROOF_INVALID', 'invalid_dpop_proof', /there is none/],
    ['with the proof of another key', dpop(keyBound, await malloryFor(keyBound)), 'ERR_TOKEN_BOUND', 'invalid_token', /bound to the key/],
    ['with the proof for another token', dpop(keyBound, await holder.proof(urlAt(plain), foreign)), 'ERR_PROOF_INVALID', 'invalid_dpop_proof', /ath/],
    ['with the proof for another path', dpop(keyBound, await holder.proof(urlAt(plain, '/public'), keyBound)), 'ERR_PROOF_INVALID', 'invalid_dpop_proof', /htu/],
    ['with the proof for another port', dpop(keyBound, await holder.proof(urlAt(secure), keyBound)), 'ERR_PROOF_INVALID', 'invalid_dpop_proof', /htu/],
    ['with the proof for https', dpop(keyBound, await holder.proof(urlAt(plain).replace('http', 'https'), keyBound)), 'ERR_PROOF_INVALID', 'invalid_dpop_proof', /htu/],
    ['in a cookie without a proof', { cookie: `session=${keyBound}`, origin: 'https://app.example' }, 'ERR_PROOF_INVALID', 'invalid_dpop_proof', /there is none/],
    ['with its cnf stripped', bearer(strippedToken), 'ERR_TOKEN_SIGNATURE', '', /signature/],
    ['with its cnf stripped, under DPoP', dpop(strippedToken, await holder.proof(urlAt(plain), strippedToken)), 'ERR_TOKEN_SIGNATURE', 'invalid_token', /signature/],
    ['with another cnf', dpop(reboundToken, await malloryFor(reboundToken)), 'ERR_TOKEN_SIGNATURE', 'invalid_token', /signature/],
    ['a token that is not bound, under DPoP', dpop(unbound, await holder.proof(urlAt(plain), unbound)), 'ERR_TOKEN_BOUND', 'invalid_token', /not bound to a key/],
  ]
  gate.upstream.seen.length = 0
  for (const [name, headers, code, error, cause] of cases) {
    const answer = await send(plain, { headers })
    t.match(answer, { status: 401, code }, name)
    t.match(answer.headers, error === '' ? { 'www-authenticate': 'Bearer error="invalid_token"' } : challenge(error), name)
    t.match(`${(await recordOf(answer)).custom.cause}`, cause, name)
  }
  t.equal(gate.upstream.seen.length, 0, 'none has reached the upstream')
  t.match(await send(plain, { headers: dpop(foreign, await malloryFor(foreign)) }), { status: 200 }, "Mallory's own is good")
  t.match(await send(plain, { headers: bearer(unbound) }), { status: 200 }, 'a plain bearer is one')
}) // biome-ignore format: a table

t.test('two proofs, or two tokens, are refused before anything is read in them', async (t) => {
  const proof = await holder.proof(urlAt(plain), keyBound)
  const raw = (...lines: string[]): Promise<string> =>
    gate.raw(`GET /orders HTTP/1.1\r\nHost: ${host}:${plain}\r\n${lines.join('\r\n')}\r\n\r\n`)
  const authorization = `Authorization: DPoP ${keyBound}`
  t.match(await raw(authorization, `DPoP: ${proof}`, `dpop: ${proof}`), /^HTTP\/1.1 400 .*ERR_HEADER_REPEATED/s)
  t.match(await raw(authorization, `Authorization: Bearer ${keyBound}`, `DPoP: ${proof}`), /^HTTP\/1.1 400 .*ERR_CREDENTIAL_REPEATED/s)
  t.match(await raw(authorization, `Cookie: session=${keyBound}`, `DPoP: ${proof}`), /^HTTP\/1.1 400 .*ERR_CREDENTIAL_REPEATED/s)
  t.match(await raw(authorization, `DPoP: ${proof}`, 'Connection: dpop'), /^HTTP\/1.1 400 .*ERR_HEADER_MALFORMED/s)
  t.match(await raw(`Authorization: dpop  ${keyBound}`, `dpop: ${proof}`), /^HTTP\/1.1 200/, 'and none has used it up')
}) // biome-ignore format: short

t.test('cookies, subprotocols and WebSockets pass with a proof', async (t) => {
  gate.upstream.answer = switchOrOk
  t.teardown(() => {
    gate.upstream.answer = ok
  })
  const ways: [name: string, headers: Record<string, string>, status: number][] = [
    ['a WebSocket', { ...handshake, authorization: `DPoP ${keyBound}` }, 101],
    ['a WebSocket, by subprotocol', { ...handshake, 'sec-websocket-protocol': `bearer.${keyBound}` }, 101],
    ['a WebSocket, by cookie', { ...handshake, cookie: `session=${keyBound}` }, 101],
    ['a cookie', { cookie: `session=${keyBound}`, origin: 'https://app.example' }, 200],
  ]
  for (const [name, headers, status] of ways) {
    t.match(await send(plain, { headers }), { status: 401, code: 'ERR_PROOF_INVALID' }, name)
    const proof = await holder.proof(urlAt(plain), keyBound)
    t.match(await send(plain, { headers: { ...headers, dpop: proof } }), { status }, name)
    t.match(await send(plain, { headers: { ...headers, dpop: proof } }), { code: 'ERR_PROOF_REPLAYED' }, name)
  }
  const fresh = await send(plain, { path: '/orders/fresh', headers: { ...handshake, ...dpop(keyBound, await holder.proof(urlAt(plain, '/orders/fresh'), keyBound)) } })
  const nonce = fresh.headers['dpop-nonce']
  const proof = await holder.proof(urlAt(plain, '/orders/fresh'), keyBound, { claims: { nonce } })
  const open = await send(plain, { path: '/orders/fresh', headers: { ...handshake, ...dpop(keyBound, proof) } })
  t.equal(open.status, 101)
  t.type(open.headers['dpop-nonce'], 'string', 'a WebSocket gets the next nonce too')
}) // biome-ignore format: short

t.test('the URL of a proof is the one that clients see, over TLS and behind a proxy', async (t) => {
  const over = async (port: number, htu: string, sent: Sent = {}): Promise<Answer> => {
    const headers = { ...dpop(keyBound, await holder.proof(htu, keyBound)), ...sent.headers }
    return send(port, { ...sent, headers })
  }
  const named = { headers: { host: 'localhost' }, tls: {} }
  t.equal((await over(secure, 'https://localhost/orders', named)).status, 200)
  t.equal((await over(secure, 'http://localhost/orders', named)).code, 'ERR_PROOF_INVALID')
  const edge = { headers: { host: 'api.example', 'x-forwarded-proto': 'https', 'x-forwarded-for': '198.51.100.7' } }
  t.equal((await over(forwarding, 'https://api.example/orders', edge)).status, 200)
  t.equal((await over(forwarding, 'http://api.example/orders', edge)).code, 'ERR_PROOF_INVALID')
  t.equal((await over(plain, 'https://api.example/orders', edge)).code, 'ERR_PROOF_INVALID', 'no proxy is trusted there')
  t.equal((await over(plain, 'http://api.example/orders', edge)).status, 200)
}) // biome-ignore format: short

t.test('a route with nonces tells each client its next one', async (t) => {
  const ask = async (nonce?: unknown): Promise<Answer> => {
    const proof = await holder.proof(urlAt(plain, '/orders/fresh'), keyBound, { claims: { nonce } })
    return send(plain, { path: '/orders/fresh', headers: dpop(keyBound, proof) })
  }
  gate.upstream.answer = (socket) =>
    socket.write('HTTP/1.1 200 OK\r\nDPoP-Nonce: of-the-upstream\r\nContent-Length: 0\r\n\r\n')
  t.teardown(() => {
    gate.upstream.answer = ok
  })
  const first = await ask()
  t.match(first, { status: 401, code: 'ERR_PROOF_NONCE', headers: challenge('use_dpop_nonce') })
  const nonce = first.headers['dpop-nonce']
  t.type(nonce, 'string')
  // As many as reach every worker: the nonce is that of the gate.
  for (const answer of await Promise.all(Array.from({ length: 12 }, () => ask(nonce)))) {
    t.equal(answer.status, 200, answer.body)
    t.match(answer.headers['dpop-nonce'], /^[A-Za-z0-9_-]{43}$/, 'in place of the one of the upstream')
  }
  t.equal((await ask('guessed')).code, 'ERR_PROOF_NONCE')
}) // biome-ignore format: short

t.test('where a token is optional, one that is bound needs its proof all the same', async (t) => {
  const path = '/public/open'
  t.equal((await send(plain, { path })).status, 200, 'none')
  t.match(await send(plain, { path, headers: bearer(keyBound) }), { status: 401, code: 'ERR_TOKEN_BOUND' })
  t.match(await send(plain, { path, headers: { authorization: `DPoP ${keyBound}` } }), { code: 'ERR_PROOF_INVALID' })
  const proof = await holder.proof(urlAt(plain, path), keyBound)
  t.equal((await send(plain, { path, headers: dpop(keyBound, proof) })).status, 200)
  t.equal((await send(plain, { path, headers: dpop(keyBound, proof) })).code, 'ERR_PROOF_REPLAYED')
}) // biome-ignore format: short

// --- Certificates ----------------------------------------------------------------------------------------------------------

const own: Readonly<Record<(typeof forms)[number], readonly [name: string, value: string]>> = {
  'client-cert': ['client-cert', `:${der.toString('base64')}:`],
  nginx: ['x-edge-certificate', encodeURIComponent(pem)],
  xfcc: ['x-forwarded-client-cert', `Hash=${createHash('sha256').update(der).digest('hex')};Cert="${encodeURIComponent(pem)}"`],
  aws: ['x-amzn-mtls-clientcert-leaf', encodeURIComponent(pem)],
  'aws-passthrough': ['x-amzn-mtls-clientcert', encodeURIComponent(pem + pemOf('authority.pem'))],
} // biome-ignore format: a table

t.test('a token that the provider bound to a certificate is good over that connection only', async (t) => {
  const token = await signIn('payroll', { over: alices })
  const headers = bearer(token)
  t.equal((await send(secure, { tls: alices, headers })).status, 200)
  for (const [port, over] of [[secure, { tls: mallorys }], [secure, { tls: {} }], [plain, {}]] as const)
    t.match(await send(port, { ...over, headers }), { status: 401, code: 'ERR_TOKEN_BOUND', headers: { 'www-authenticate': 'Bearer error="invalid_token"' } })
  const proof = await holder.proof(`https://${host}:${secure}/orders`, token)
  t.match(await send(secure, { tls: alices, headers: dpop(token, proof) }), { code: 'ERR_TOKEN_BOUND' }, 'a proof is not what it wants')
}) // biome-ignore format: short

t.test('a trusted proxy passes certificates on in the form of its listener, and nobody else does', async (t) => {
  const token = await signIn('payroll', { over: alices })
  for (const [i, form] of forms.entries()) {
    for (const [other, [name, value]] of Object.entries(own)) {
      const answer = await send(byForm[i]!, { headers: { ...bearer(token), [name]: value } })
      t.match(answer, form === other ? { status: 200 } : { code: 'ERR_TOKEN_BOUND' }, `${other} where ${form} is set`)
      for (const port of [plain, forwarding])
        t.equal((await send(port, { headers: { ...bearer(token), [name]: value } })).code, 'ERR_TOKEN_BOUND', `${other} without a form`)
    }
    const [name] = own[form]
    t.match(await send(byForm[i]!, { headers: { ...bearer(token), [name]: 'x' } }), { status: 400, code: 'ERR_HEADER_MALFORMED' }, form)
    t.match(await send(byForm[i]!, { headers: bearer(token) }), { code: 'ERR_TOKEN_BOUND' }, `${form}: none`)
  }
  // The proxy's own certificate is never that of its client, even if a token is bound to it.
  const malloryCert = `:${new X509Certificate(mallorys.cert).raw.toString('base64')}:`
  for (const headers of [bearer(token), { ...bearer(token), 'client-cert': malloryCert }])
    t.equal((await send(secureForwarding, { tls: alices, headers })).code, 'ERR_TOKEN_BOUND')
  const [name, value] = own['client-cert']
  t.equal((await send(secureForwarding, { tls: mallorys, headers: { ...bearer(token), [name]: value } })).status, 200)
}) // biome-ignore format: short

t.test('the headers of every form are removed, from whomever they come', async (t) => {
  const headers = {
    ...Object.fromEntries(Object.values(own)),
    'client-cert-chain': `:${der.toString('base64')}:`,
    'x-ssl-client-cert': encodeURIComponent(pem),
    'ssl-client-cert': encodeURIComponent(pem),
    'x-amzn-mtls-clientcert-subject': 'CN=alice',
  }
  for (const port of [plain, secure, forwarding, ...byForm]) {
    gate.upstream.seen.length = 0
    const answer = await send(port, { path: '/public', headers, ...(port === secure ? { tls: alices } : {}) })
    t.equal(answer.status, 200)
    const told = Object.fromEntries(gate.upstream.seen[0]!.headers)
    const names = Object.keys(told)
    t.same(names.filter((name) => /cert|ssl|mtls/.test(name)), [], 'not sent')
    t.notMatch(JSON.stringify((await recordOf({ headers: told })).input), /cert|ssl|mtls/i, 'not seen by the policy')
  }
}) // biome-ignore format: short

// --- Revocation ------------------------------------------------------------------------------------------------------------

t.test('rows name the key of a token, and a certificate that a proxy passes on', async (t) => {
  const revoker = await gate.revoker()
  const bound = await KeyHolder.make()
  const token = await signIn('billing', { holder: bound })
  const ask = async (): Promise<Answer> =>
    send(plain, { headers: dpop(token, await bound.proof(urlAt(plain), token)) })
  t.equal((await ask()).status, 200)
  await revoker.query('INSERT INTO dropgate.revocations (proof_key) VALUES ($1)', [bound.jkt])
  await until('the key is revoked', async () => (await ask()).code === 'ERR_REVOKED')
  t.match((await ask()).headers, challenge('invalid_token'))
  const other = dpop(keyBound, await holder.proof(urlAt(plain), keyBound))
  t.equal((await send(plain, { headers: other })).status, 200, 'another key is not')

  const unbound = await signIn('billing')
  const [name, value] = own['client-cert']
  const forwarded = (headers: object): Promise<Answer> =>
    send(byForm[0]!, { headers: { ...bearer(unbound), ...headers } })
  t.equal((await forwarded({ [name]: value })).status, 200)
  await revoker.query('INSERT INTO dropgate.revocations (client_cert) VALUES ($1)', [thumbprint('client')])
  await until('the certificate is revoked', async () => (await forwarded({ [name]: value })).code === 'ERR_REVOKED')
  t.equal((await forwarded({})).status, 200, 'a client without it is not')
  t.equal((await send(plain, { headers: { ...bearer(unbound), [name]: value } })).status, 200, 'nor one that names it')
}) // biome-ignore format: short
