/** An issuer for tests that need tokens no well-behaved provider would sign; walks/oidc.test.ts has a real one. */
import { createServer, type Server } from 'node:http'
import { type CryptoKey, exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose'

export interface TokenParts {
  readonly header?: Record<string, unknown>
  readonly claims?: Record<string, unknown>
  /** Sign with a key that is not published. */
  readonly foreign?: boolean
}

export class TestIssuer {
  url = ''
  down = false
  fetches = 0
  kid = 'one'
  #server: Server | undefined
  #key: CryptoKey | undefined
  #foreign: CryptoKey | undefined
  #published: JWK[] = []

  async open(): Promise<void> {
    await this.rotate('one')
    this.#foreign = (await generateKeyPair('ES256')).privateKey
    this.#server = createServer((req, res) => {
      if (this.down) {
        res.writeHead(503).end()
        return
      }
      res.setHeader('content-type', 'application/json')
      if (req.url === '/jwks') {
        this.fetches++
        res.end(JSON.stringify({ keys: this.#published }))
      } else {
        res.end(JSON.stringify({ issuer: this.url, jwks_uri: `${this.url}/jwks` }))
      }
    })
    await new Promise<void>((resolve) => this.#server!.listen(0, '127.0.0.1', resolve))
    this.url = `http://127.0.0.1:${(this.#server.address() as { port: number }).port}`
  }

  /** Publishes a new key and signs with it from now on. */
  async rotate(kid: string): Promise<void> {
    const { privateKey, publicKey } = await generateKeyPair('ES256')
    this.#key = privateKey
    this.kid = kid
    this.#published = [{ ...(await exportJWK(publicKey)), kid, alg: 'ES256', use: 'sig' }]
  }

  get keys(): readonly JWK[] {
    return this.#published
  }

  token(subject: string, parts: TokenParts = {}): Promise<string> {
    const now = Math.floor(Date.now() / 1000)
    const claims = {
      iss: this.url,
      aud: 'api',
      sub: subject,
      iat: now - 1,
      exp: now + 3600,
      jti: crypto.randomUUID(),
      sid: `sid-${subject}`,
      client_id: 'app',
      roles: ['clerk'],
      ...parts.claims,
    }
    return new SignJWT(claims)
      .setProtectedHeader({ alg: 'ES256', kid: this.kid, typ: 'at+jwt', ...parts.header })
      .sign(parts.foreign ? this.#foreign! : this.#key!)
  }

  close(): void {
    this.#server?.close()
    this.#server?.closeAllConnections()
  }
}
