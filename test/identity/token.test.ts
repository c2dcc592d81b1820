/** Every way a token is refused, with its code, and what happens around the key sets. */
import { createHash, KeyObject, sign } from 'node:crypto'
import {
  CompactSign,
  type CryptoKey,
  exportJWK,
  exportSPKI,
  generateKeyPair,
  type JWK,
  SignJWT,
} from 'jose'
import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import type { IssuerConfig } from '../../src/config/options.ts'
import type { Principal } from '../../src/domain/principal.ts'
import { contentOf, noPointers, noteContent } from '../../src/domain/principal.ts'
import type { GateError } from '../../src/errors.ts'
import { admitKeys } from '../../src/identity/admit.ts'
import { checkBinding, checkScheme } from '../../src/identity/binding.ts'
import { TokenCache } from '../../src/identity/cache.ts'
import { KnownSignatures, type SharedSignatures } from '../../src/identity/known-signatures.ts'
import { TokenVerifier } from '../../src/identity/token.ts'
import { pause, seeded, until } from '../harness/wait.ts'

const issuer = 'https://idp.example'
const pairs = new Map<string, { privateKey: CryptoKey; publicKey: CryptoKey; jwk: JWK }>()
for (const alg of ['ES256', 'ES384', 'ES512', 'EdDSA', 'RS256', 'PS512']) {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
  const jwk = { ...(await exportJWK(publicKey)), kid: alg, alg, use: 'sig' }
  pairs.set(alg, { privateKey, publicKey, jwk })
}
const foreign = await generateKeyPair('ES256', { extractable: true })

function configOf(over: object = {}): IssuerConfig {
  const written = {
    database: { url: 'postgres://gate@127.0.0.1/gate' },
    issuers: [{ issuer, audience: ['api', 'other'], algorithms: [...pairs.keys()], ...over }],
    routes: [{ name: 'a', upstream: 'http://127.0.0.1:1' }],
  }
  return readConfig(JSON.stringify(written), '.', {}).issuers[0]!
}

interface Made {
  readonly verifier: TokenVerifier
  readonly wanted: number[]
  readonly counted: string[]
}

function make(
  over: object = {},
  keys: readonly JWK[] | null = [...pairs.values()].map((p) => p.jwk),
  signatures: SharedSignatures = KnownSignatures.create(1 << 16),
): Made {
  const wanted: number[] = []
  const counted: string[] = []
  const verifier = new TokenVerifier({
    issuers: [configOf(over)],
    cacheBytes: 1 << 20,
    signatures,
    peppers: [],
    pointers: noPointers,
    metrics: { count: (_name, label) => counted.push(label) },
    onKeysWanted: (_issuer, version) => wanted.push(version),
  })
  if (keys !== null) verifier.setKeys({ issuer, version: 1, keys: keys as never })
  return { verifier, wanted, counted }
}

const nowS = (): number => Math.floor(Date.now() / 1000)

function claimsOf(over: Record<string, unknown> = {}): Record<string, unknown> {
  const all = {
    iss: issuer,
    aud: 'api',
    sub: 'alice',
    iat: nowS(),
    exp: nowS() + 600,
    jti: 'j',
    sid: 's',
    client_id: 'c',
    ...over,
  }
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined))
}

async function signed(
  claims: Record<string, unknown> = {},
  header: Record<string, unknown> = {},
  key: CryptoKey | Uint8Array = pairs.get((header.alg as string) ?? 'ES256')!.privateKey,
): Promise<string> {
  const protectedHeader = { alg: 'ES256', kid: header.alg ?? 'ES256', typ: 'at+jwt', ...header }
  return await new SignJWT(claimsOf(claims)).setProtectedHeader(protectedHeader as never).sign(key)
}

const part = (value: unknown): string =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')

async function codeOf(made: Made, token: string, audience?: readonly string[]): Promise<string> {
  try {
    await made.verifier.verify(token, audience)
    return 'accepted'
  } catch (error) {
    return (error as GateError).code
  }
}

t.test('a token of every algorithm is accepted and tells who the caller is', async (t) => {
  const made = make()
  for (const alg of pairs.keys())
    t.equal(await codeOf(made, await signed({}, { alg })), 'accepted', alg)
  const principal = await made.verifier.verify(
    await signed({ scope: 'read write', tid: 't' }),
    undefined,
  )
  t.match(principal, {
    issuer,
    subject: 'alice',
    sessionId: 's',
    tokenId: 'j',
    clientId: 'c',
    scopes: ['read', 'write'],
  })
  t.match(JSON.parse(principal.json), {
    subject: 'alice',
    scopes: ['read', 'write'],
    claims: { tid: 't' },
  })
  t.equal(principal.keys.length, 4 * 12)
})

t.test('the policy gets every number of a token as its issuer wrote it', async (t) => {
  const text = JSON.stringify(claimsOf()).replace(
    /}$/,
    ',"account":12345678901234567890,"rate":0.1000000000000000055,"deep":{"ids":[9007199254740993,7]}}',
  )
  const token = await new CompactSign(Buffer.from(text))
    .setProtectedHeader({ alg: 'ES256', kid: 'ES256', typ: 'at+jwt' })
    .sign(pairs.get('ES256')!.privateKey)
  const { json } = await make().verifier.verify(token, undefined)
  t.match(
    json,
    '"account":12345678901234567890,"rate":0.1000000000000000055,"deep":{"ids":[9007199254740993,7]}',
  )
})

