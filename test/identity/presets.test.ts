/**
 * For each preset, tokens of the shape that the provider documents: its access tokens get in and tell the caller, its
 * other tokens stay out.
 */
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import type { IssuerConfig } from '../../src/config/options.ts'
import { type PresetName, presetNames } from '../../src/config/presets.ts'
import { noPointers } from '../../src/domain/principal.ts'
import type { GateError } from '../../src/errors.ts'
import { KnownSignatures } from '../../src/identity/known-signatures.ts'
import { TokenVerifier } from '../../src/identity/token.ts'

async function pairOf(alg: 'RS256' | 'ES256') {
  const { privateKey, publicKey } = await generateKeyPair(alg)
  return { privateKey, jwk: { ...(await exportJWK(publicKey)), kid: 'k', alg } }
}
const pairs = { RS256: await pairOf('RS256'), ES256: await pairOf('ES256') }

interface Shape {
  readonly issuer: string
  readonly audience: string
  /** RS256 where it is left out. */
  readonly algorithm?: 'ES256'
  readonly header: Record<string, unknown>
  /** A token for a service. */
  readonly access: Record<string, unknown>
  /** What the gate makes of it. */
  readonly principal: Record<string, unknown>
  /** Other tokens of the same issuer, each with the claims that tell it apart; `aud` as in `access`. */
  readonly others: Record<string, Record<string, unknown>>
}

