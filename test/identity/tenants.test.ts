/** An issuer of many tenants: one pattern, one key set, and each tenant's tokens under the tenant's own name. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import { IssuerNames, tenantIn } from '../../src/domain/issuer-pattern.ts'
import { noPointers } from '../../src/domain/principal.ts'
import { keyOf, wordsOfKeys } from '../../src/domain/revocation.ts'
import type { GateError } from '../../src/errors.ts'
import { admitKeys } from '../../src/identity/admit.ts'
import { matchedColumns } from '../../src/identity/claims.ts'
import { CredentialSources } from '../../src/identity/credential.ts'
import type { KeySet } from '../../src/identity/key-set.ts'
import { KeyStore } from '../../src/identity/keys.ts'
import { KnownSignatures } from '../../src/identity/known-signatures.ts'
import { TokenVerifier } from '../../src/identity/token.ts'

const [one, two, three] = ['9122040d-6c67-4c5b-b112-36a304b66dad', '8eaef023-2b34-4da1-9baa-8bc8c9d6a490', 'aaaabbbb-0000-cccc-1111-dddd2222eeee'] // biome-ignore format: a table
const v2 = 'https://login.microsoftonline.com/{tenantid}/v2.0'
const v1 = 'https://sts.windows.net/{tenantid}/'
const nameOf = (tenant: string, pattern = v2): string => pattern.replace('{tenantid}', tenant)

const { privateKey, publicKey } = await generateKeyPair('ES256')
const jwk = { ...(await exportJWK(publicKey)), alg: 'ES256' }
/** As the key set of all tenants has them: for every tenant, for one, and one without the addition. */
const published = [
  { ...jwk, kid: 'every', issuer: v2 },
  { ...jwk, kid: 'three', issuer: nameOf(three) },
  { ...jwk, kid: 'plain' },
  { ...jwk, kid: 'odd', issuer: { toString: 7 } },
]

function issuersOf(...issuers: object[]) {
  const written = {
    database: { url: 'postgres://gate@127.0.0.1/gate' },
    issuers: issuers.map((each) => ({
      preset: 'entra',
      audience: ['api'],
      algorithms: ['ES256'],
      ...each,
    })),
    routes: [{ name: 'a', upstream: 'http://127.0.0.1:1' }],
  }
  return readConfig(JSON.stringify(written), '.', {}).issuers
}

function verifierOf(...issuers: object[]): TokenVerifier {
  const made = new TokenVerifier({
    issuers: issuersOf(...issuers),
    cacheBytes: 1 << 20,
    signatures: KnownSignatures.create(1 << 16),
    peppers: [],
    pointers: noPointers,
    metrics: { count: () => {} },
    onKeysWanted: () => {},
  })
  const { keys } = admitKeys(JSON.stringify({ keys: published }), ['ES256'])
  for (const { issuer } of issuersOf(...issuers)) made.setKeys({ issuer, version: 1, keys })
  return made
}

async function tokenOf(
  tenant: string,
  over: Record<string, unknown> = {},
  kid = 'every',
): Promise<string> {
  const nowS = Math.floor(Date.now() / 1000)
  return await new SignJWT({
    iss: nameOf(tenant),
    tid: tenant,
    aud: 'api',
    sub: 'alice',
    iat: nowS,
    exp: nowS + 60,
    scp: 'x',
    ...over,
  })
    .setProtectedHeader({ alg: 'ES256', kid, typ: 'JWT' })
    .sign(privateKey)
}

async function answer(verifier: TokenVerifier, token: string): Promise<string> {
  try {
    return (await verifier.verify(token, undefined)).issuer
  } catch (error) {
    const { code, cause } = error as GateError
    return `${code} ${cause}`
  }
}