t.test('what is known of a principal from its verification is what its text says', async (t) => {
  const { verifier } = make()
  const odd = [
    '"a":12345678901234567890,"b":[1.50,-0,1e400]',
    '"__proto__":{"x":1},"constructor":2',
    '"a":"\\ud800","b":"\\u0000\\ud83d\\ude00"',
    '"a":{"b":{"c":[null,true,"é"]}},"a.b":{}',
  ]
  for (const claims of ['', ...odd]) {
    const [head, body] = (await signed()).split('.') as [string, string]
    const json = Buffer.from(body, 'base64url').toString()
    const changed = claims === '' ? json : `{${claims},${json.slice(1)}`
    const input = `${head}.${Buffer.from(changed).toString('base64url')}`
    const signature = sign('sha256', Buffer.from(input), {
      key: KeyObject.from(pairs.get('ES256')!.privateKey as never),
      dsaEncoding: 'ieee-p1363',
    })
    const token = `${input}.${signature.toString('base64url')}`
    const principal = await verifier.verify(token, undefined)
    const known = JSON.stringify(contentOf(principal))
    noteContent('', {})
    t.equal(known, JSON.stringify(contentOf(principal)), claims)
  }
})

t.test("tenant, session, client and scopes are read where the issuer's pointers say", async (t) => {
  const made = make({
    claims: { tenant: '/org/id', session: '/session_state', client: '/azp', scopes: '/scp' },
  })
  const token = await signed({
    org: { id: 'acme' },
    session_state: 'x',
    azp: 'web',
    scp: ['a', 'b'],
  })
  t.match(await made.verifier.verify(token, undefined), {
    tenant: 'acme',
    sessionId: 'x',
    clientId: 'web',
    scopes: ['a', 'b'],
  })
  // Inherited properties are not claims.
  const proto = make({ claims: { tenant: '/__proto__/x', session: '/constructor/name' } })
  t.match(await proto.verifier.verify(await signed(), undefined), {
    tenant: undefined,
    sessionId: undefined,
  })
})

t.test('a token that is malformed is refused before any key is asked for', async (t) => {
  const made = make()
  const good = await signed()
  const [head, body, signature] = good.split('.') as [string, string, string]
  const es = { alg: 'ES256', kid: 'ES256', typ: 'at+jwt' }
  const cases: [name: string, token: string][] = [
    ['two parts', `${head}.${body}`],
    ['five parts', `${good}.a.b`],
    ['no signature', `${head}.${body}.`],
    ['padding', `${head}=.${body}.${signature}`],
    ['a space', `${head} .${body}.${signature}`],
    ['standard base64', `${head}.${body}.${signature.slice(0, -1)}+`],
    ['spare bits set', `${head}.${body}.${signature.slice(0, -1)}${signature.at(-1) === 'B' ? 'C' : 'B'}`],
    ['a header that is no object', `${part([])}.${body}.${signature}`],
    ['a header that is no JSON', `${part('{')}.${body}.${signature}`],
    ['claims that are no object', `${head}.${part('7')}.${signature}`],
    ['claims that are not UTF-8', `${head}.${Buffer.from([0x7b, 0xff, 0x7d]).toString('base64url')}.${signature}`],
    ['no algorithm', `${part({ typ: 'at+jwt' })}.${body}.${signature}`],
    ['crit', `${part({ ...es, crit: ['exp'] })}.${body}.${signature}`],
    ['b64', `${part({ ...es, b64: false })}.${body}.${signature}`],
    ['zip', `${part({ ...es, zip: 'DEF' })}.${body}.${signature}`],
    ['enc', `${part({ ...es, enc: 'A256GCM' })}.${body}.${signature}`],
    ['a kid that is no string', `${part({ ...es, kid: 7 })}.${body}.${signature}`],
    ['a kid without end', `${part({ ...es, kid: 'k'.repeat(257) })}.${body}.${signature}`],
    ['a type that is no string', `${part({ ...es, typ: {} })}.${body}.${signature}`],
    ['too long', `${head}.${part({ x: 'a'.repeat(17_000) })}.${signature}`],
    ['empty', ''],
  ] // biome-ignore format: a table
  for (const [name, token] of cases) t.equal(await codeOf(made, token), 'ERR_TOKEN_MALFORMED', name)
  t.same(made.wanted, [], 'nobody was asked for keys')
})

