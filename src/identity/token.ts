/**
 * Room: identity. In: a bearer token. Out: the verified Principal, at once when the token is in the cache, otherwise
 * or when a worker of this gate has checked its signature before; otherwise after its signature is checked. Never does:
 * fetch keys (the control thread does), ask whether the token is revoked.
 *
 * Order of the checks: shape, issuer, algorithm, type, key, signature, claims, audience. Each refusal has its own code.
 */
import type { IssuerConfig } from '../config/options.ts'
import { anyAudience } from '../config/presets.ts'
import { differInTenant, IssuerNames, withTenant } from '../domain/issuer-pattern.ts'
import type { Pointers, Principal } from '../domain/principal.ts'
import { tokenHash } from '../domain/token-hash.ts'
import { type Code, GateError } from '../errors.ts'
import { familyOf, isKeyFor, maxCandidates } from './admit.ts'
import { TokenCache, type Verified } from './cache.ts'
import { checkExpiry, checkTenant, checkType, parsePrincipal, readAudience } from './claims.ts'
import type { KeySet } from './key-set.ts'
import { KnownSignatures, type SharedSignatures } from './known-signatures.ts'
import { type Header, parseTokenShape, type Shape, shown } from './shape.ts'
import { isSignedBy, thumbprintOf, type VerifyingKey, verifyingKey } from './signature.ts'

export interface TokenVerifierOptions {
  readonly issuers: readonly IssuerConfig[]
  readonly cacheBytes: number
  readonly signatures: SharedSignatures
  /** Secrets under which a token is hashed, see `revocation.pepper_file`. */
  readonly peppers: readonly Uint8Array[]
  /** The claims that rows name, see revocation/pointers.ts. */
  readonly pointers: Pointers
  readonly metrics: {
    count(name: 'dropgate_token_cache_total', label: 'hit' | 'shared' | 'miss'): void
  }
  /**
   * Called when no key of the set, which has this version, verifies a token; the control thread may then fetch the set
   * anew.
   */
  readonly onKeysWanted: (issuer: string, version: number) => void
}

interface Issuer {
  readonly config: IssuerConfig
  /** `KeySet.version`; −1 before the first set. */
  version: number
  keys: readonly Key[]
  /** Wakes the requests that wait a moment for a key that may just have been published. */
  waiting: Set<() => void>
  /**
   * Ids of keys that were requested but did not arrive, or that verified nothing, with the time until which they are not
   * requested again (ms).
   */
  readonly absent: Map<string, number>
  /** Number of requests for keys since `askedSince` (ms). */
  asked: number
  askedSince: number
}

interface Key {
  readonly kid: string | undefined
  readonly alg: string | undefined
  /**
   * The only issuer that the key signs for, in a set that serves many tenants; undefined: each of them. Without this, a
   * tenant that holds its own key could sign for another one.
   */
  readonly issuer: string | undefined
  readonly jwk: Readonly<Record<string, unknown>>
  /** By algorithm, made at first use. */
  readonly verifying: Map<string, VerifyingKey>
  /** RFC 7638 thumbprint; undefined until the key has verified a token. */
  thumbprint: string | undefined
}

/** A token that has the right shape and an issuer of this gate, and whose signature is still to be checked. */
interface Unverified extends Shape {
  readonly token: string
  readonly issuer: Issuer
}

/** Most signature checks that may be under way in a worker; about a tenth of a second of work. */
const maxUnderWay = 1000
const waitMs = 1000
const maxWaiting = 64
const maxAbsent = 1000
const maxAskedPerS = 10
/**
 * How often one token is verified when its issuer's keys change during the verification. Each attempt uses the newest
 * keys. On a machine short of CPU, several reloads in a row can each fall into an attempt.
 */
const maxAttempts = 25

export class TokenVerifier {
  readonly #options: TokenVerifierOptions
  /** By `issuer` of the configuration, which may be a pattern. */
  readonly #issuers = new Map<string, Issuer>()
  /** By claim `iss`. */
  #names = new IssuerNames<Issuer>([])
  readonly #cache: TokenCache
  readonly #signatures: KnownSignatures
  /** Verifications under way, by token: requests that bring the same new token wait for one. */
  readonly #underWay = new Map<string, Promise<Verified>>()

  constructor(options: TokenVerifierOptions) {
    this.#options = options
    this.#cache = new TokenCache(options.cacheBytes)
    this.#signatures = new KnownSignatures(options.signatures)
    this.reload(options.issuers, [])
  }

