/** RFC 9449 section 4.3, rule by rule: what follows it passes, and what breaks one of them alone is refused. */
import { createPrivateKey, generateKeyPairSync, randomUUID, sign } from 'node:crypto'
import { calculateJwkThumbprint, exportJWK } from 'jose'
import t from 'tap'
import { proofAlgorithms } from '../../src/domain/proof.ts'
import { type Code, GateError } from '../../src/errors.ts'
import { ProofVerifier, type ProvenRequest } from '../../src/identity/dpop.ts'
import { UsedProofs } from '../../src/identity/used-proofs.ts'
import { canonicalUrl } from '../../src/route/target.ts'
import { athOf, KeyHolder, type ProofParts } from '../harness/proofs.ts'

/** As if the gate had run for a while. */
const sinceMs = Date.now() - 600_000
const shared = UsedProofs.create(1 << 20, 60_000, sinceMs)
const verifier = new ProofVerifier({ shared, canonicalUrl })
const token = 'the.access.token'
const url = 'https://api.example/orders/7'
const alice = await KeyHolder.make()
const mallory = await KeyHolder.make()
const nowS = (): number => Math.floor(Date.now() / 1000)

const askedWith = (over: Partial<ProvenRequest> = {}): ProvenRequest => ({
  proof: undefined,
  token,
  key: alice.jkt,
  method: 'GET',
  url,
  clockSkewMs: 5000,
  nonce: 'none',
  ...over,
})

/** `good`, or the code and cause of the refusal. */
async function verdictOn(over: Partial<ProvenRequest>, by = verifier): Promise<string> {
  try {
    await by.check(askedWith(over))
    return 'good'
  } catch (error) {
    if (!(error instanceof GateError)) throw error
    return `${error.code} ${error.cause ?? ''}`.trim()
  }
}

const make = (parts: ProofParts = {}): Promise<string> => alice.proof(url, token, parts)
const encoded = (value: unknown): string =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')
const der = createPrivateKey({
  key: (await exportJWK(alice.privateKey)) as never,
  format: 'jwk',
})
/** Signed whatever it is. */
function signed(
  header: unknown,
  claims: unknown,
  dsaEncoding: 'der' | 'ieee-p1363' = 'ieee-p1363',
) {
  const text = `${encoded(header)}.${encoded(claims)}`
  const signature = sign('sha256', Buffer.from(text), { key: der, dsaEncoding })
  return `${text}.${signature.toString('base64url')}`
}
const header = { alg: 'ES256', typ: 'dpop+jwt', jwk: alice.jwk }
const claims = () => ({ jti: randomUUID(), htm: 'GET', htu: url, iat: nowS(), ath: athOf(token) })

t.test('a proof that follows the rules is good, once', async (t) => {
  const proof = await make()
  t.equal(await verdictOn({ proof }), 'good')
  t.match(await verdictOn({ proof }), /^ERR_PROOF_REPLAYED its jti/)
  const sameJti = await make({ claims: { jti: 'mine' } })
  t.equal(await verdictOn({ proof: sameJti }), 'good')
  const again = await make({ claims: { jti: 'mine', iat: nowS() - 20 } })
  t.match(await verdictOn({ proof: again }), /^ERR_PROOF_REPLAYED its jti/, 'its jti is used up')
  const worker = new ProofVerifier({ shared, canonicalUrl })
  t.match(await verdictOn({ proof }, worker), /^ERR_PROOF_REPLAYED its jti/, 'on another worker')
  t.equal(await verdictOn({ proof: signed(header, claims()) }), 'good', 'as this test signs it')
})

t.test('proofs of every algorithm are good, and none of another key', async (t) => {
  for (const alg of proofAlgorithms) {
    const holder = alg === 'ES256' ? alice : await KeyHolder.make(alg)
    const proof = await holder.proof(url, token)
    t.equal(await verdictOn({ proof, key: holder.jkt }), 'good', alg)
    t.match(await verdictOn({ proof, key: mallory.jkt }), /^ERR_TOKEN_BOUND/, alg)
    const [head, body] = (await holder.proof(url, token)).split('.')
    const foreign = proof.slice(proof.lastIndexOf('.'))
    t.match(await verdictOn({ proof: `${head}.${body}${foreign}`, key: holder.jkt }), /signature is wrong/, alg)
  }
}) // biome-ignore format: a table