t.test('a token whose issuer, algorithm, type, key or signature is wrong is refused', async (t) => {
  const made = make()
  const pem = new TextEncoder().encode(await exportSPKI(pairs.get('RS256')!.publicKey))
  const [head, body, signature] = (await signed()).split('.') as [string, string, string]
  const other = part(claimsOf({ sub: 'mallory' }))
  const cases: [name: string, token: string, code: string][] = [
    ['another issuer', await signed({ iss: 'https://evil.example' }), 'ERR_TOKEN_ISSUER'],
    ['the issuer with a slash', await signed({ iss: `${issuer}/` }), 'ERR_TOKEN_ISSUER'],
    ['no issuer', await signed({ iss: undefined }), 'ERR_TOKEN_ISSUER'],
    ['an issuer that is no string', await signed({ iss: [issuer] }), 'ERR_TOKEN_ISSUER'],
    ['the public key as a secret', await signed({}, { alg: 'HS256', kid: 'RS256' }, pem), 'ERR_TOKEN_ALGORITHM'],
    ['none', `${part({ alg: 'none', typ: 'at+jwt' })}.${body}.AA`, 'ERR_TOKEN_ALGORITHM'],
    ['None', `${part({ alg: 'nOnE', typ: 'at+jwt' })}.${body}.AA`, 'ERR_TOKEN_ALGORITHM'],
    ['no type', await signed({}, { typ: undefined }), 'ERR_TOKEN_TYPE'],
    ['JWT', await signed({}, { typ: 'JWT' }), 'ERR_TOKEN_TYPE'],
    ['a logout token', await signed({}, { typ: 'logout+jwt' }), 'ERR_TOKEN_TYPE'],
    ['a proof', await signed({}, { typ: 'dpop+jwt' }), 'ERR_TOKEN_TYPE'],
    ['the long name of the type', await signed({}, { typ: 'application/AT+JWT' }), 'accepted'],
    ['a foreign key under a known name', await signed({}, {}, foreign.privateKey), 'ERR_TOKEN_SIGNATURE'],
    ['its own key in the header', await signed({}, { jwk: await exportJWK(foreign.publicKey) }, foreign.privateKey), 'ERR_TOKEN_SIGNATURE'],
    ['a key set of its own', await signed({}, { jku: 'https://evil.example/jwks' }, foreign.privateKey), 'ERR_TOKEN_SIGNATURE'],
    ['other claims under the signature', `${head}.${other}.${signature}`, 'ERR_TOKEN_SIGNATURE'],
    ['a signature of zeros', `${head}.${body}.${'A'.repeat(signature.length - 1)}A`, 'ERR_TOKEN_SIGNATURE'],
    ['a key of another algorithm', await signed({}, { kid: 'RS256' }), 'ERR_TOKEN_KEY_UNKNOWN'],
    ['a name that is a path', await signed({}, { kid: '../../etc/passwd' }, foreign.privateKey), 'ERR_TOKEN_KEY_UNKNOWN'],
  ] // biome-ignore format: a table
  for (const [name, token, code] of cases) t.equal(await codeOf(made, token), code, name)
  t.equal(await codeOf(make({ algorithms: ['RS256'] }), await signed()), 'ERR_TOKEN_ALGORITHM')
})

t.test('`token_types: any` accepts legacy access tokens, not ID tokens or events', async (t) => {
  const made = make({ token_types: 'any' })
  const cases: [name: string, token: string, code: string][] = [
    ['JWT', await signed({}, { typ: 'JWT' }), 'accepted'],
    ['none', await signed({}, { typ: undefined }), 'accepted'],
    ['an ID token by its nonce', await signed({ nonce: 'n' }, { typ: 'JWT' }), 'ERR_TOKEN_TYPE'],
    ['a nonce and scopes', await signed({ nonce: 'n', scope: 'a' }, { typ: 'JWT' }), 'accepted'],
    ['a nonce and scopes of Entra', await signed({ nonce: 'n', scp: 'a' }, { typ: 'JWT' }), 'accepted'],
    ['a nonce and a kind', await signed({ nonce: 'n', token_use: 'access' }, { typ: 'JWT' }), 'accepted'],
    ['an ID token by its kind', await signed({ token_use: 'id' }, { typ: 'JWT' }), 'ERR_TOKEN_TYPE'],
    ['an unknown kind', await signed({ token_use: 'x' }, { typ: 'JWT' }), 'ERR_TOKEN_TYPE'],
    ['at_hash', await signed({ at_hash: 'x', scope: 'a' }, { typ: 'JWT' }), 'ERR_TOKEN_TYPE'],
    ['c_hash', await signed({ c_hash: 'x', scope: 'a' }, { typ: undefined }), 'ERR_TOKEN_TYPE'],
    ['offline', await signed({ typ: 'Offline' }, { typ: 'JWT' }), 'ERR_TOKEN_TYPE'],
    ['an event', await signed({ events: {} }, { typ: 'JWT' }), 'ERR_TOKEN_TYPE'],
    ['Keycloak ID token', await signed({ typ: 'ID' }, { typ: 'JWT' }), 'ERR_TOKEN_TYPE'],
    ['Keycloak refresh token', await signed({ typ: 'Refresh' }, { typ: 'JWT' }), 'ERR_TOKEN_TYPE'],
    ['Keycloak access token', await signed({ typ: 'Bearer' }, { typ: 'JWT' }), 'accepted'],
    ['a logout token', await signed({}, { typ: 'logout+jwt' }), 'ERR_TOKEN_TYPE'],
  ] // biome-ignore format: a table
  for (const [name, token, code] of cases) t.equal(await codeOf(made, token), code, name)
  const nonce = make({ token_types: 'any', access_token_nonce: 'allow' })
  t.equal(await codeOf(nonce, await signed({ nonce: 'n' }, { typ: 'JWT' })), 'accepted')
  t.equal(
    await codeOf(nonce, await signed({ nonce: 'n', at_hash: 'x' }, { typ: 'JWT' })),
    'ERR_TOKEN_TYPE',
  )
  const id = make({ token_types: 'id' })
  for (const claims of [{ nonce: 'n', at_hash: 'x' }, { typ: 'ID' }, { token_use: 'id' }, {}])
    t.equal(await codeOf(id, await signed(claims, { typ: 'JWT' })), 'accepted')
  for (const claims of [{ typ: 'Refresh' }, { token_use: 'x' }, { events: {} }])
    t.equal(await codeOf(id, await signed(claims, { typ: 'JWT' })), 'ERR_TOKEN_TYPE')
})

