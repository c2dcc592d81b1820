/**
 * What a token costs that no worker has seen: CPU of the whole verification beside one `crypto.verify` of the same bytes, in
 * one process. Each token is different; 32 are under way at a time.
 *
 *   COUNT=3000 node test/bench/new-token.ts
 */
import { generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto'
import { readConfig } from '../../src/config/load.ts'
import { noPointers } from '../../src/domain/principal.ts'
import { KnownSignatures } from '../../src/identity/known-signatures.ts'
import { TokenVerifier } from '../../src/identity/token.ts'
import { machine } from './machine.ts'

const count = Number(process.env.COUNT ?? 3000)
const rounds = Number(process.env.ROUNDS ?? 5)
const issuer = 'https://bench.example'
const say = (text: string): void => void process.stdout.write(`${text}\n`)

const pairs: Record<string, () => { privateKey: KeyObject; publicKey: KeyObject }> = {
  ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  RS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  EdDSA: () => generateKeyPairSync('ed25519'),
}

/** µs of CPU of this process, all threads, for each of the tokens. */
async function costOf(run: () => Promise<void> | void): Promise<number> {
  const before = process.cpuUsage()
  await run()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / count
}

function verifierOf(alg: string, jwk: object): TokenVerifier {
  const written = {
    database: { url: 'postgres://gate@127.0.0.1/gate' },
    issuers: [{ issuer, audience: ['api'], algorithms: [alg] }],
    routes: [{ name: 'a', upstream: 'http://127.0.0.1:1' }],
  }
  const verifier = new TokenVerifier({
    issuers: readConfig(JSON.stringify(written), '.', {}).issuers,
    cacheBytes: 64 << 20,
    signatures: KnownSignatures.create(1 << 20),
    peppers: [],
    pointers: noPointers,
    metrics: { count: () => {} },
    onKeysWanted: () => {},
  })
  verifier.setKeys({ issuer, version: 1, keys: [jwk as never] })
  return verifier
}

say(`${machine()}; the least of ${rounds} rounds of ${count} tokens`)
say('\n| | whole verification, µs | crypto.verify, µs | |\n| --- | ---: | ---: | ---: |')
for (const [alg, pairOf] of Object.entries(pairs)) {
  const { privateKey, publicKey } = pairOf()
  const hash = alg === 'EdDSA' ? null : 'sha256'
  const key = { key: publicKey, dsaEncoding: 'ieee-p1363' } as const
  let [whole, raw] = [Infinity, Infinity]
  for (let round = 0; round <= rounds; round++) {
    const verifier = verifierOf(alg, { ...publicKey.export({ format: 'jwk' }), kid: 'bench', alg })
    const now = Math.floor(Date.now() / 1000)
    const tokens = Array.from({ length: count }, (_, n) => {
      const claims = {
        ...{ iss: issuer, aud: 'api', sub: `user-${n}`, client_id: 'app', scope: 'orders:read' },
        ...{ roles: [`role-${n % 200}`], sid: crypto.randomUUID(), jti: crypto.randomUUID() },
        ...{ iat: now, exp: now + 3600 },
      }
      const text = [{ alg, kid: 'bench', typ: 'at+jwt' }, claims]
        .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
        .join('.')
      const signature = sign(hash, Buffer.from(text), {
        key: privateKey,
        dsaEncoding: 'ieee-p1363',
      })
      return { text, signature, token: `${text}.${signature.toString('base64url')}` }
    })
    const verified = await costOf(async () => {
      for (let from = 0; from < count; from += 32)
        await Promise.all(
          tokens.slice(from, from + 32).map(({ token }) => verifier.verify(token, undefined)),
        )
    })
    const checked = await costOf(() => {
      for (const { text, signature } of tokens)
        if (!verify(hash, Buffer.from(text), key, signature)) throw new Error('not verified')
    })
    // The first round compiles what is hot.
    if (round > 0) [whole, raw] = [Math.min(whole, verified), Math.min(raw, checked)]
  }
  say(`| ${alg} | ${whole.toFixed(0)} | ${raw.toFixed(0)} | ${(whole / raw).toFixed(2)} × |`)
}
process.exit()
