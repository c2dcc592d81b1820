/**
 * Room: identity. In: a bearer token. Out: the verified Principal, at once when the token is known, else after its
 * signature is checked. Never does: fetch (keys come from the control thread), ask whether it is revoked.
 *
 * Order: shape, issuer, algorithm, type, key, signature, claims, audience. Each refusal has its own code.
 */
import { type CryptoKey, calculateJwkThumbprint, compactVerify, importJWK } from 'jose'
import type { IssuerConfig } from '../config/options.ts'
import type { Pointers, Principal } from '../domain/principal.ts'
import { tokenHash } from '../domain/token-hash.ts'
import { type Code, GateError } from '../errors.ts'
import { TokenCache, type Verified } from './cache.ts'
import { checkExpiry, checkType, parsePrincipal, readAudience } from './claims.ts'
import type { KeySet } from './key-set.ts'
import { type Header, parseTokenShape } from './shape.ts'

export interface TokenVerifierOptions {
  readonly issuers: readonly IssuerConfig[]
  readonly cacheBytes: number
  /** Under which a token is hashed, see `revocation.pepper_file`. */
  readonly peppers: readonly Uint8Array[]
  /** The claims that rows name. */
  readonly pointers: Pointers
  readonly metrics: { count(name: 'dropgate_token_cache_total', label: 'hit' | 'miss'): void }
  /** A token names a key that is not in the set; the control thread may fetch the set anew. */
  readonly onKeysWanted: (issuer: string, kid: string | undefined) => void
}

interface Issuer {
  readonly config: IssuerConfig
  /** −1 before the first set. */
  version: number
  keys: readonly Key[]
  /** Requests that wait a moment for a key that has just been published. */
  waiting: Set<() => void>
  /** Keys that did not come although we asked, until when not to ask again (ms). */
  readonly absent: Map<string, number>
  /** Times that we asked for keys since `askedSince`, ms. */
  asked: number
  askedSince: number
}

interface Key {
  readonly kid: string | undefined
  readonly alg: string | undefined
  readonly jwk: Readonly<Record<string, unknown>>
  /** Imported at first use, for each algorithm it is used with. */
  readonly imported: Map<string, Promise<CryptoKey | Uint8Array>>
  /** RFC 7638, computed at first use. */
  thumbprint: string | undefined
}

const waitMs = 1000
const maxWaiting = 64
const maxAbsent = 1000
const maxAskedPerS = 10
/**
 * Times that a token is verified while its issuer's keys change under it. Every attempt is by the newest; on a machine that
 * is short of CPU several reloads in a row can each come in the middle of one.
 */
const maxAttempts = 25

export class TokenVerifier {
  readonly #options: TokenVerifierOptions
  readonly #issuers = new Map<string, Issuer>()
  readonly #cache: TokenCache

  constructor(options: TokenVerifierOptions) {
    this.#options = options
    this.#cache = new TokenCache(options.cacheBytes)
    this.reload(options.issuers, [])
  }

  /**
   * Takes another list of issuers and the keys of each at once. One whose configuration changed begins anew: its
   * key set has a higher version, so that no principal made by the old rules is found again.
   */
  reload(issuers: readonly IssuerConfig[], keySets: readonly KeySet[]): void {
    const before = new Map(this.#issuers)
    this.#issuers.clear()
    for (const config of issuers) {
      const known = before.get(config.issuer)
      const same = known !== undefined && JSON.stringify(known.config) === JSON.stringify(config)
      this.#issuers.set(
        config.issuer,
        same
          ? known
          : {
              config,
              version: -1,
              keys: [],
              waiting: new Set(),
              absent: new Map(),
              asked: 0,
              askedSince: 0,
            },
      )
    }
    for (const set of keySets) this.setKeys(set)
  }

  /** Replaces the keys of one issuer; tokens verified under the old set are verified anew. */
  setKeys(set: KeySet): void {
    const issuer = this.#issuers.get(set.issuer)
    if (issuer === undefined || set.version <= issuer.version) return
    issuer.version = set.version
    issuer.keys = set.keys.map((jwk) => ({
      kid: jwk.kid as string | undefined,
      alg: jwk.alg as string | undefined,
      jwk,
      imported: new Map(),
      thumbprint: undefined,
    }))
    for (const wake of issuer.waiting) wake()
    issuer.waiting.clear()
    issuer.absent.clear()
  }

  /**
   * @param audience Accepted audiences of the route; the issuer's own where undefined.
   * @throws GateError ERR_TOKEN_*, ERR_KEYS_UNAVAILABLE, thrown or by the promise
   */
  verify(token: string, audience: readonly string[] | undefined): Principal | Promise<Principal> {
    const known = this.#cache.get(token)
    if (known !== undefined) {
      const { principal } = known
      const issuer = this.#issuers.get(principal.issuer)
      if (issuer !== undefined && known.rules === issuer && known.keysVersion === issuer.version) {
        checkExpiry(principal.expiresAtS, Date.now(), issuer.config.clock_skew)
        checkAudience(known, issuer, audience)
        this.#options.metrics.count('dropgate_token_cache_total', 'hit')
        return principal
      }
      this.#cache.delete(token)
    }
    this.#options.metrics.count('dropgate_token_cache_total', 'miss')
    return this.#verify(token, audience)
  }