t.test('audience and subject are where the configuration says', async (t) => {
  const made = make({ claims: { audience: '/client_id', subject: '/person/oid' }, audience: ['c'] })
  const token = await signed({ aud: undefined, person: { oid: 'bob' } })
  const principal = await made.verifier.verify(token, undefined)
  t.match(principal, { subject: 'bob', clientId: 'c' })
  t.match(JSON.parse(principal.json), { subject: 'bob', claims: { sub: 'alice' } })
  t.same(
    principal.keys,
    (await make().verifier.verify(await signed({ sub: 'bob' }), undefined)).keys,
    'rows name the subject that was read',
  )
  t.equal(
    await codeOf(made, await signed({ client_id: 'other', person: { oid: 'bob' } })),
    'ERR_TOKEN_AUDIENCE',
  )
  t.equal(await codeOf(made, await signed()), 'ERR_TOKEN_CLAIMS')
  const any = make({ audience: 'none' })
  for (const aud of [undefined, 'elsewhere', ['a', 'b'], []])
    t.equal(await codeOf(any, await signed({ aud })), 'accepted')
  t.equal(await codeOf(any, await signed({ aud: 7 })), 'ERR_TOKEN_AUDIENCE')
  await t.rejects(
    async () => await any.verifier.verify(await signed({ aud: 'elsewhere' }), ['api']),
    {
      code: 'ERR_TOKEN_AUDIENCE',
    },
  )
})

t.test('times must be finite, and identifiers must be such that a row can name them', async (t) => {
  const made = make()
  const cases: [name: string, claims: Record<string, unknown>, code: string][] = [
    ['no exp', { exp: undefined }, 'ERR_TOKEN_CLAIMS'],
    ['exp as text', { exp: String(nowS() + 60) }, 'ERR_TOKEN_CLAIMS'],
    ['exp null', { exp: null }, 'ERR_TOKEN_CLAIMS'],
    ['exp beyond every date', { exp: 1e300 }, 'ERR_TOKEN_CLAIMS'],
    ['no iat', { iat: undefined }, 'ERR_TOKEN_CLAIMS'],
    ['iat below zero', { iat: -1 }, 'ERR_TOKEN_CLAIMS'],
    ['iat in the future', { iat: nowS() + 60 }, 'ERR_TOKEN_CLAIMS'],
    ['iat within the skew', { iat: nowS() + 3 }, 'accepted'],
    ['a fraction of a second', { iat: nowS() - 0.5 }, 'accepted'],
    ['nbf in the future', { nbf: nowS() + 60 }, 'ERR_TOKEN_CLAIMS'],
    ['nbf as text', { nbf: 'soon' }, 'ERR_TOKEN_CLAIMS'],
    ['living too long', { exp: nowS() + 86_400 + 60 }, 'ERR_TOKEN_CLAIMS'],
    ['expired', { iat: nowS() - 600, exp: nowS() - 60 }, 'ERR_TOKEN_EXPIRED'],
    ['expired within the skew', { iat: nowS() - 600, exp: nowS() - 2 }, 'accepted'],
    ['no subject', { sub: undefined }, 'ERR_TOKEN_CLAIMS'],
    ['an empty subject', { sub: '' }, 'ERR_TOKEN_CLAIMS'],
    ['a subject with NUL', { sub: 'ali\0ce' }, 'ERR_TOKEN_CLAIMS'],
    ['a subject with half a character', { sub: 'ali\ud800ce' }, 'ERR_TOKEN_CLAIMS'],
    ['a subject of 1024 bytes', { sub: 'é'.repeat(512) }, 'accepted'],
    ['a subject of 1025 bytes', { sub: `${'é'.repeat(512)}a` }, 'ERR_TOKEN_CLAIMS'],
    ['a session with NUL', { sid: '\0' }, 'ERR_TOKEN_CLAIMS'],
    ['a token id that is no string', { jti: 7 }, 'ERR_TOKEN_CLAIMS'],
    ['a client that is no string', { client_id: {} }, 'ERR_TOKEN_CLAIMS'],
    ['scopes that are no strings', { scope: [1] }, 'ERR_TOKEN_CLAIMS'],
    ['another audience', { aud: 'elsewhere' }, 'ERR_TOKEN_AUDIENCE'],
    ['no audience', { aud: undefined }, 'ERR_TOKEN_AUDIENCE'],
    ['an audience that is no string', { aud: ['api', 7] }, 'ERR_TOKEN_AUDIENCE'],
    ['one audience of several', { aud: ['elsewhere', 'other'] }, 'accepted'],
  ] // biome-ignore format: a table
  for (const [name, claims, code] of cases)
    t.equal(await codeOf(made, await signed(claims)), code, name)
  const infinite = `${part({ alg: 'ES256', kid: 'ES256', typ: 'at+jwt' })}.${part(JSON.stringify(claimsOf()).replace(/"exp":\d+/, '"exp":1e999'))}`
  const key = await crypto.subtle.importKey(
    'jwk',
    await exportJWK(pairs.get('ES256')!.privateKey),
    { name: 'ECDSA', namedCurve: 'P-256' },
    false,
    ['sign'],
  )
  const signature = await crypto.subtle.sign(
    { name: 'ECDSA', hash: 'SHA-256' },
    key,
    Buffer.from(infinite),
  )
  t.equal(
    await codeOf(made, `${infinite}.${Buffer.from(signature).toString('base64url')}`),
    'ERR_TOKEN_CLAIMS',
    'exp beyond every number',
  )
})

/** 32 bytes, made from a number. */
const thumbprintOf = (i: number): string => createHash('sha256').update(`${i}`).digest('base64url')