  /**
   * Replaces the list of issuers and their keys together. An issuer whose configuration changed gets a key set with a
   * higher version, so that no principal made under the old rules is found in the cache.
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
    this.#names = new IssuerNames(
      [...this.#issuers.values()].map((issuer) => [issuer.config, issuer] as const),
    )
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
      issuer: restrictionOf(jwk.issuer as string | undefined, issuer.config),
      jwk,
      verifying: new Map(),
      thumbprint: undefined,
    }))
    for (const wake of issuer.waiting) wake()
    issuer.waiting.clear()
    issuer.absent.clear()
  }

  /**
   * @param audience Audiences that the route accepts; undefined: those of the issuer.
   * @throws GateError ERR_TOKEN_*, ERR_KEYS_UNAVAILABLE, either directly or as a rejected promise
   */
  verify(token: string, audience: readonly string[] | undefined): Principal | Promise<Principal> {
    const known = this.#cache.get(token)
    if (known !== undefined) {
      const { principal } = known
      const issuer = this.#names.get(principal.issuer)
      if (issuer !== undefined && known.rules === issuer && known.keysVersion === issuer.version) {
        checkExpiry(principal.expiresAtS, Date.now(), issuer.config.clock_skew)
        checkAudience(known, issuer, audience)
        this.#options.metrics.count('dropgate_token_cache_total', 'hit')
        return principal
      }
      this.#cache.delete(token)
    }
    return this.#unknown(token, audience)
  }

  /** A token that is not in the cache of this worker. */
  #unknown(token: string, audience: readonly string[] | undefined): Principal | Promise<Principal> {
    const unverified = this.#read(token)
    const { issuer, header } = unverified
    for (const { thumbprint } of candidates(unverified)) {
      // A key that has verified nothing yet has no thumbprint yet.
      if (thumbprint === undefined) continue
      if (!this.#signatures.has(token, { thumbprint, algorithm: header.alg })) continue
      this.#options.metrics.count('dropgate_token_cache_total', 'shared')
      const verified = this.#verified(unverified, thumbprint)
      checkAudience(verified, issuer, audience)
      this.#cache.set(token, verified)
      return verified.principal
    }
    this.#options.metrics.count('dropgate_token_cache_total', 'miss')
    return this.#awaitVerified(token, unverified, audience)
  }

  async #awaitVerified(
    token: string,
    unverified: Unverified,
    audience: readonly string[] | undefined,
  ): Promise<Principal> {
    let verifying = this.#underWay.get(token)
    if (verifying === undefined) {
      if (this.#underWay.size >= maxUnderWay) throw new GateError('ERR_OVERLOADED')
      verifying = this.#verify(token, unverified).finally(() => this.#underWay.delete(token))
      this.#underWay.set(token, verifying)
    }
    const verified = await verifying
    const issuer = this.#names.get(verified.principal.issuer)
    if (issuer === undefined) throw new GateError('ERR_TOKEN_ISSUER')
    checkAudience(verified, issuer, audience)
    return verified.principal
  }

  /** Reads a token and checks what can be checked before its signature. @throws GateError ERR_TOKEN_* */
  #read(token: string): Unverified {
    const shape = parseTokenShape(token)
    const { header, claims } = shape
    const issuer = this.#names.get(claims.iss)
    // `cause` holds values of a token that is not verified. It is only logged, so that operators can find a
    // misconfigured client.
    if (issuer === undefined) throw unfit('ERR_TOKEN_ISSUER', 'iss', claims.iss)
    const { config } = issuer
    checkTenant(claims, config)
    if (!config.algorithms.includes(familyOf(header.alg)))
      throw unfit('ERR_TOKEN_ALGORITHM', 'alg', header.alg, config.algorithms)
    checkType(header, claims, config)
    return { ...shape, token, issuer }
  }

  async #verify(token: string, unverified: Unverified, attempt = 1): Promise<Verified> {
    const { issuer, header } = unverified
    const { thumbprint, version } = await this.#check(unverified)
    const verified = this.#verified(unverified, thumbprint)
    this.#signatures.add(token, { thumbprint, algorithm: header.alg })
    if (issuer.version === version && this.#issuers.get(issuer.config.issuer) === issuer) {
      this.#cache.set(token, verified)
      return verified
    }
    // The keys or rules were replaced during the verification, perhaps for a security reason (design law 6): verify
    // again by the new ones.
    if (attempt < maxAttempts) return await this.#verify(token, this.#read(token), attempt + 1)
    throw new GateError('ERR_KEYS_UNAVAILABLE')
  }

  /** What a token says whose signature is good. @throws GateError ERR_TOKEN_* */
  #verified({ token, issuer, claims, written }: Unverified, keyThumbprint: string): Verified {
    return {
      principal: parsePrincipal(claims, issuer.config, Date.now(), {
        written: written(),
        tokenHashes: this.#options.peppers.map((pepper) => tokenHash(pepper, token)),
        keyThumbprint,
        pointers: this.#options.pointers,
      }),
      audience: readAudience(claims, issuer.config),
      keysVersion: issuer.version,
      rules: issuer,
    }
  }

  /**
   * Finds the key that verifies the token. Where no key of the set does, the set is fetched once more: the issuer may have
   * a new key, also under the id of an old one.
   * @returns the thumbprint of the key and the version of its set @throws GateError ERR_TOKEN_*, ERR_KEYS_UNAVAILABLE
   */
  async #check(unverified: Unverified): Promise<{ thumbprint: string; version: number }> {
    const { token, issuer, header } = unverified
    let refused: GateError | undefined
    let { version } = issuer
    for (let fetched = false; ; fetched = true) {
      for (const key of candidates(unverified)) {
        if (await isSignedBy(token, verifyingBy(key, header.alg))) {
          key.thumbprint ??= thumbprintOf(key.jwk)
          return { thumbprint: key.thumbprint, version }
        }
        const cause = `its signature is not by the key ${JSON.stringify(key.kid ?? thumbprintOf(key.jwk))}`
        refused = new GateError('ERR_TOKEN_SIGNATURE', undefined, { cause })
      }
      // Newer keys may have come during the check.
      if (!fetched && issuer.version === version) await this.#newKeys(issuer, header)
      if (fetched || issuer.version === version) break
      version = issuer.version
      refused = undefined
    }
    if (issuer.keys.length === 0) throw new GateError('ERR_KEYS_UNAVAILABLE')
    const other = issuer.keys.find((key) => key.kid === header.kid && !signsFor(key, unverified))
    if (refused === undefined && other !== undefined) throw foreign(other)
    const known = issuer.keys.map((key) => key.kid ?? null)
    throw refused ?? unfit('ERR_TOKEN_KEY_UNKNOWN', 'kid', header.kid, known)
  }

  /**
   * Requests the key set anew and waits a moment for it, so that the first request after a key rotation need not fail.
   */
  async #newKeys(issuer: Issuer, header: Header): Promise<void> {
    const { config, absent, waiting } = issuer
    const kid = header.kid ?? ''
    const now = Date.now()
    const ask = (absent.get(kid) ?? 0) <= now
    if (ask) {
      if (now - issuer.askedSince >= 1000 || now < issuer.askedSince) {
        issuer.asked = 0
        issuer.askedSince = now
      }
      // Strangers can name any key id. The control thread, which also delivers revocations, must not be flooded by
      // requests for keys.
      if (++issuer.asked <= maxAskedPerS) {
        if (absent.size >= maxAbsent) absent.clear()
        absent.set(kid, now + config.keys_cooldown)
        this.#options.onKeysWanted(config.issuer, issuer.version)
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
  }
}

