/** The same tokens by oauth4webapi (RFC 9068) and by the gate's verifier, and where they may differ. */
import {
  allowInsecureRequests,
  clockTolerance,
  customFetch,
  validateJwtAccessToken,
} from 'oauth4webapi'
import { readConfig } from '../../src/config/load.ts'
import { noPointers } from '../../src/domain/principal.ts'
import type { GateError } from '../../src/errors.ts'
import { admitKeys } from '../../src/identity/admit.ts'
import { checkBinding, checkScheme } from '../../src/identity/binding.ts'
import { KnownSignatures } from '../../src/identity/known-signatures.ts'
import { TokenVerifier } from '../../src/identity/token.ts'
import { audience, drawToken, issuer, keySet, skewS, type TokenCase } from './token-cases.ts'
import { seeded } from './wait.ts'

const algorithms = ['ES256', 'ES384', 'RS256', 'PS256', 'EdDSA']
const config = readConfig(
  JSON.stringify({
    database: { url: 'postgres://gate@127.0.0.1/gate' },
    issuers: [
      { issuer, audience: [audience], algorithms, clock_skew: `${skewS}s`, keys_cooldown: '1h' },
    ],
    routes: [{ name: 'a', upstream: 'http://127.0.0.1:1' }],
  }),
  '.',
  {},
)

export type Verdict = 'accepted' | string

/** @returns a function that says what the gate makes of a token: `accepted` or the code */
function gate(): (token: string) => Promise<Verdict> {
  const { keys } = admitKeys(JSON.stringify(keySet), algorithms)
  let version = 1
  const verifier = new TokenVerifier({
    issuers: config.issuers,
    cacheBytes: 1 << 20,
    signatures: KnownSignatures.create(1 << 16),
    peppers: [],
    pointers: noPointers,
    metrics: { count: () => {} },
    // The set that a fetch finds is the same; a token with an unknown key waits for it.
    onKeysWanted: () => {
      setImmediate(() => verifier.setKeys({ issuer, version: ++version, keys }))
    },
  })
  verifier.setKeys({ issuer, version, keys })
  return async (token) => {
    try {
      const principal = await verifier.verify(token, undefined)
      checkBinding(principal.boundTo, undefined)
      checkScheme(principal.boundTo, 'Bearer')
      return 'accepted'
    } catch (error) {
      return (error as GateError).code ?? `${error}`
    }
  }
}

const server = { issuer, jwks_uri: `${issuer}/keys` }
const options = {
  [clockTolerance]: skewS,
  [customFetch]: async () => Response.json(keySet),
  [allowInsecureRequests]: true,
  signingAlgorithms: [...algorithms, 'Ed25519'],
}

async function oracle(token: string): Promise<Verdict> {
  try {
    const headers = { authorization: `Bearer ${token}` }
    const request = new Request('https://api.example/orders', { headers })
    await validateJwtAccessToken(server, request, audience, options as never)
    return 'accepted'
  } catch (error) {
    return (error as Error).message
  }
}

const missing = /"(jti|client_id)" .*(?:claim missing|claim type)$/

/** Why the gate may accept what the oracle refuses: the lines of docs/providers.md, "Beside RFC 9068". */
const wider: Readonly<Record<string, (drawn: TokenCase, why: string) => boolean>> = {
  'no jti or no client_id': ({ claims }, why) =>
    (claims[missing.exec(why)?.[1] ?? ''] ?? null) === null,
  'no kid, and several keys that fit': ({ header }, why) =>
    header.kid === undefined && why.includes('multiple applicable keys'),
}

export interface Compared {
  /** How often each came out: `both accept`, `both refuse`, `stricter: CODE`, `wider: reason`. */
  readonly counts: Record<string, number>
  /** Tokens that the oracle refuses and the gate accepts, for no reason on the list. */
  readonly wrong: string[]
}

export async function compareTokens(seed: number, count: number): Promise<Compared> {
  const random = seeded(seed)
  const verdictOf = gate()
  const counts: Record<string, number> = {}
  const wrong: string[] = []
  for (let n = 0; n < count; n++) {
    const drawn = drawToken(random)
    const [ours, theirs] = [await verdictOf(drawn.token), await oracle(drawn.token)]
    const accepted = [ours, theirs].map((verdict) => verdict === 'accepted')
    let kind: string
    if (accepted[0] && !accepted[1]) {
      const reason = Object.entries(wider).find(([, holds]) => holds(drawn, theirs))?.[0]
      if (reason === undefined)
        wrong.push(
          `${theirs}: ${drawn.changed.join(', ')}: ${JSON.stringify([drawn.header, drawn.claims])}`,
        )
      kind = `wider: ${reason ?? 'not on the list'}`
    } else if (accepted[1] && !accepted[0]) kind = `stricter: ${ours}`
    else kind = accepted[0] ? 'both accept' : 'both refuse'
    counts[kind] = (counts[kind] ?? 0) + 1
  }
  return { counts, wrong }
}