t.test('a cnf with anything but thumbprints of a certificate and a key is refused', async (t) => {
  const made = make()
  const own = thumbprintOf(0)
  const values: unknown[] = [null, true, false, 0, 1, '', own, [], [own], [{ 'x5t#S256': own }], {}, { 'x5t#S256': own }]
  const names = ['JKT', 'jkt ', 'jwk', 'kid', 'jku', 'jwe', 'x5t', 'x5c', 'X5T#S256', 'x5t#s256', 'x5t#S512', ' x5t#S256', 'x5t#S256 ', '', '__proto__', 'constructor', 'osc']
  const cases: unknown[] = values.filter((value) => value === null || typeof value !== 'object' || Array.isArray(value) || Object.keys(value).length === 0)
  // Members that are not understood: each of them, with every value, alone and on either side of one that is.
  for (const name of names) {
    for (const value of values) {
      cases.push({ [name]: value }, { [name]: value, 'x5t#S256': own }, { 'x5t#S256': own, [name]: value })
    }
    for (const other of names) if (other !== name) cases.push({ [name]: own, [other]: own })
  }
  // Those that are understood, with what is no thumbprint: types, lengths, alphabets, spare bits, other encodings.
  for (const value of values) if (value !== own) cases.push({ 'x5t#S256': value }, { jkt: value }, { 'x5t#S256': own, jkt: value }, { 'x5t#S256': value, jkt: own })
  for (let length = 1; length < 90; length++) if (length !== 43) cases.push({ 'x5t#S256': 'A'.repeat(length) }, { jkt: 'A'.repeat(length) })
  for (let i = 0; i < 64; i++) {
    const right = thumbprintOf(i)
    const at = i % 43
    for (const foreign of ['+', '/', '=', ' ', '\n', '\0', 'é', '.', '"'])
      cases.push({ 'x5t#S256': right.slice(0, at) + foreign + right.slice(at + 1) })
    const last = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'[i]!
    if (i % 4 !== 0) cases.push({ 'x5t#S256': right.slice(0, -1) + last }, { jkt: right.slice(0, -1) + last })
    const bytes = Buffer.from(right, 'base64url')
    cases.push({ 'x5t#S256': `${right}=` }, { 'x5t#S256': `${right}\n` }, { 'x5t#S256': ` ${right}` })
    cases.push({ 'x5t#S256': bytes.toString('hex') }, { 'x5t#S256': bytes.toString('base64') })
    cases.push({ 'x5t#S256': bytes.toString('hex').toUpperCase().match(/../g)!.join(':') })
  }
  let refused = 0
  for (const cnf of cases) {
    const code = await codeOf(made, await signed({ cnf }))
    if (code === 'ERR_TOKEN_BOUND') refused++
    else t.fail(`${code}: ${JSON.stringify(cnf)}`)
  }
  t.ok(refused > 1000, `${refused} are refused`)
}) // biome-ignore format: a table

t.test('a token that is bound to a certificate is good with that one only', async (t) => {
  const { verifier } = make()
  const plain = await verifier.verify(await signed(), undefined)
  t.equal(plain.boundTo, undefined)
  const prints = Array.from({ length: 64 }, (_, i) => thumbprintOf(i))
  for (const [i, own] of prints.entries()) {
    const token = await signed({ cnf: { 'x5t#S256': own } })
    const { boundTo, keys } = await verifier.verify(token, undefined)
    t.same(boundTo, { certificate: own, key: undefined })
    t.equal(keys.length, plain.keys.length + 2 * 4, 'and a row can name it, at its issuer and at any')
    checkBinding(plain.boundTo, own)
    checkBinding(boundTo, own)
    for (const other of [undefined, '', own.toLowerCase(), own.slice(1), `${own}=`, prints[(i + 1) % 64]])
      t.throws(() => checkBinding(boundTo, other), { code: 'ERR_TOKEN_BOUND' }, `${other}`)
  }
  checkBinding(plain.boundTo, undefined)
}) // biome-ignore format: a table

t.test('a token that is bound to a key, or to both, has keys by which a row can name them', async (t) => {
  const { verifier } = make()
  const plain = await verifier.verify(await signed(), undefined)
  const [certificate, key] = [thumbprintOf(1), thumbprintOf(2)]
  for (const [cnf, boundTo, count] of [
    [{ jkt: key }, { certificate: undefined, key }, 1],
    [{ 'x5t#S256': certificate, jkt: key }, { certificate, key }, 2],
  ] as const) {
    const bound = await verifier.verify(await signed({ cnf }), undefined)
    t.same(bound.boundTo, boundTo)
    t.equal(bound.keys.length, plain.keys.length + count * 2 * 4)
    checkScheme(bound.boundTo, 'DPoP')
    checkScheme(bound.boundTo, undefined)
    t.throws(() => checkScheme(bound.boundTo, 'Bearer'), { code: 'ERR_TOKEN_BOUND' })
  }
  const both = { certificate, key }
  checkBinding(both, certificate)
  t.throws(() => checkBinding(both, undefined), { code: 'ERR_TOKEN_BOUND' })
  for (const boundTo of [undefined, { certificate, key: undefined }]) {
    checkScheme(boundTo, 'Bearer')
    checkScheme(boundTo, undefined)
    t.throws(() => checkScheme(boundTo, 'DPoP'), { code: 'ERR_TOKEN_BOUND' })
  }
}) // biome-ignore format: a table

