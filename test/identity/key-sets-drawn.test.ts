/**
 * Drawn key sets, with every mix of `kid`, `alg`, `use`, `key_ops` and key types, and tokens signed by keys in and out of
 * them: the gate accepts what jose accepts. jose is asked about one key at a time, so that a set with several keys for a
 * token is no error. The differences are three, and `jose` below makes up for them: a token whose `kid` no key has is tried
 * with the keys without one, `Ed25519` is another name of `EdDSA`, and a public key whose `key_ops` name `sign` beside
 * `verify` is one to verify with.
 */
import {
  CompactSign,
  compactVerify,
  createLocalJWKSet,
  exportJWK,
  generateKeyPair,
  importJWK,
  type JWK,
} from 'jose'
import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import { noPointers } from '../../src/domain/principal.ts'
import type { GateError } from '../../src/errors.ts'
import { admitKeys, maxCandidates } from '../../src/identity/admit.ts'
import { KnownSignatures } from '../../src/identity/known-signatures.ts'
import { TokenVerifier } from '../../src/identity/token.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const issuer = 'https://idp.example'
const algorithms = ['ES256', 'ES384', 'EdDSA', 'RS256', 'PS256']
const [config] = readConfig(
  JSON.stringify({
    database: { url: 'postgres://gate@127.0.0.1/gate' },
    issuers: [{ issuer, audience: ['api'], algorithms }],
    routes: [{ name: 'a', upstream: 'http://127.0.0.1:1' }],
  }),
  '.',
  {},
).issuers

interface Pair {
  readonly jwk: JWK
  readonly secret: JWK
  /** What it signs with. */
  readonly algs: readonly string[]
}

async function pairOf(alg: string, algs: readonly string[]): Promise<Pair> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
  return { jwk: await exportJWK(publicKey), secret: await exportJWK(privateKey), algs }
}

const pairs = await Promise.all([
  pairOf('ES256', ['ES256']),
  pairOf('ES256', ['ES256']),
  pairOf('ES384', ['ES384']),
  pairOf('EdDSA', ['EdDSA', 'Ed25519']),
  pairOf('EdDSA', ['EdDSA', 'Ed25519']),
  pairOf('RS256', ['RS256', 'PS256']),
  pairOf('RS256', ['RS256', 'PS256']),
])

interface Token {
  readonly header: { readonly alg: string; readonly kid?: string }
  readonly text: string
}

const made = new Map<string, Promise<Token>>()
const now = Math.floor(Date.now() / 1000)
const claims = JSON.stringify({
  ...{ iss: issuer, aud: 'api', sub: 'alice', client_id: 'app', jti: 'one' },
  ...{ iat: now - 1, exp: now + 3600 },
})

function tokenOf(pair: Pair, alg: string, kid: string | undefined): Promise<Token> {
  const name = JSON.stringify([pairs.indexOf(pair), alg, kid])
  const known = made.get(name)
  if (known !== undefined) return known
  const header = { alg, ...(kid === undefined ? {} : { kid }) }
  const signing = importJWK(pair.secret, alg)
    .then((key) =>
      new CompactSign(new TextEncoder().encode(claims))
        .setProtectedHeader({ ...header, typ: 'at+jwt' })
        .sign(key),
    )
    .then((text) => ({ header, text }))
  made.set(name, signing)
  return signing
}

type Pick = <T>(from: readonly T[]) => T

function drawKey(pick: Pick, pair: Pair): JWK {
  const key: Record<string, unknown> = { ...(pick([0, 0, 0, 0, 0, 0, 0, 1]) ? pair.secret : pair.jwk) } // biome-ignore format: a line
  const set = (name: string, value: unknown): void => {
    if (value !== undefined) key[name] = value
  }
  set('kid', pick([undefined, undefined, '', 'a', 'a', 'b']))
  const own = pick(pair.algs)
  const rarely = (value: unknown): unknown => pick([undefined, undefined, undefined, value])
  set('alg', rarely(pick([...algorithms, 'ES512', 'HS256', 'RSA-OAEP'])) ?? pick([undefined, own]))
  set('use', rarely(pick(['enc', 'SIG'])) ?? pick([undefined, 'sig']))
  set('key_ops', rarely(pick([['sign'], []])) ?? pick([undefined, ['verify'], ['sign', 'verify']]))
  return key as JWK
}

