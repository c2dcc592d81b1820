/** Who asks in every run, and what they may: tokens of one issuer, and the roles of the policy. */
import { generateKeyPairSync, sign } from 'node:crypto'

export const issuer = 'https://bench.example'
const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
export const verifyingKey = publicKey
export const jwks = {
  keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'bench', alg: 'ES256', use: 'sig' }],
}
export const roles = Object.fromEntries(
  Array.from({ length: 200 }, (_, i) => [
    `role-${i}`,
    [
      { path: ['orders'], methods: ['GET'] },
      { path: ['things', `${i}`], methods: ['GET', 'POST'] },
    ],
  ]),
)

export const rego = `package gate.authz

default decision := false

decision := {"allowed": true, "reason": "role"} if allow

allow if {
	some role in claims.roles
	some grant in data.roles[role]
	input.attributes.request.http.method in grant.methods
	array.slice(path, 0, count(grant.path)) == grant.path
}
`
export const regoOfGate = `${rego}\nclaims := input.principal.claims\n\npath := input.parsed_path\n`

const encoded = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
const header = encoded({ alg: 'ES256', kid: 'bench', typ: 'at+jwt' })

/** A signed token of 8 hours. @param n Every token of a number differs from those of others. */
export function tokenOf(subject: string, n: number): string {
  const now = Math.floor(Date.now() / 1000)
  const claims = {
    ...{ roles: [`role-${n % 200}`, `role-${(n * 7) % 200}`], client_id: 'app' },
    ...{ sid: `session-${n}`, scope: 'orders:read', iss: issuer, aud: 'api', sub: subject },
    ...{ jti: `token-${n}`, iat: now, exp: now + 8 * 3600 },
  }
  const text = `${header}.${encoded(claims)}`
  const signature = sign('sha256', Buffer.from(text), {
    key: privateKey,
    dsaEncoding: 'ieee-p1363',
  })
  return `${text}.${signature.toString('base64url')}`
}

export const requestOf = (token?: string): string =>
  `GET /orders/7 HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n${token === undefined ? '' : `Authorization: Bearer ${token}\r\n`}\r\n`
