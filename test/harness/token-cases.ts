/**
 * Access tokens drawn at random: a good one of RFC 9068 with up to three things changed, in what its header or claims say,
 * in how they are written, in who signed it, or in its bytes afterwards. What each should come to is for an oracle to say.
 */
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'

export const issuer = 'https://idp.example'
export const audience = 'api'
export const skewS = 5

interface Signer {
  readonly alg: string
  readonly privateKey: KeyObject
  readonly jwk: Record<string, unknown>
}

function signer(alg: string, kid: string | undefined): Signer {
  const pair =
    alg === 'RS256' || alg === 'PS256'
      ? generateKeyPairSync('rsa', { modulusLength: 2048 })
      : alg === 'EdDSA'
        ? generateKeyPairSync('ed25519')
        : generateKeyPairSync('ec', { namedCurve: alg === 'ES384' ? 'P-384' : 'P-256' })
  const named = kid === undefined ? {} : { kid }
  const jwk = { ...pair.publicKey.export({ format: 'jwk' }), ...named, use: 'sig', alg }
  return { alg, privateKey: pair.privateKey, jwk }
}

const algorithms = ['ES256', 'ES384', 'RS256', 'PS256', 'EdDSA'] as const
const own = algorithms.map((alg) => signer(alg, alg))
/** A second key of one type, so that a token without `kid` may mean two. */
own.push(signer('ES256', 'second'))
const foreign = signer('ES256', 'ES256')

export const keySet = { keys: own.map(({ jwk }) => jwk) }

interface Draft {
  readonly header: Record<string, unknown>
  readonly claims: Record<string, unknown>
  by: Signer
  /** Changes the JSON text of the claims before it is signed. */
  write: (json: string) => string
  /** Changes the token after it was signed. */
  tamper: (token: string) => string
}

type Random = () => number
const one = <T>(random: Random, list: readonly T[]): T => list[Math.floor(random() * list.length)]!

/** Sets or removes a member. */
const put = (into: Record<string, unknown>, name: string, value: unknown): void => {
  if (value === undefined) delete into[name]
  else into[name] = value
}

type Change = (draft: Draft, random: Random, nowS: number) => void

const header = (name: string, values: readonly unknown[]): Change => {
  return (draft, random) => put(draft.header, name, one(random, values))
}

const claim = (name: string, values: (nowS: number) => readonly unknown[]): Change => {
  return (draft, random, nowS) => put(draft.claims, name, one(random, values(nowS)))
}

const strange = [null, true, 7, '', [], {}, ['a'], { a: 1 }]