t.test('a proof that breaks one rule is refused for that', async (t) => {
  const privateJwk = await exportJWK(alice.privateKey)
  const rsa = await KeyHolder.make('RS256')
  const { x, y } = alice.jwk
  const whole = await make()
  const [head = '', body = '', signature = ''] = whole.split('.')
  const duplicate = `{"jti":"a","htm":"POST","htm":"GET","htu":${JSON.stringify(url)},"iat":${nowS()},"ath":"${athOf(token)}"}`
  const h = (over: object): Promise<string> => make({ header: over as never })
  const c = (over: object): Promise<string> => make({ claims: over as never })
  const invalid: [rule: string, proof: string | undefined | Promise<string>, cause: RegExp, code?: Code][] = [
    // 1 and 2: one header with one well-formed JWT
    ['none', undefined, /there is none/],
    ['empty', '', /1 parts/],
    ['two in one header', `${whole}, ${whole}`, /5 parts/],
    ['no JWT', 'abc', /1 parts/],
    ['encrypted', 'a.b.c.d.e', /5 parts/],
    ['without signature', `${head}.${body}.`, /base64url/],
    ['padded', `${whole}=`, /base64url/],
    ['with a space', ` ${whole}`, /base64url/],
    ['a header that is no JSON', `${encoded('{')}.${body}.${signature}`, /header is not JSON/],
    ['a header that is a list', signed([], claims()), /header is not an object/],
    ['a payload that is null', signed(header, null), /payload is not an object/],
    ['too long', c({ more: 'x'.repeat(8200) }), /more than 8192 characters/],
    ['a name twice', signed(header, duplicate), /htm|twice/],
    // 3: all claims
    ['no jti', c({ jti: undefined }), /jti/],
    ['an empty jti', c({ jti: '' }), /jti/],
    ['a jti that is a number', c({ jti: 7 }), /jti/],
    ['no htm', c({ htm: undefined }), /htm is missing/],
    ['no htu', c({ htu: undefined }), /htu is missing/],
    ['an htu that is a list', c({ htu: [url] }), /htu is/],
    ['no iat', c({ iat: undefined }), /iat is missing/],
    ['an iat that is a text', c({ iat: `${nowS()}` }), /iat is "/],
    ['no ath', c({ ath: undefined }), /ath/],
    // 4: its type
    ['no typ', h({ typ: undefined }), /typ is missing/],
    ['the typ of an access token', h({ typ: 'at+jwt' }), /typ is "at\+jwt"/],
    ['typ JWT', h({ typ: 'JWT' }), /typ is "JWT"/],
    // 5: an asymmetric algorithm
    ['no alg', signed({ ...header, alg: undefined }, claims()), /alg is missing/],
    ['alg none', signed({ ...header, alg: 'none' }, claims()), /alg is "none"/],
    ['alg HS256', signed({ ...header, alg: 'HS256' }, claims()), /alg is "HS256"/],
    ['alg ES256K', signed({ ...header, alg: 'ES256K' }, claims()), /alg is "ES256K"/],
    ['alg in small letters', signed({ ...header, alg: 'es256' }, claims()), /alg is "es256"/],
    ['an alg that the key does not fit', signed({ ...header, alg: 'ES384' }, claims()), /does not fit ES384/],
    ['an alg of another type of key', signed({ ...header, alg: 'RS256' }, claims()), /does not fit RS256/],
    // 6: its signature, by the key that it names
    ['signed by another', make({ signer: mallory.privateKey }), /signature is wrong/],
    ['another payload', signed(header, claims()).replace(/\.[^.]+\./, `.${encoded(claims())}.`), /signature is wrong/],
    ['a signature in DER', signed(header, claims(), 'der'), /signature/],
    ['a signature of zeros', `${head}.${body}.${Buffer.alloc(64).toString('base64url')}`, /signature is wrong/],
    ['half a signature', `${head}.${body}.${Buffer.alloc(32).toString('base64url')}`, /signature/],
    ['a signature and more', `${head}.${body}.${Buffer.concat([Buffer.from(signature, 'base64url'), Buffer.alloc(3)]).toString('base64url')}`, /signature/],
    // 7: a public key
    ['no jwk', h({ jwk: undefined }), /jwk is not used/],
    ['a kid alone', h({ jwk: undefined, kid: alice.jkt }), /jwk is not used/],
    ['a private key', h({ jwk: privateJwk }), /private part/],
    ['a member of a private key', h({ jwk: { ...alice.jwk, dp: 'AA' } }), /private part/],
    ['a symmetric key', h({ jwk: { kty: 'oct', k: 'AA' } }), /kty or crv/],
    ['a key for encryption', h({ jwk: { ...alice.jwk, use: 'enc' } }), /use is not sig/],
    ['a key for another curve', h({ jwk: { ...alice.jwk, alg: 'ES384' } }), /alg is for keys of another/],
    ['a key for another algorithm', signed({ alg: 'RS256', typ: 'dpop+jwt', jwk: { ...rsa.jwk, alg: 'PS256' } }, claims()), /does not fit RS256/],
    ['a curve that is not supported', signed({ ...header, jwk: { ...alice.jwk, crv: 'secp256k1' } }, claims()), /kty or crv/],
    ['a list of keys', h({ jwk: [alice.jwk] }), /jwk is not used/],
    // 8 and 9: its request
    ['another method', c({ htm: 'POST' }), /htm is "POST"/],
    ['a method in small letters', c({ htm: 'get' }), /htm is "get"/],
    ['another path', c({ htu: 'https://api.example/orders/8' }), /htu is https:.*8, the request came to/],
    ['a longer path', c({ htu: `${url}/` }), /htu/],
    ['another host', c({ htu: 'https://evil.example/orders/7' }), /htu/],
    ['another scheme', c({ htu: 'http://api.example/orders/7' }), /htu/],
    ['another port', c({ htu: 'https://api.example:8443/orders/7' }), /htu/],
    ['a relative htu', c({ htu: '/orders/7' }), /not a canonical http URL/],
    ['an htu with a user', c({ htu: 'https://a@api.example/orders/7' }), /not a canonical http URL/],
    // 11: its time
    ['too old', c({ iat: nowS() - 61 }), /older than/],
    ['from the future', c({ iat: nowS() + 60 }), /future/],
    ['in milliseconds', c({ iat: Date.now() }), /iat/],
    ['negative', c({ iat: -1 }), /iat/],
    ['expired', c({ exp: nowS() - 60 }), /exp/],
    ['not yet good', c({ nbf: nowS() + 60 }), /nbf/],
    // 12: its token
    ['the ath of another token', c({ ath: athOf('another') }), /ath/],
    ['an ath in hexadecimal', c({ ath: Buffer.from(athOf(token), 'base64url').toString('hex') }), /ath/],
    // Members that change how it is read
    ['crit', h({ crit: ['exp'], exp: 1 }).catch(() => signed({ ...header, crit: ['exp'] }, claims())), /crit/],
    ['b64', signed({ ...header, b64: false }, claims()), /crit, b64/],
    ['the key of another', mallory.proof(url, token), /bound to the key/, 'ERR_TOKEN_BOUND'],
    ['another type of key', rsa.proof(url, token), /bound to the key/, 'ERR_TOKEN_BOUND'],
    ['coordinates in another spelling', signed({ ...header, jwk: { ...alice.jwk, x: `${x}=`, y } }, claims()), /bound to the key/, 'ERR_TOKEN_BOUND'],
  ] // biome-ignore format: a table
  for (const [rule, proof, cause, code = 'ERR_PROOF_INVALID'] of invalid) {
    const verdict = await verdictOn({ proof: await proof })
    t.match(verdict, new RegExp(`^${code} `), rule)
    t.match(verdict, cause, rule)
  }
  t.equal(await verdictOn({ proof: whole }), 'good', 'none of them has used up a good proof')
})

t.test('the edges of its time', async (t) => {
  const good = { clockSkewMs: 5000 }
  for (const iat of [nowS() - 45, nowS() - 30.5, nowS() + 4])
    t.equal(await verdictOn({ ...good, proof: await make({ claims: { iat } }) }), 'good', `${iat - nowS()}`)
}) // biome-ignore format: short

t.test('htu and the URL of the request are compared in one form', async (t) => {
  const cases: [htu: string, url: string, isSame: boolean][] = [
    ['HTTPS://API.Example/orders/7', url, true],
    ['https://api.example:443/orders/7', url, true],
    ['https://api.example./orders/7', url, true],
    ['https://api.example/orders/7?a=1&b=2', url, true],
    ['https://api.example/orders/7#part', url, true],
    ['https://api.example/%6Frders/%37', url, true],
    ['https://api.example/a%2fb', 'https://api.example/a%2Fb', true],
    ['https://api.example', 'https://api.example/', true],
    ['https://api.example?x', 'https://api.example/', true],
    ['http://api.example:80/', 'http://api.example/', true],
    ['http://api.example:8080/', 'http://api.example:8080/', true],
    ['https://[2001:db8::1]:8443/', 'https://[2001:db8::1]:8443/', true],
    ['https://api.example:80/orders/7', url, false],
    ['https://api.example/ORDERS/7', url, false],
    ['https://api.example/x/../orders/7', url, false],
    ['https://api.example/./orders/7', url, false],
    ['https://api.example//orders/7', url, false],
    ['https://api.example/orders%2F7', url, false],
    ['https://api.example/orders/7%3Fa', url, false],
    ['https://api.example\\@evil.example/orders/7', url, false],
    ['https://api.example@evil.example/orders/7', url, false],
    ['https://evil.example/?https://api.example/orders/7', url, false],
    ['wss://api.example/orders/7', url, false],
    ['https:/api.example/orders/7', url, false],
    ['https:///orders/7', url, false],
    ['//api.example/orders/7', url, false],
    [' https://api.example/orders/7', url, false],
    ['https://api.example/orders/7 ', url, false],
    ['https://api.example/orders/7\n', url, false],
    ['https://äpi.example/orders/7', url, false],
    ['', url, false],
  ]
  for (const [htu, own, isSame] of cases) {
    const verdict = await verdictOn({ url: own, proof: await make({ claims: { htu } }) })
    if (isSame) t.equal(verdict, 'good', htu)
    else t.match(verdict, /^ERR_PROOF_INVALID its htu/, htu)
  }
})

t.test('where nonces are required, one of this minute or the last is', async (t) => {
  const now = Date.now()
  const nonce = verifier.nonce(now)
  const required = { nonce: 'required' } as const
  const withNonce = (value: unknown): Promise<string> => make({ claims: { nonce: value } })
  t.equal(await verdictOn({ ...required, proof: await withNonce(nonce) }), 'good')
  const before = verifier.nonce(now - 60_000)
  t.equal(await verdictOn({ ...required, proof: await withNonce(before) }), 'good')
  const worker = new ProofVerifier({ shared, canonicalUrl })
  t.equal(worker.nonce(now), nonce, 'the same on every worker')
  const elsewhere = new ProofVerifier({
    shared: UsedProofs.create(1 << 16, 60_000, sinceMs),
    canonicalUrl,
  })
  for (const [name, value] of [
    ['none', undefined],
    ['an old one', verifier.nonce(now - 180_000)],
    ['one of the future', verifier.nonce(now + 180_000)],
    ['one of another gate', elsewhere.nonce(now)],
    ['an empty one', ''],
    ['a list', [nonce]],
    ['null', null],
  ] as const)
    t.match(
      await verdictOn({ ...required, proof: await withNonce(value) }),
      /^ERR_PROOF_NONCE/,
      name,
    )
  t.equal(await verdictOn({ proof: await withNonce('of the issuer') }), 'good', 'none is asked for')
})

t.test('a weak key is refused, also when the issuer has bound a token to it', async (t) => {
  const small = generateKeyPairSync('rsa', { modulusLength: 1024 })
  const jwk = small.publicKey.export({ format: 'jwk' })
  const text = `${encoded({ alg: 'RS256', typ: 'dpop+jwt', jwk })}.${encoded(claims())}`
  const proof = `${text}.${sign('sha256', Buffer.from(text), small.privateKey).toString('base64url')}`
  const key = await calculateJwkThumbprint(jwk as never)
  for (const time of ['first', 'again'])
    t.match(await verdictOn({ proof, key }), /2048 to 8192 bits/, time)
})

t.test('a proof from before the start of the gate is refused', async (t) => {
  const young = new ProofVerifier({ shared: UsedProofs.create(1 << 16, 60_000, Date.now()), canonicalUrl })
  const before = await make({ claims: { iat: nowS() - 20 } })
  t.match(await verdictOn({ proof: before }, young), /^ERR_PROOF_INVALID .* before its start/)
  t.equal(await verdictOn({ proof: await make({ claims: { iat: nowS() + 1 } }) }, young), 'good')
}) // biome-ignore format: short

t.test('a memory that is full refuses with 503, and only proofs that are good count', async (t) => {
  const tiny = new ProofVerifier({ shared: UsedProofs.create(64, 60_000, sinceMs), canonicalUrl })
  const iat = nowS()
  const bad = await make({ claims: { iat }, signer: mallory.privateKey })
  for (let i = 0; i < 3; i++) t.match(await verdictOn({ proof: bad }, tiny), /signature is wrong/)
  t.equal(await verdictOn({ proof: await make({ claims: { iat } }) }, tiny), 'good')
  const full = await verdictOn({ proof: await make({ claims: { iat } }) }, tiny)
  t.match(full, /^ERR_OVERLOADED limits.dpop_proofs/)
})
