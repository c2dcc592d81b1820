/** With a real identity provider: its tokens are taken, and one row ends one of them. */
import { createServer } from 'node:http'
import { exportJWK, generateKeyPair } from 'jose'
import Provider from 'oidc-provider'
import t from 'tap'
import { TestGate } from '../harness/gate.ts'
import { clientOf, jwtAccessTokens } from '../harness/provider.ts'
import { until } from '../harness/wait.ts'

const server = createServer()
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const issuer = `http://127.0.0.1:${(server.address() as { port: number }).port}`
const { privateKey } = await generateKeyPair('ES256', { extractable: true })
const provider = new Provider(issuer, {
  clients: [clientOf('billing')],
  jwks: {
    keys: [{ ...(await exportJWK(privateKey)), kid: 'idp-1', alg: 'ES256', use: 'sig' } as never],
  },
  extraTokenClaims: () => ({ roles: ['clerk'] }),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: jwtAccessTokens,
  },
})
server.on('request', provider.callback())
const gate = await TestGate.start({
  config: { issuers: [{ issuer, audience: ['api'], algorithms: ['ES256'] }] },
})
t.teardown(async () => {
  await gate.stop()
  server.closeAllConnections()
  server.close()
})

async function signIn(resource?: string): Promise<string> {
  const answer = await fetch(`${issuer}/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${btoa('billing:a-secret')}` },
    body: new URLSearchParams({
      grant_type: 'client_credentials',
      scope: 'orders:read',
      ...(resource && { resource }),
    }),
  })
  const { access_token: token, ...rest } = (await answer.json()) as { access_token?: string }
  if (token === undefined) throw new Error(JSON.stringify(rest))
  return token
}

t.test('an RFC 9068 access token passes; the upstream learns whose it is', async (t) => {
  const token = await signIn('https://orders.example')
  t.equal((await gate.ask('/orders', token)).status, 200)
  const { headers } = gate.upstream.seen.at(-1)!
  const told = Object.fromEntries(headers)
  t.match(told, {
    'x-dropgate-client': 'billing',
    'x-dropgate-issuer': issuer,
    'x-dropgate-scopes': 'orders:read',
  })
})

t.test('an opaque token is refused', async (t) => {
  t.equal((await gate.ask('/orders', await signIn())).code, 'ERR_TOKEN_MALFORMED')
})

t.test('a row ends one token and leaves the other of the same client', async (t) => {
  const [one, two] = [
    await signIn('https://orders.example'),
    await signIn('https://orders.example'),
  ]
  const { jti } = JSON.parse(Buffer.from(one.split('.')[1]!, 'base64url').toString())
  const revoker = await gate.revoker()
  await revoker.query('INSERT INTO dropgate.revocations (issuer, token_id) VALUES ($1, $2)', [
    issuer,
    jti,
  ])
  await until('denied', async () => (await gate.ask('/orders', one)).code === 'ERR_REVOKED')
  t.equal((await gate.ask('/orders', two)).status, 200)
  await revoker.query("INSERT INTO dropgate.revocations (client_id) VALUES ('billing')")
  await until(
    'the client is out',
    async () => (await gate.ask('/orders', two)).code === 'ERR_REVOKED',
  )
})