t.test('operators see what a token named that does not fit', async (t) => {
  const { verifier } = make()
  const causeOf = async (
    claims: Record<string, unknown>,
    header: Record<string, unknown> = {},
  ): Promise<unknown> => {
    const refused = await Promise.resolve(await signed(claims, header))
      .then((token) => verifier.verify(token, undefined))
      .catch((error) => error)
    return (refused as GateError).cause
  }
  t.equal(await causeOf({ iss: 'https://"evil"' }), 'its iss is "https://\\"evil\\""')
  t.equal(await causeOf({ iss: undefined }), 'its iss is missing')
  t.equal(
    await causeOf({ aud: ['a', 'b'] }),
    'its aud is ["a","b"], expected one of ["api","other"]',
  )
  t.equal(await causeOf({ aud: undefined }), 'its /aud is missing')
  t.match(await causeOf({}, { kid: 'RS256' }), /^its kid is "RS256", expected one of \["ES256",/)
  t.equal(await causeOf({}, { typ: 'JWT' }), 'its typ is "jwt", expected at+jwt')
  t.equal(await causeOf({ iat: 1, exp: 2 }), `its exp is 2, now is ${nowS()}`)
  t.equal(await causeOf({ sub: 7 }), 'sub is not a usable string')
  t.equal(
    await causeOf({}, { kid: 'k'.repeat(300) }),
    'its kid is not a text of at most 256 characters',
  )
  t.equal(await causeOf({ cnf: 'x' }), 'its cnf is not an object')
  t.equal(
    await causeOf({ cnf: { jwk: { kty: 'oct', k: 'secret' } } }),
    'its cnf has ["jwk"]; only "x5t#S256" and "jkt" are supported',
  )
  t.equal(
    await causeOf({ cnf: { 'x5t#S256': 'x' } }),
    'its x5t#S256 is not a SHA-256 thumbprint in base64url',
  )
})

t.test('a route has an audience of its own, also for a token that is known already', async (t) => {
  const made = make()
  const token = await signed({ aud: 'api' })
  t.equal(await codeOf(made, token), 'accepted')
  t.equal(await codeOf(made, token, ['billing']), 'ERR_TOKEN_AUDIENCE')
  t.equal(await codeOf(made, token, ['billing', 'api']), 'accepted')
  t.same(made.counted, ['miss', 'hit'], 'a refusal is no hit')
})

t.test('a known token answers at once, until it expires', async (t) => {
  const made = make({ clock_skew: '0s' })
  const token = await signed({ iat: nowS() - 10, exp: nowS() + 4 })
  const principal = await made.verifier.verify(token, undefined)
  t.equal(
    made.verifier.verify(token, undefined) as Principal,
    principal,
    'the same, without a promise',
  )
  await pause(4100)
  t.throws(() => made.verifier.verify(token, undefined), { code: 'ERR_TOKEN_EXPIRED' })
})

t.test(
  'keys that change: a known token is verified anew, one under verification by the new ones',
  async (t) => {
    const made = make()
    const token = await signed()
    t.equal(await codeOf(made, token), 'accepted')
    made.verifier.setKeys({ issuer, version: 2, keys: [pairs.get('RS256')!.jwk] as never })
    t.equal(await codeOf(made, token), 'ERR_TOKEN_KEY_UNKNOWN')
    made.verifier.setKeys({ issuer, version: 1, keys: [pairs.get('ES256')!.jwk] as never })
    t.equal(await codeOf(made, token), 'ERR_TOKEN_KEY_UNKNOWN', 'an older set changes nothing')
    const kept = codeOf(made, await signed({}, { alg: 'RS256' }))
    made.verifier.setKeys({ issuer, version: 3, keys: [pairs.get('RS256')!.jwk] as never })
    t.equal(await kept, 'accepted', 'its key is still there')
    const gone = codeOf(made, await signed({ jti: 'x' }, { alg: 'RS256' }))
    made.verifier.setKeys({ issuer, version: 4, keys: [pairs.get('ES256')!.jwk] as never })
    t.equal(await gone, 'ERR_TOKEN_KEY_UNKNOWN', 'its key is not')
  },
)

t.test(
  'a key that has just been published is waited for once; strangers do not ask again and again',
  async (t) => {
    const made = make({}, [pairs.get('RS256')!.jwk])
    const waiting = codeOf(made, await signed())
    await pause(50)
    t.same(made.wanted, [1])
    made.verifier.setKeys({
      issuer,
      version: 2,
      keys: [...pairs.values()].map((p) => p.jwk) as never,
    })
    t.equal(await waiting, 'accepted')
    t.equal(await codeOf(made, await signed({}, { kid: 'nobody' })), 'ERR_TOKEN_KEY_UNKNOWN')
    const second = await signed({ jti: '2' }, { kid: 'nobody' })
    const began = performance.now()
    t.equal(await codeOf(made, second), 'ERR_TOKEN_KEY_UNKNOWN')
    t.same(made.wanted, [1, 2])
    t.ok(performance.now() - began < 900, 'the second did not wait')
  },
)

t.test('without the keys of its issuer a token is refused as not verifiable now', async (t) => {
  t.equal(await codeOf(make({}, null), await signed()), 'ERR_KEYS_UNAVAILABLE')
})

t.test(
  'key sets of every mix of kid, type, algorithm and order verify what their keys signed',
  async (t) => {
    const seed = Number(process.env.SEED ?? Date.now() % 1e9)
    t.comment(`SEED=${seed}`)
    const random = seeded(seed)
    const one = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
    // Two pairs of each type, so that a token may be signed by a key that the set has not.
    const owned: { alg: string; jwk: JWK; privateKey: CryptoKey }[] = []
    for (const alg of ['ES256', 'ES384', 'EdDSA', 'RS256', 'ES256', 'RS256', 'EdDSA']) {
      const pair = await generateKeyPair(alg, { extractable: true })
      owned.push({ alg, jwk: await exportJWK(pair.publicKey), privateKey: pair.privateKey })
    }
    const names = [undefined, '', 'a', 'b']
    const seen: Record<string, number> = {}
    for (let round = 0; round < 400; round++) {
      const set = Array.from({ length: 1 + Math.floor(random() * 5) }, () => {
        const { jwk, alg } = one(owned)
        const named = one([undefined, alg, alg === 'EdDSA' ? 'Ed25519' : alg])
        return JSON.parse(JSON.stringify({ ...jwk, kid: one(names), alg: named })) as JWK
      })
      const signer = one(owned)
      const kid = one([...names, 'c'])
      const { keys } = admitKeys(JSON.stringify({ keys: set }), [...pairs.keys()])
      const { verifier } = make({ keys_cooldown: '1ms' }, keys as never)
      const alg = signer.alg === 'EdDSA' ? one(['EdDSA', 'Ed25519']) : signer.alg
      const token = await signed({}, { alg, kid }, signer.privateKey)
      const fitting = set.filter(({ kty, crv }) => kty === signer.jwk.kty && crv === signer.jwk.crv)
      const named = fitting.filter((key) => key.kid === kid)
      const asked =
        kid === undefined
          ? fitting
          : named.length > 0
            ? named
            : fitting.filter((key) => key.kid === undefined)
      const holds = asked.some(({ x, n }) => x === signer.jwk.x && n === signer.jwk.n)
      const expected = holds
        ? 'accepted'
        : asked.length > 0
          ? 'ERR_TOKEN_SIGNATURE'
          : 'ERR_TOKEN_KEY_UNKNOWN'
      // The set that a fetch finds is the same.
      const answer = codeOf({ verifier } as Made, token)
      verifier.setKeys({ issuer, version: 2, keys: keys as never })
      t.equal(await answer, expected, `round ${round}: ${kid} by ${alg} in ${JSON.stringify(set)}`)
      seen[expected] = (seen[expected] ?? 0) + 1
    }
    t.match(seen, { accepted: Number, ERR_TOKEN_SIGNATURE: Number, ERR_TOKEN_KEY_UNKNOWN: Number })
  },
)

t.test('a new key under the name of an old one is found by one fetch', async (t) => {
  const made = make()
  const pair = await generateKeyPair('ES256', { extractable: true })
  const renewed = { ...(await exportJWK(pair.publicKey)), kid: 'ES256', alg: 'ES256' }
  const first = codeOf(made, await signed({}, {}, pair.privateKey))
  await until('the keys are asked for', () => made.wanted.length === 1)
  made.verifier.setKeys({ issuer, version: 2, keys: [renewed] as never })
  t.equal(await first, 'accepted')
  // Forged tokens under a known name: one fetch in a cooldown, and only the first of them waits for it.
  t.equal(await codeOf(made, await signed()), 'ERR_TOKEN_SIGNATURE')
  const asked = made.wanted.length
  for (let i = 0; i < 20; i++)
    t.equal(await codeOf(made, await signed({ jti: `${i}` })), 'ERR_TOKEN_SIGNATURE')
  t.equal(made.wanted.length, asked)
})

t.test('the cache is bounded in bytes and keeps what is used', async (t) => {
  const cache = new TokenCache(100_000)
  const principal = await make().verifier.verify(await signed(), undefined)
  const entry = { principal, audience: ['api'], keysVersion: 1, rules: {} }
  for (let i = 0; i < 1000; i++) {
    cache.set(`token-${i}`, entry)
    cache.get('token-0')
  }
  t.ok(cache.get('token-0'), 'in use all the time')
  for (let i = 0; i < 8; i++) cache.set('token-999', entry)
  t.ok(cache.get('token-999'), 'what comes again gets in')
  let held = 0
  for (let i = 0; i < 1000; i++) if (cache.get(`token-${i}`) !== undefined) held++
  t.ok(held > 5 && held < 100, `${held} of 1000 are held`)
  t.equal(cache.size, held, 'nothing else is kept')
  cache.set('x'.repeat(100_000), entry)
  t.equal(cache.get('x'.repeat(100_000)), undefined, 'it would fill the cache alone')
  t.equal(cache.size, held, 'nothing had to go for it')
})

t.test('tokens that are used once do not drive out those that come again', async (t) => {
  const principal = await make().verifier.verify(await signed(), undefined)
  const entry = { principal, audience: ['api'], keysVersion: 1, rules: {} }
  const room = 100
  const size = 'token-0000'.length + 3 * principal.json.length + principal.keys.byteLength + 1500
  const cache = new TokenCache(room * size)
  for (let round = 0, once = 0; round < 50; round++) {
    for (let i = 1000; i < 1050; i++)
      if (cache.get(`token-${i}`) === undefined) cache.set(`token-${i}`, entry)
    for (let i = 0; i < 40; i++) cache.set(`once-${1000 + once++}`, entry)
    t.ok(cache.size <= room)
  }
  let held = 0
  for (let i = 1000; i < 1050; i++) if (cache.get(`token-${i}`) !== undefined) held++
  t.equal(held, 50)
  // Whatever is taken out by name, the list stays whole.
  for (let i = 1000; i < 1050; i += 2) cache.delete(`token-${i}`)
  for (let i = 0; i < 1000; i++) cache.set(`more-${1000 + i}`, entry)
  t.equal(cache.size, room)
  for (let i = 0; i < 1000; i++) cache.delete(`more-${1000 + i}`)
  for (let i = 1000; i < 1050; i++) cache.delete(`token-${i}`)
  for (let i = 0; i < 2000; i++) cache.delete(`once-${1000 + i}`)
  t.equal(cache.size, 0)
})

t.test('a signature is checked once for all workers, by the key that is in use', async (t) => {
  const signatures = KnownSignatures.create(1 << 16)
  const first = make({}, undefined, signatures)
  const second = make({}, undefined, signatures)
  const token = await signed()
  const other = await signed({ sub: 'bob' })
  await first.verifier.verify(token, undefined)
  await second.verifier.verify(other, undefined)
  t.same([first.counted, second.counted], [['miss'], ['miss']], 'a key first verifies one itself')
  const principal = second.verifier.verify(token, undefined)
  t.notOk(principal instanceof Promise, 'at once')
  t.match(principal, { subject: 'alice' })
  t.same(second.counted, ['miss', 'shared'])
  t.throws(() => first.verifier.verify(other, ['elsewhere']), { code: 'ERR_TOKEN_AUDIENCE' })
  // The signature is known, and everything else is looked at as for a new token.
  const late = make({ max_token_lifetime: '1m' }, undefined, signatures)
  await late.verifier.verify(await signed({ exp: nowS() + 30 }), undefined)
  t.throws(() => late.verifier.verify(token, undefined), { code: 'ERR_TOKEN_CLAIMS' })
  const forged = `${token.slice(0, -6)}${token.at(-6) === 'A' ? 'B' : 'A'}${token.slice(-5)}`
  await t.rejects(Promise.resolve(second.verifier.verify(forged, undefined)), {
    code: 'ERR_TOKEN_SIGNATURE',
  })
})

t.test('a key that is removed or replaced ends its tokens on every worker', async (t) => {
  const signatures = KnownSignatures.create(1 << 16)
  const verifiers = [make({}, undefined, signatures), make({}, undefined, signatures)]
  const token = await signed()
  for (const { verifier } of verifiers) await verifier.verify(token, undefined)
  const { publicKey } = await generateKeyPair('ES256')
  const replaced = { ...(await exportJWK(publicKey)), kid: 'ES256', alg: 'ES256' }
  for (const [version, keys] of [
    [2, [replaced]],
    [3, [pairs.get('RS256')!.jwk]],
  ] as const) {
    for (const { verifier } of verifiers) {
      verifier.setKeys({ issuer, version, keys: keys as never })
      await t.rejects(async () => await verifier.verify(token, undefined), {
        code: /ERR_TOKEN_(SIGNATURE|KEY_UNKNOWN)/,
      })
    }
  }
  for (const { verifier } of verifiers) {
    verifier.setKeys({ issuer, version: 4, keys: [pairs.get('ES256')!.jwk] as never })
    await verifier.verify(token, undefined)
  }
})

t.test('a new token that comes many times at once is verified once', async (t) => {
  const { verifier } = make()
  const token = await signed()
  const routes = [undefined, ['api'], ['other', 'api'], undefined]
  const all = await Promise.all(routes.map(async (route) => await verifier.verify(token, route)))
  t.equal(new Set(all).size, 1)
  const again = await signed({ sub: 'bob' })
  const results = await Promise.allSettled([
    verifier.verify(again, ['elsewhere']),
    verifier.verify(again, undefined),
  ])
  t.match(results, [
    { status: 'rejected', reason: { code: 'ERR_TOKEN_AUDIENCE' } },
    { status: 'fulfilled', value: { subject: 'bob' } },
  ])
})

t.test('a flood of new tokens is shed, and known ones are not', async (t) => {
  const { verifier } = make()
  const known = await signed()
  await verifier.verify(known, undefined)
  const tokens = await Promise.all(
    Array.from({ length: 1010 }, (_, i) => signed({ jti: `new-${i}` })),
  )
  const flood = Promise.allSettled(
    tokens.map(async (token) => await verifier.verify(token, undefined)),
  )
  t.match(verifier.verify(known, undefined), { subject: 'alice' })
  const results = await flood
  const shed = results.filter(({ status }) => status === 'rejected')
  t.equal(shed.length, 10)
  t.match(shed[0], { reason: { code: 'ERR_OVERLOADED' } })
  t.match(await verifier.verify(tokens.at(-1)!, undefined), { subject: 'alice' })
})

t.test('of more tokens in turn than there is room for, a part stays', async (t) => {
  const principal = await make().verifier.verify(await signed(), undefined)
  const entry = { principal, audience: ['api'], keysVersion: 1, rules: {} }
  const room = 100
  const size = 'token-0000'.length + 3 * principal.json.length + principal.keys.byteLength + 1500
  const cache = new TokenCache(room * size)
  let [hits, came] = [0, 0]
  for (let round = 0; round < 40; round++) {
    for (let i = 1000; i < 1307; i++) {
      const hit = cache.get(`token-${i}`) !== undefined
      if (!hit) cache.set(`token-${i}`, entry)
      if (round < 20) continue
      came++
      if (hit) hits++
    }
  }
  // Were each of them let in, each would have left before its turn.
  t.ok(hits > came / 6, `${hits} of ${came}`)
})

t.test('a token that ends like a verified one is not taken for it', async (t) => {
  const cache = new TokenCache(100_000)
  const principal = await make().verifier.verify(await signed(), undefined)
  const entry = { principal, audience: ['api'], keysVersion: 1, rules: {} }
  const tail = 's'.repeat(64)
  cache.set(`one.${tail}`, entry)
  for (const other of [`two.${tail}`, `one.x${tail}`, tail, `one.${tail}x`, tail.slice(-24), '']) {
    t.equal(cache.get(other), undefined, other)
    cache.delete(other)
  }
  t.equal(cache.get(`one.${tail}`), entry, 'nor put out by it')
  cache.set(`two.${tail}`, { ...entry, audience: ['other'] })
  t.equal(cache.get(`one.${tail}`), undefined, 'put out by another that is as good: verified anew')
  t.strictSame(cache.get(`two.${tail}`)?.audience, ['other'])
})