export const changes: Readonly<Record<string, Change>> = {
  'another key of ours': (draft, random) => {
    draft.by = one(random, own)
    draft.header.alg = draft.by.alg
    draft.header.kid = draft.by.jwk.kid
  },
  'a foreign key': (draft) => {
    draft.by = foreign
    draft.header.alg = 'ES256'
  },
  alg: header('alg', [...algorithms, 'none', 'HS256', 'es256', 'Ed25519', '', undefined, 5]),
  kid: header('kid', [...algorithms, 'second', 'unknown', '', undefined, 5, null, '../keys']),
  typ: header('typ', [
    ...[
      'at+jwt',
      'AT+JWT',
      'application/at+jwt',
      'application/AT+jwt',
      'JWT',
      undefined,
      'dpop+jwt',
    ],
    ...['logout+jwt', 'secevent+jwt', 'at+jwt ', '', 5, null],
  ]),
  crit: header('crit', [['exp'], [], ['b64'], 'exp']),
  b64: header('b64', [false, true]),
  zip: header('zip', ['DEF']),
  'key in the header': (draft, random) => {
    draft.header[one(random, ['jwk', 'jku', 'x5u', 'x5c'])] = one(random, [
      foreign.jwk,
      'https://attacker.example/keys',
      ['MIIB'],
    ])
  },
  iss: claim('iss', () => [
    `${issuer}/`,
    issuer.toUpperCase(),
    'https://x.example',
    [issuer],
    undefined,
    ...strange,
  ]),
  aud: claim('aud', () => [['x', audience], ['x'], 'x', `${audience} x`, undefined, ...strange]),
  sub: claim('sub', () => ['bob', undefined, ...strange]),
  jti: claim('jti', () => ['another', undefined, ...strange]),
  client_id: claim('client_id', () => ['another', undefined, ...strange]),
  iat: claim('iat', (now) => [
    now - 3000,
    now + 3,
    now + 60,
    now + 86_400,
    now - 0.5,
    `${now}`,
    undefined,
    ...strange,
  ]),
  exp: claim('exp', (now) => [
    now + 60,
    now - 2,
    now - 60,
    now + 0.5,
    `${now + 60}`,
    now + 10 ** 9,
    undefined,
    ...strange,
  ]),
  nbf: claim('nbf', (now) => [now, now - 60, now + 2, now + 60, `${now}`, now - 0.5, ...strange]),
  nonce: claim('nonce', () => ['n', ...strange]),
  kinds: (draft, random) => {
    const [name, value] = one(random, [
      ['at_hash', 'x'],
      ['c_hash', 'x'],
      ['token_use', 'id'],
      ['token_use', 'access'],
      ['events', { a: {} }],
      ['typ', 'ID'],
      ['typ', 'Bearer'],
    ] as const)
    draft.claims[name] = value
  },
  cnf: claim('cnf', () => [
    ...[{ jkt: 'x'.repeat(43) }, { 'x5t#S256': 'A'.repeat(43) }, { kid: 'a' }, { jwk: {} }],
    ...[{ jkt: 'x', kid: 'a' }, ...strange],
  ]),
  scope: claim('scope', () => ['a b', ...strange]),
  'written twice': (draft, random) => {
    const name = one(random, ['sub', 'iss', 'aud', 'exp', 'x'])
    draft.write = (json) => json.replace('{', `{"${name}":"mallory","${name}":"mallory",`)
  },
  'written otherwise': (draft, random) => {
    draft.write = one<Draft['write']>(random, [
      (json) => `\ufeff${json}`,
      (json) => ` ${json}\n`,
      (json) => json.replaceAll(':', ' : '),
      (json) => `[${json}]`,
      (json) => `${json}x`,
      (json) => json.slice(0, -1),
      (json) => json.replace('{', '{"__proto__":{"sub":"mallory"},'),
      (json) => json.replace(/"exp":\d+/, '"exp":1e400'),
      (json) => json.replace('"sub"', '"\\u0073ub"'),
      () => 'null',
      () => '"text"',
    ])
  },
  tampered: (draft, random) => {
    const at = random()
    draft.tamper = one<Draft['tamper']>(random, [
      (token) => {
        const place = Math.floor(at * token.length)
        const next = token[place] === 'A' ? 'B' : 'A'
        return token[place] === '.' ? token : token.slice(0, place) + next + token.slice(place + 1)
      },
      (token) => token.slice(0, -1),
      (token) => `${token}=`,
      (token) => `${token}A`,
      (token) => `${token}.`,
      (token) => `${token}.x`,
      (token) => token.replace(/[^.]*$/, ''),
      (token) => token.replace('.', '..'),
      (token) => token.replace(/^[^.]*/, ''),
      (token) => token.split('.').reverse().join('.'),
      (token) => token.replaceAll('-', '+').replaceAll('_', '/'),
      // The same bytes, other unused bits.
      (token) => token.slice(0, -1) + String.fromCharCode(token.charCodeAt(token.length - 1) + 1),
    ])
  },
}

export interface TokenCase {
  readonly token: string
  /** Names of the changes that were drawn. */
  readonly changed: readonly string[]
  readonly header: Readonly<Record<string, unknown>>
  readonly claims: Readonly<Record<string, unknown>>
}

export function drawToken(random: Random): TokenCase {
  const nowS = Math.floor(Date.now() / 1000)
  const by = own[0]!
  const draft: Draft = {
    header: { alg: by.alg, kid: by.jwk.kid, typ: 'at+jwt' },
    claims: {
      ...{ iss: issuer, aud: audience, sub: 'alice', client_id: 'app', jti: `j${random()}` },
      ...{ iat: nowS, exp: nowS + 600 },
    },
    by,
    write: (json) => json,
    tamper: (token) => token,
  }
  const names = Object.keys(changes)
  const changed = Array.from({ length: Math.floor(random() * 4) }, () => one(random, names))
  for (const name of changed) changes[name]!(draft, random, nowS)
  const text = [JSON.stringify(draft.header), draft.write(JSON.stringify(draft.claims))]
    .map((part) => Buffer.from(part).toString('base64url'))
    .join('.')
  const token = draft.tamper(`${text}.${signed(draft.by, text).toString('base64url')}`)
  return { token, changed, header: draft.header, claims: draft.claims }
}

function signed({ alg, privateKey }: Signer, text: string): Buffer {
  const bytes = Buffer.from(text)
  if (alg === 'EdDSA') return sign(null, bytes, privateKey)
  const hash = alg === 'ES384' ? 'sha384' : 'sha256'
  if (alg === 'PS256') return sign(hash, bytes, { key: privateKey, padding: 6, saltLength: 32 })
  return sign(hash, bytes, { key: privateKey, dsaEncoding: 'ieee-p1363' })
}