  async #verify(
    token: string,
    audience: readonly string[] | undefined,
    attempt = 1,
  ): Promise<Principal> {
    const { header, claims, written } = parseTokenShape(token)
    const issuer = typeof claims.iss === 'string' ? this.#issuers.get(claims.iss) : undefined
    // What a cause names nobody has verified: it is for operators, who see which client is set up wrongly.
    if (issuer === undefined) throw unfit('ERR_TOKEN_ISSUER', 'iss', claims.iss)
    const { config } = issuer
    if (!config.algorithms.includes(header.alg))
      throw unfit('ERR_TOKEN_ALGORITHM', 'alg', header.alg)
    checkType(header, claims, config.token_types)
    const key = pick(issuer, header) ?? (await this.#await(issuer, header))
    const { version } = issuer
    await checkSignature(token, key, header)
    key.thumbprint ??= await calculateJwkThumbprint(key.jwk)
    const verified: Verified = {
      principal: parsePrincipal(claims, config, Date.now(), {
        written,
        tokenHashes: this.#options.peppers.map((pepper) => tokenHash(pepper, token)),
        keyThumbprint: key.thumbprint,
        pointers: this.#options.pointers,
      }),
      audience: readAudience(claims),
      keysVersion: version,
      rules: issuer,
    }
    checkAudience(verified, issuer, audience)
    if (issuer.version === version && this.#issuers.get(config.issuer) === issuer) {
      this.#cache.set(token, verified)
      return verified.principal
    }
    // Keys or rules that were replaced meanwhile may have been replaced for a reason (design law 6): what counts is
    // what the new ones say.
    if (attempt < maxAttempts) return await this.#verify(token, audience, attempt + 1)
    throw new GateError('ERR_KEYS_UNAVAILABLE')
  }

  /** Asks for a key that is not there and gives it a moment: after a rotation the first request need not fail. */
  async #await(issuer: Issuer, header: Header): Promise<Key> {
    const { config, absent, waiting } = issuer
    const kid = header.kid ?? ''
    const now = Date.now()
    const ask = (absent.get(kid) ?? 0) <= now
    if (ask) {
      if (now - issuer.askedSince >= 1000 || now < issuer.askedSince) {
        issuer.asked = 0
        issuer.askedSince = now
      }
      // Strangers can name any key: the thread that is asked also carries the revocations.
      if (++issuer.asked <= maxAskedPerS) {
        if (absent.size >= maxAbsent) absent.clear()
        absent.set(kid, now + config.keys_cooldown)
        this.#options.onKeysWanted(config.issuer, header.kid)
      }
      if (waiting.size < maxWaiting) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(done, waitMs)
          function done(): void {
            clearTimeout(timer)
            waiting.delete(done)
            resolve()
          }
          waiting.add(done)
        })
      }
    }
    const key = pick(issuer, header)
    if (key !== undefined) return key
    if (issuer.keys.length === 0) throw new GateError('ERR_KEYS_UNAVAILABLE')
    throw unfit('ERR_TOKEN_KEY_UNKNOWN', 'kid', header.kid)
  }
}

function checkAudience(
  verified: Verified,
  issuer: Issuer,
  audience: readonly string[] | undefined,
): void {
  const accepted = audience ?? issuer.config.audience
  if (!verified.audience.some((one) => accepted.includes(one)))
    throw unfit('ERR_TOKEN_AUDIENCE', 'aud', verified.audience)
}

function unfit(code: Code, member: string, value: unknown): GateError {
  return new GateError(code, undefined, { cause: `its ${member} is ${JSON.stringify(value)}` })
}

/** The key by its id; without one, the only key that fits. `kid` is a name inside this issuer's set and no more. */
function pick(issuer: Issuer, header: Header): Key | undefined {
  const fitting = issuer.keys.filter(
    (key) => fits(key, header.alg) && (header.kid === undefined || key.kid === header.kid),
  )
  return fitting.length === 1 ? fitting[0] : undefined
}

/** Which algorithms a key may verify (RFC 7518 section 3.1, RFC 8037 section 3.1). */
function fits(key: Key, alg: string): boolean {
  if (key.alg !== undefined && key.alg !== alg && !(key.alg === 'Ed25519' && alg === 'EdDSA'))
    return false
  const { kty, crv } = key.jwk
  switch (alg) {
    case 'ES256':
      return kty === 'EC' && crv === 'P-256'
    case 'ES384':
      return kty === 'EC' && crv === 'P-384'
    case 'ES512':
      return kty === 'EC' && crv === 'P-521'
    case 'EdDSA':
      return kty === 'OKP' && crv === 'Ed25519'
    default:
      return kty === 'RSA'
  }
}

async function checkSignature(token: string, key: Key, header: Header): Promise<void> {
  const { alg } = header
  try {
    let imported = key.imported.get(alg)
    if (imported === undefined) {
      imported = importJWK({ ...key.jwk, alg } as Parameters<typeof importJWK>[0], alg)
      key.imported.set(alg, imported)
    }
    await compactVerify(token, await imported, { algorithms: [alg] })
  } catch (error) {
    throw new GateError('ERR_TOKEN_SIGNATURE', undefined, { cause: error })
  }
}