function checkAudience(
  verified: Verified,
  issuer: Issuer,
  audience: readonly string[] | undefined,
): void {
  const accepted = audience ?? issuer.config.audience
  if (accepted.includes(anyAudience)) return
  if (!verified.audience.some((one) => accepted.includes(one)))
    throw unfit(
      'ERR_TOKEN_AUDIENCE',
      issuer.config.claims.audience.slice(1),
      verified.audience,
      accepted,
    )
}

function unfit(code: Code, member: string, value: unknown, expected?: unknown): GateError {
  const wanted = expected === undefined ? '' : `, expected one of ${JSON.stringify(expected)}`
  return new GateError(code, undefined, { cause: `its ${member} is ${shown(value)}${wanted}` })
}

/**
 * The keys of this issuer that a token can mean: those with its `kid`, or where no key has this one or the token has none,
 * those without a `kid`, or any that fits. Keys of other types under the same `kid` do not count (RFC 7517 section 4.5).
 */
function candidates(unverified: Unverified): readonly Key[] {
  const { issuer, header } = unverified
  const { alg, kid } = header
  const fitting = issuer.keys.filter((key) => fits(key, familyOf(alg)) && signsFor(key, unverified))
  if (kid === undefined) return fitting.slice(0, maxCandidates)
  const named = fitting.filter((key) => key.kid === kid)
  if (named.length > 0) return named.slice(0, maxCandidates)
  return fitting.filter((key) => key.kid === undefined).slice(0, maxCandidates)
}

/**
 * The issuer that a key is restricted to. An entry for one tenant may read the key set of all: a key of another tenant, or of
 * the personal accounts, must not sign for it.
 */
function restrictionOf(
  published: string | undefined,
  { issuer, tenants }: IssuerConfig,
): string | undefined {
  if (published === undefined || tenants !== undefined) return published
  return differInTenant(published, issuer) ? published : undefined
}

/** Where a key is for every tenant, `checkTenant` has found that `tid` is the tenant in `iss`. */
function signsFor({ issuer }: Key, { claims }: Unverified): boolean {
  return issuer === undefined || withTenant(issuer, claims.tid as string) === claims.iss
}

function foreign({ kid, issuer }: Key): GateError {
  const cause = `its kid is ${JSON.stringify(kid)}, a key that signs for ${issuer} only`
  return new GateError('ERR_TOKEN_KEY_UNKNOWN', undefined, { cause })
}

function fits(key: Key, alg: string): boolean {
  return (key.alg === undefined || familyOf(key.alg) === alg) && isKeyFor(key.jwk, alg)
}

function verifyingBy({ jwk, verifying }: Key, alg: string): VerifyingKey {
  let made = verifying.get(alg)
  if (made === undefined) {
    made = verifyingKey(jwk, alg)
    verifying.set(alg, made)
  }
  return made
}