const shapes: Record<PresetName, Shape> = {
  keycloak: {
    issuer: 'https://keycloak.example/realms/main',
    audience: 'orders-api',
    header: { typ: 'JWT' },
    access: { aud: ['orders-api', 'account'], jti: 'onrtac:1', typ: 'Bearer', azp: 'web', sid: 's-1', nonce: 'n', scope: 'openid', groups: ['/staff'], realm_access: { roles: ['user'] } },
    principal: { clientId: 'web', sessionId: 's-1', tokenId: 'onrtac:1' },
    others: { id: { aud: 'orders-api', typ: 'ID', azp: 'web', at_hash: 'h' }, refresh: { aud: 'orders-api', typ: 'Refresh' } },
  },
  entra: {
    issuer: 'https://login.microsoftonline.com/9122040d-6c67-4c5b-b112-36a304b66dad/v2.0',
    audience: '6e74172b-be56-4843-9ff4-e66a39bb12e3',
    header: { typ: 'JWT' },
    access: { aud: '6e74172b-be56-4843-9ff4-e66a39bb12e3', azp: '7b9c', oid: 'o', scp: 'Orders.Read', tid: '9122', uti: 'u-1', sid: 's-1', ver: '2.0', nbf: 1 },
    principal: { clientId: '7b9c', tenant: '9122', tokenId: 'u-1', scopes: ['Orders.Read'] },
    others: { id: { aud: '6e74172b-be56-4843-9ff4-e66a39bb12e3', nonce: 'n', oid: 'o', tid: '9122', ver: '2.0' } },
  },
  okta: {
    issuer: 'https://dev-1.okta.com/oauth2/default',
    audience: 'api://default',
    header: {},
    access: { ver: 1, jti: 'AT.1', aud: 'api://default', cid: '0oa1', uid: '00u1', scp: ['openid', 'orders'] },
    principal: { clientId: '0oa1', tokenId: 'AT.1', scopes: ['openid', 'orders'] },
    others: { id: { ver: 1, jti: 'ID.1', aud: 'api://default', nonce: 'n', at_hash: 'h', idp: 'i' } },
  },
  auth0: {
    issuer: 'https://tenant.eu.auth0.com/',
    audience: 'https://orders.example',
    header: { typ: 'JWT' },
    access: { aud: ['https://orders.example', 'https://tenant.eu.auth0.com/userinfo'], azp: 'client-1', scope: 'openid orders', org_id: 'org_1' },
    principal: { clientId: 'client-1', tenant: 'org_1', scopes: ['openid', 'orders'] },
    others: { id: { aud: 'https://orders.example', nonce: 'n', sid: 's' } },
  },
  cognito: {
    issuer: 'https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_abc',
    audience: '1example23456789',
    header: {},
    access: { client_id: '1example23456789', origin_jti: 'o-1', event_id: 'e', token_use: 'access', scope: 'aws.cognito.signin.user.admin', username: 'alice', jti: 'j-1', 'cognito:groups': ['admins'], version: 2 },
    principal: { clientId: '1example23456789', sessionId: 'o-1', tokenId: 'j-1' },
    others: { id: { aud: '1example23456789', client_id: '1example23456789', token_use: 'id', at_hash: 'h' } },
  },
  google: {
    issuer: 'https://accounts.google.com',
    audience: 'https://orders.example',
    header: { typ: 'JWT' },
    access: { aud: 'https://orders.example', azp: '1234.apps.googleusercontent.com', email: 'svc@p.iam.gserviceaccount.com', email_verified: true, at_hash: 'h' },
    principal: { clientId: '1234.apps.googleusercontent.com' },
    others: { event: { aud: 'https://orders.example', events: {} } },
  },
  firebase: {
    issuer: 'https://securetoken.google.com/project-1',
    audience: 'project-1',
    header: { typ: 'JWT' },
    access: { aud: 'project-1', user_id: 'u', email: 'a@example.com', firebase: { identities: {}, sign_in_provider: 'password', tenant: 'tenant-1' } },
    principal: { tenant: 'tenant-1' },
    others: { event: { aud: 'project-1', events: {} } },
  },
  supabase: {
    issuer: 'https://project.supabase.co/auth/v1',
    audience: 'authenticated',
    header: { typ: 'JWT' },
    access: { aud: 'authenticated', role: 'authenticated', aal: 'aal1', session_id: 's-1', email: 'a@example.com', phone: '', app_metadata: {}, user_metadata: {}, is_anonymous: false },
    principal: { sessionId: 's-1' },
    others: { id: { aud: 'authenticated', nonce: 'n', at_hash: 'h' } },
  },
  github: {
    issuer: 'https://token.actions.githubusercontent.com',
    audience: 'https://orders.example',
    header: { typ: 'JWT', x5t: 'x' },
    access: { jti: 'j-1', aud: 'https://orders.example', ref: 'refs/heads/main', repository: 'octo/app', repository_owner: 'octo', environment: 'prod', run_id: '1', event_name: 'push', nbf: 1 },
    principal: { clientId: 'octo/app', tenant: 'octo', tokenId: 'j-1' },
    others: { event: { aud: 'https://orders.example', events: {} } },
  },
  kubernetes: {
    issuer: 'https://kubernetes.default.svc.cluster.local',
    audience: 'orders',
    header: {},
    access: { aud: ['orders'], jti: 'j-1', nbf: 1, 'kubernetes.io': { namespace: 'shop', pod: { name: 'p', uid: '1' }, serviceaccount: { name: 'cart', uid: '2' } } },
    principal: { tenant: 'shop', tokenId: 'j-1' },
    others: { id: { aud: ['orders'], nonce: 'n' } },
  },
  zitadel: {
    issuer: 'https://org.zitadel.cloud',
    audience: '2000',
    header: { typ: 'JWT' },
    access: { aud: ['1000', '2000'], client_id: '1000', jti: 'j-1', nbf: 1, 'urn:zitadel:iam:user:resourceowner:id': '77' },
    principal: { clientId: '1000', tenant: '77', tokenId: 'j-1' },
    others: { id: { aud: ['2000'], azp: '1000', at_hash: 'h', nonce: 'n', client_id: '1000' } },
  },
  authentik: {
    issuer: 'https://authentik.example/application/o/orders/',
    audience: 'client-1',
    header: { typ: 'JWT' },
    access: { aud: 'client-1', azp: 'client-1', uid: 'u', nonce: 'n', acr: 'goauthentik.io/providers/oauth2/default', groups: ['staff'], sid: 's-1' },
    principal: { clientId: 'client-1', sessionId: 's-1' },
    others: { id: { aud: 'client-1', nonce: 'n', at_hash: 'h' }, code: { aud: 'client-1', nonce: 'n', c_hash: 'h' } },
  },
  dex: {
    issuer: 'https://dex.example',
    audience: 'orders',
    header: {},
    access: { aud: 'orders', nonce: 'n', email: 'a@example.com', groups: ['staff'], name: 'Alice' },
    principal: {},
    others: { id: { aud: 'orders', nonce: 'n', at_hash: 'h', email: 'a@example.com' } },
  },
  hydra: {
    issuer: 'https://hydra.example',
    audience: 'orders',
    header: { typ: 'JWT' },
    access: { aud: ['orders'], client_id: 'web', ext: {}, jti: 'j-1', nbf: 1, scp: ['openid', 'orders'] },
    principal: { clientId: 'web', scopes: ['openid', 'orders'] },
    others: { id: { aud: ['orders'], at_hash: 'h', rat: 1, sid: 's', nonce: 'n' } },
  },
  clerk: {
    issuer: 'https://clerk.example.com',
    audience: 'https://app.example.com',
    header: { typ: 'JWT', cat: 'cl_B7d4PD111AAA' },
    access: { azp: 'https://app.example.com', fva: [1, -1], jti: 'j-1', nbf: 1, sid: 'sess_1', v: 2, o: { id: 'org_1', rol: 'admin', slg: 'acme' } },
    principal: { sessionId: 'sess_1', tenant: 'org_1', clientId: 'https://app.example.com' },
    others: { id: { azp: 'https://app.example.com', at_hash: 'h', nonce: 'n' } },
  },
  duende: {
    issuer: 'https://demo.duendesoftware.com',
    audience: 'api',
    header: { typ: 'at+jwt' },
    access: { aud: 'api', client_id: 'web', jti: 'j-1', sid: 's-1', scope: ['openid', 'api'], amr: ['pwd'], idp: 'local', nbf: 1 },
    principal: { clientId: 'web', sessionId: 's-1', scopes: ['openid', 'api'] },
    others: {},
  },
  'google-iap': {
    issuer: 'https://cloud.google.com/iap',
    audience: '/projects/123456789/global/backendServices/987654321',
    algorithm: 'ES256',
    header: { typ: 'JWT' },
    access: { aud: '/projects/123456789/global/backendServices/987654321', azp: '/projects/123456789/global/backendServices/987654321', email: 'alice@example.com', hd: 'example.com', identity_source: 'GOOGLE', google: { access_levels: ['accessPolicies/1/accessLevels/trusted'], device_id: 'd-1' } },
    principal: { clientId: '/projects/123456789/global/backendServices/987654321' },
    others: { event: { aud: '/projects/123456789/global/backendServices/987654321', events: {} } },
  },
  'cloudflare-access': {
    issuer: 'https://team.cloudflareaccess.com',
    audience: '32eafc7626e737e0b8c4a',
    header: { typ: 'JWT' },
    access: { aud: ['32eafc7626e737e0b8c4a'], email: 'alice@example.com', nbf: 1, type: 'app', identity_nonce: '6ei69kawdKzMIAPF', country: 'US' },
    principal: {},
    others: { event: { aud: ['32eafc7626e737e0b8c4a'], events: {} } },
  },
} // biome-ignore format: a table