/** Mostly of few keys, so that several are meant by one token. */
function drawSet(pick: Pick, of: readonly Pair[]): readonly JWK[] {
  const keys: JWK[] = []
  for (let left = pick([1, 2, 3, 4, 5, 6, 8]); left > 0; left--) {
    const again = keys.length > 0 && pick([0, 0, 0, 0, 1]) === 1
    keys.push(again ? { ...pick(keys) } : drawKey(pick, pick(of)))
  }
  return keys
}

const oneName = (alg: string | undefined) => (alg === 'Ed25519' ? 'EdDSA' : alg)

/** @returns whether one of the keys verifies the token; undefined where the gate's limit of candidates may decide. */
async function jose(keys: readonly JWK[], { header, text }: Token): Promise<boolean | undefined> {
  const alg = oneName(header.alg)!
  const fitting: { key: JWK; verifies: boolean }[] = []
  for (const key of keys) {
    const named = {
      ...key,
      ...(key.alg === undefined ? {} : { alg: oneName(key.alg)! }),
      ...(key.key_ops?.includes('verify') ? { key_ops: ['verify'] } : {}),
    }
    try {
      const found = await createLocalJWKSet({ keys: [named] })({ alg })
      const verifies = await compactVerify(text, found).then(
        () => true,
        () => false,
      )
      fitting.push({ key, verifies })
    } catch {
      // It is not a key for this algorithm, or not for signatures.
    }
  }
  const { kid } = header
  const same = fitting.filter(({ key }) => key.kid === kid)
  const chosen =
    kid === undefined
      ? fitting
      : same.length > 0
        ? same
        : fitting.filter(({ key }) => key.kid === undefined)
  const different = new Set(chosen.map(({ key }) => JSON.stringify([key.kid, key.alg, key.x ?? key.n]))) // biome-ignore format: a line
  return different.size > maxCandidates ? undefined : chosen.some(({ verifies }) => verifies)
}

function verifierOf(keys: readonly JWK[]): TokenVerifier {
  let admitted: ReturnType<typeof admitKeys>['keys'] = []
  try {
    admitted = admitKeys(JSON.stringify({ keys }), algorithms).keys
  } catch {
    // None can be used.
  }
  const set = (version: number): void => verifier.setKeys({ issuer, version, keys: admitted })
  const verifier = new TokenVerifier({
    issuers: [config!],
    cacheBytes: 64 * 1024,
    signatures: KnownSignatures.create(64 * 1024),
    peppers: [],
    pointers: noPointers,
    metrics: { count: () => {} },
    // The issuer publishes the same keys once more.
    onKeysWanted: (_issuer, version) => setImmediate(set, version + 1),
  })
  set(1)
  return verifier
}

const refusals = new Set(['ERR_TOKEN_KEY_UNKNOWN', 'ERR_TOKEN_SIGNATURE', 'ERR_KEYS_UNAVAILABLE'])

async function gate(verifier: TokenVerifier, { text }: Token): Promise<boolean> {
  try {
    await verifier.verify(text, undefined)
    return true
  } catch (error) {
    const { code } = error as GateError
    if (refusals.has(code)) return false
    throw error
  }
}

t.test('of drawn key sets the gate takes the keys that jose takes', async (t) => {
  const seed = seedOf()
  t.comment(`seed ${seed}`)
  const random = seeded(seed)
  const pick: Pick = (from) => from[Math.floor(random() * from.length)]!
  const seen = { accepted: 0, refused: 0, undecided: 0 }
  for (let round = 0; round < 300; round++) {
    const of = pick([pairs, pairs.slice(0, 3), pairs.slice(3, 5), pairs.slice(5)])
    const keys = drawSet(pick, of)
    const verifier = verifierOf(keys)
    for (let each = 0; each < 4; each++) {
      const pair = pick(of)
      const token = await tokenOf(pair, pick(pair.algs), pick([undefined, '', 'a', 'b', 'c']))
      const expected = await jose(keys, token)
      const found = await gate(verifier, token)
      if (expected === undefined) seen.undecided++
      else if (expected === found) seen[found ? 'accepted' : 'refused']++
      else
        t.fail(`seed ${seed}: jose ${expected}`, { header: token.header, signer: pair.jwk, keys })
    }
  }
  t.comment(JSON.stringify(seen))
  t.ok(seen.accepted > 100 && seen.refused > 200 && seen.undecided < 200, 'both, and few left open')
})