t.test('tokens of the listed tenants are accepted, each under its own issuer', async (t) => {
  const verifier = verifierOf({ issuer: v2, tenants: [one, two] })
  const mine = await tokenOf(one)
  t.equal(await answer(verifier, mine), nameOf(one))
  t.equal(await answer(verifier, mine), nameOf(one), 'from the cache too')
  t.equal(await answer(verifier, await tokenOf(two)), nameOf(two))
  t.match(await answer(verifier, await tokenOf(three)), /^ERR_TOKEN_ISSUER its iss is/)
  // A row that names a tenant's issuer meets the tokens of this tenant, and of no other.
  const { keys, tenant } = await verifier.verify(mine, undefined)
  const holds = (issuer: string): boolean => {
    const wanted = [...wordsOfKeys([keyOf('subject', issuer, 'alice')])].join()
    return [...Array(keys.length / 4).keys()].some(
      (i) => keys.slice(4 * i, 4 * i + 4).join() === wanted,
    )
  }
  t.same([tenant, holds(nameOf(one)), holds(nameOf(two)), holds(v2)], [one, true, false, false])
})

t.test('any accepts every tenant, and nothing that only looks like one', async (t) => {
  const verifier = verifierOf({ issuer: v2, tenants: 'any' })
  for (let i = 0; i < 3; i++) {
    const tenant = crypto.randomUUID()
    const token = await tokenOf(tenant)
    t.equal(await answer(verifier, token), nameOf(tenant))
    t.equal(await answer(verifier, token), nameOf(tenant), 'from the cache too')
  }
  for (const iss of [
    v2,
    nameOf('common'),
    nameOf(one.toUpperCase()),
    nameOf(`${one}/x`),
    nameOf(`${one}0`),
    nameOf(one.replaceAll('-', '')),
    nameOf(`{${one}}`),
    `${nameOf(one)}/`,
    `${nameOf(one)}?`,
    nameOf(one).replace('https', 'http'),
    nameOf(one, v1),
    `https://evil.example/${nameOf(one)}`,
    nameOf(one).replace('.com', '.com.evil.example'),
    'x'.repeat(5000),
    [nameOf(one)],
    { a: 1 },
    undefined,
  ])
    t.match(
      await answer(verifier, await tokenOf(one, { iss })),
      /^ERR_TOKEN_ISSUER/,
      String(iss).slice(0, 80),
    )
})

t.test('a tenant is a GUID in lower case, also where tid repeats another spelling', async (t) => {
  const verifier = verifierOf({ issuer: v2, tenants: 'any' })
  for (const tenant of [
    one.toUpperCase(),
    one.replace('9', '٩'),
    'x'.repeat(36),
    one.replace('-', '0'),
  ])
    t.match(await answer(verifier, await tokenOf(tenant)), /^ERR_TOKEN_ISSUER its iss is/, tenant)
})

t.test('tid and iss must name the same tenant', async (t) => {
  for (const tenants of ['any', [one, two]]) {
    const verifier = verifierOf({ issuer: v2, tenants })
    for (const tid of [two, one.toUpperCase(), '', undefined, [one], {}, null])
      t.match(
        await answer(verifier, await tokenOf(one, { tid })),
        /^ERR_TOKEN_ISSUER its tid is .* and its iss names the tenant 9122/,
      )
  }
})

t.test('a key that is published for one tenant signs for no other', async (t) => {
  const verifier = verifierOf({ issuer: v2, tenants: 'any' })
  t.equal(await answer(verifier, await tokenOf(three, {}, 'three')), nameOf(three))
  t.equal(
    await answer(verifier, await tokenOf(one, {}, 'three')),
    `ERR_TOKEN_KEY_UNKNOWN its kid is "three", a key that signs for ${nameOf(three)} only`,
  )
  t.equal(await answer(verifier, await tokenOf(one, {}, 'plain')), nameOf(one))
  // An entry for one tenant, which reads the key set of all.
  const single = verifierOf({ issuer: nameOf(one) })
  t.match(await answer(single, await tokenOf(one, {}, 'three')), /^ERR_TOKEN_KEY_UNKNOWN/)
  t.match(
    await answer(single, await tokenOf(one, { tid: three }, 'three')),
    /^ERR_TOKEN_KEY_UNKNOWN/,
  )
  for (const kid of ['every', 'plain'])
    t.equal(await answer(single, await tokenOf(one, {}, kid)), nameOf(one), kid)
  for (const issuer of [nameOf(three), nameOf(three, v1)])
    t.equal(
      await answer(verifierOf({ issuer }), await tokenOf(three, { iss: issuer }, 'three')),
      issuer,
      'a tenant has a name in each version',
    )
  // Nobody can say whom it signs for. It must not keep the others from coming into use either.
  for (const each of [verifier, verifierOf({ issuer: nameOf(one) })])
    t.match(await answer(each, await tokenOf(one, {}, 'odd')), /^ERR_TOKEN_KEY_UNKNOWN/)
})