/** A verifier that has this preset and nothing else. */
function verifierOf(name: PresetName): TokenVerifier {
  const { issuer, algorithm = 'RS256' } = shapes[name]
  const made = new TokenVerifier({
    issuers: [configOf(name)],
    cacheBytes: 1 << 20,
    signatures: KnownSignatures.create(1 << 16),
    peppers: [],
    pointers: noPointers,
    metrics: { count: () => {} },
    onKeysWanted: () => {},
  })
  made.setKeys({ issuer, version: 1, keys: [pairs[algorithm].jwk] as never })
  return made
}

function configOf(name: PresetName, over: object = {}): IssuerConfig {
  const { issuer, audience } = shapes[name]
  const written = {
    // A header is read from trusted proxies only.
    listen: { trusted_proxies: ['10.0.0.0/8'] },
    database: { url: 'postgres://gate@127.0.0.1/gate' },
    issuers: [{ issuer, audience: [audience], preset: name, ...over }],
    routes: [{ name: 'a', upstream: 'http://127.0.0.1:1' }],
  }
  return readConfig(JSON.stringify(written), '.', {}).issuers[0]!
}

async function sign(name: PresetName, claims: object, over: object = {}): Promise<string> {
  const { issuer, header, algorithm = 'RS256' } = shapes[name]
  const nowS = Math.floor(Date.now() / 1000)
  return await new SignJWT({ iss: issuer, sub: 'alice', iat: nowS, exp: nowS + 3600, ...claims })
    .setProtectedHeader({ alg: algorithm, kid: 'k', ...header, ...over } as never)
    .sign(pairs[algorithm].privateKey)
}

for (const name of presetNames) {
  const { issuer, access, principal, others } = shapes[name]
  const signed = (claims: object, over?: object): Promise<string> => sign(name, claims, over)
  const codeOf = async (token: string): Promise<string> => {
    try {
      await verifierOf(name).verify(token, undefined)
      return 'accepted'
    } catch (error) {
      return (error as GateError).code
    }
  }

  t.test(`preset ${name}`, async (t) => {
    const found = await verifierOf(name).verify(await signed(access), undefined)
    t.match(found, { subject: 'alice', issuer, ...principal })
    for (const [kind, claims] of Object.entries(others))
      t.equal(await codeOf(await signed(claims)), 'ERR_TOKEN_TYPE', kind)
    t.equal(await codeOf(await signed(access, { typ: 'logout+jwt' })), 'ERR_TOKEN_TYPE')
    const elsewhere = Object.fromEntries(
      Object.entries(access).map(([key, value]) =>
        ['aud', 'azp', 'client_id'].includes(key) ? [key, 'elsewhere'] : [key, value],
      ),
    )
    t.equal(await codeOf(await signed(elsewhere)), 'ERR_TOKEN_AUDIENCE')
  })
}

