/** A client that holds a key, and makes proofs with it as RFC 9449 says, or as a test wants them. */
import { createHash, randomUUID } from 'node:crypto'
import {
  CompactSign,
  type CryptoKey,
  calculateJwkThumbprint,
  exportJWK,
  generateKeyPair,
  type JWK,
} from 'jose'

export interface ProofParts {
  readonly header?: Readonly<Record<string, unknown>>
  /** A member that is undefined is left out. */
  readonly claims?: Readonly<Record<string, unknown>>
  readonly method?: string
  /** Signs in place of the key of this client. */
  readonly signer?: CryptoKey
}

export class KeyHolder {
  readonly alg: string
  readonly jwk: JWK
  readonly jkt: string
  readonly privateKey: CryptoKey

  private constructor(alg: string, jwk: JWK, jkt: string, privateKey: CryptoKey) {
    this.alg = alg
    this.jwk = jwk
    this.jkt = jkt
    this.privateKey = privateKey
  }

  static async make(alg = 'ES256'): Promise<KeyHolder> {
    const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
    const jwk = await exportJWK(publicKey)
    return new KeyHolder(alg, jwk, await calculateJwkThumbprint(jwk), privateKey)
  }

  /** @param url As `htu`. @param token Undefined for a token endpoint. */
  proof(url: string, token: string | undefined, parts: ProofParts = {}): Promise<string> {
    const claims = {
      jti: randomUUID(),
      htm: parts.method ?? 'GET',
      htu: url,
      iat: Math.floor(Date.now() / 1000),
      ath: token === undefined ? undefined : athOf(token),
      ...parts.claims,
    }
    return new CompactSign(Buffer.from(JSON.stringify(claims)))
      .setProtectedHeader({ alg: this.alg, typ: 'dpop+jwt', jwk: this.jwk, ...parts.header })
      .sign(parts.signer ?? this.privateKey)
  }
}

export function athOf(token: string): string {
  return createHash('sha256').update(token).digest('base64url')
}