t.test(
  'a tenant that is written out has rules of its own; both versions may stand side by side',
  async (t) => {
    const verifier = verifierOf(
      { issuer: v2, tenants: 'any' },
      { issuer: nameOf(two), audience: ['other'] },
      { issuer: v1, tenants: [one] },
    )
    t.equal(await answer(verifier, await tokenOf(one)), nameOf(one))
    t.match(await answer(verifier, await tokenOf(two)), /^ERR_TOKEN_AUDIENCE/)
    t.equal(await answer(verifier, await tokenOf(two, { aud: 'other' })), nameOf(two))
    t.equal(
      await answer(verifier, await tokenOf(one, { iss: nameOf(one, v1) }, 'plain')),
      nameOf(one, v1),
    )
    t.match(
      await answer(verifier, await tokenOf(one, { iss: nameOf(one, v1) })),
      /^ERR_TOKEN_KEY_UNKNOWN/,
      'a key of the other version',
    )
  },
)

t.test('a reload takes tenants away, also from tokens that are remembered', async (t) => {
  const verifier = verifierOf({ issuer: v2, tenants: [one, two] })
  const token = await tokenOf(two)
  t.equal(await answer(verifier, token), nameOf(two))
  verifier.reload(issuersOf({ issuer: v2, tenants: [one] }), [])
  t.match(await answer(verifier, token), /^ERR_TOKEN_ISSUER/)
})

t.test('what names an issuer elsewhere knows the tenants too', async (t) => {
  const sources = new CredentialSources(issuersOf({ issuer: v2, tenants: 'any' }))
  sources.check(nameOf(two), { token: '', source: 'authorization' })
  t.throws(() => sources.check(nameOf(two), { token: '', source: 'cookie:s' }), {
    code: 'ERR_TOKEN_ISSUER',
  })
  const published = (tenants: unknown): string[] =>
    Object.keys(matchedColumns(issuersOf({ issuer: v2, tenants }), false, []))
  t.same(published([one, two]), ['', nameOf(one), nameOf(two)])
  t.same(published('any'), ['', v2])
  t.same(
    published(Array.from({ length: 101 }, () => crypto.randomUUID())),
    ['', v2],
    'a heartbeat is no list of customers',
  )
  t.equal(tenantIn(nameOf(one), nameOf(one)), undefined, 'a name without a place is no pattern')
  t.equal(new IssuerNames([[{ issuer: v2 }, 1]]).get(nameOf(one)), undefined)
})

t.test('all tenants have one discovery document, which names the pattern', async (t) => {
  const asked: string[] = []
  const found: KeySet[] = []
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-tenants-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  let named = v2
  const storeOf = (): KeyStore =>
    new KeyStore({
      issuers: issuersOf({ issuer: v2, tenants: [one] }),
      fetchDocument: async (url) => {
        asked.push(url)
        const text = JSON.stringify(
          url.endsWith('/keys')
            ? { keys: published }
            : { issuer: named, jwks_uri: 'https://login.example/keys' },
        )
        return { kind: 'text', text, etag: undefined, freshMs: undefined }
      },
      onChange: (set) => found.push(set),
      folder,
      log: { info: () => {}, warn: () => {} },
    })
  const store = storeOf()
  await store.open()
  await store.close()
  t.same(asked, [
    'https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration',
    'https://login.example/keys',
  ])
  t.same(
    found.map(({ issuer, keys }) => [issuer, keys.map(({ issuer }) => issuer)]),
    [[v2, [v2, nameOf(three), undefined]]],
  )
  named = nameOf(one)
  const other = storeOf()
  await other.open()
  await other.close()
  t.match(
    other.status()[0],
    { code: 'ERR_OUTBOUND', message: /names another issuer/ },
    'a document of one tenant is another issuer',
  )
  t.equal(found.length, 2, 'the keys that were kept on disk serve on')
  t.same(
    found[1]!.keys.map(({ issuer }) => issuer),
    [v2, nameOf(three), undefined],
    'and still say for whom',
  )
})