t.test('Entra: 200 groups, tokens of 28 hours', async (t) => {
  const nowS = Math.floor(Date.now() / 1000)
  const groups = Array.from({ length: 200 }, () => crypto.randomUUID())
  const claims = { ...shapes.entra.access, groups, exp: nowS + 28 * 3600 }
  const { keys } = await verifierOf('entra').verify(await sign('entra', claims), undefined)
  t.ok(keys.length > 4 * 400, 'a row can name each of the groups, at this issuer and at any')
})

t.test(
  'what stands in front adds its own header, and its keys have a place of their own',
  async (t) => {
    const iap = configOf('google-iap')
    t.match(iap, {
      from: ['header:x-goog-iap-jwt-assertion'],
      algorithms: ['ES256'],
      jwks_uri: 'https://www.gstatic.com/iap/verify/public_key-jwk',
      clock_skew: 30_000,
    })
    const { jwks_uri: keys, from } = configOf('cloudflare-access')
    t.equal(keys, 'https://team.cloudflareaccess.com/cdn-cgi/access/certs')
    t.same(from, ['header:cf-access-jwt-assertion'])
    // What is written wins, and a file takes the place of a URL.
    const written = configOf('google-iap', {
      from: ['authorization'],
      jwks_uri: 'https://keys.example',
    })
    t.match(written, { from: ['authorization'], jwks_uri: 'https://keys.example' })
    t.throws(() => configOf('cloudflare-access', { jwks_file: '/no/such' }), /jwks_file/)
  },
)

t.test('Cloudflare: a service token has no subject, and is refused with its cause', async (t) => {
  const claims = { ...shapes['cloudflare-access'].access, sub: '', common_name: 'ci.access' }
  await t.rejects(
    async () =>
      verifierOf('cloudflare-access').verify(await sign('cloudflare-access', claims), undefined),
    { code: 'ERR_TOKEN_CLAIMS', cause: 'sub is not a usable string' },
  )
})

t.test(
  'a token of 300 claims and one of 200 groups fit the limits, and one without bounds does not',
  async (t) => {
    const verifier = verifierOf('keycloak')
    const tokenOf = (features: number, groups: number): Promise<string> =>
      sign('keycloak', {
        ...shapes.keycloak.access,
        ...Object.fromEntries(Array.from({ length: features }, (_, i) => [`f${i}`, i % 2])),
        groups: Array.from({ length: groups }, () => crypto.randomUUID()),
      })
    const token = await tokenOf(290, 100)
    t.match(await verifier.verify(token, undefined), { subject: 'alice' })
    const { limits } = readConfig(
      JSON.stringify({
        database: { url: 'postgres://gate@127.0.0.1/gate' },
        routes: [{ name: 'a', auth: 'none', upstream: 'http://127.0.0.1:1' }],
      }),
      '.',
      {},
    )
    for (const each of [
      token,
      await sign('entra', {
        ...shapes.entra.access,
        groups: Array.from({ length: 200 }, () => crypto.randomUUID()),
      }),
    ])
      t.ok(`Bearer ${each}`.length < limits.header_value_bytes, `${each.length} characters`)
    for (const [features, groups] of [
      [1001, 0],
      [10, 400],
    ] as const)
      await t.rejects(async () => verifier.verify(await tokenOf(features, groups), undefined), {
        code: 'ERR_TOKEN_MALFORMED',
      })
  },
)

t.test(
  'a clock that runs ahead by less than clock_skew makes no token of the future',
  async (t) => {
    const nowS = Math.floor(Date.now() / 1000)
    const ahead = async (name: PresetName, seconds: number): Promise<string> => {
      const at = nowS + seconds
      const claims = { ...shapes[name].access, iat: at, nbf: at, exp: at + 600 }
      try {
        await verifierOf(name).verify(await sign(name, claims), undefined)
        return 'accepted'
      } catch (error) {
        return `${(error as GateError).cause}`
      }
    }
    t.equal(await ahead('keycloak', 4), 'accepted')
    t.equal(await ahead('google-iap', 25), 'accepted')
    t.equal(await ahead('keycloak', 3600), 'iat is in the future')
    t.equal(await ahead('google-iap', 3600), 'iat is in the future')
  },
)
