/**
 * Checks the proof (DPoP, RFC 9449 section 4.3) that comes with a token that is bound to a key: the client holds that key,
 * and has signed this very request with it, a moment ago and once.
 *
 * Order of the checks: shape, key, request, times, nonce, strength of the key, signature, and last whether the proof was used
 * before: only a proof that is good in everything else is remembered, so that strangers can neither fill the memory nor use
 * up a proof of somebody else. Nothing about a proof is cached but its public key.
 */
import { hash } from 'node:crypto'
import { proofAlgorithms } from '../domain/proof.ts'
import { GateError } from '../errors.ts'
import { familyOf, formProblem, isKeyFor, type Jwk, publicPart, weaknessOfKey } from './admit.ts'
import { Nonces } from './nonces.ts'
import { type Claims, readJws, shown } from './shape.ts'
import { isSignedBy, thumbprintOf, type VerifyingKey, verifyingKey } from './signature.ts'
import { type SharedProofs, UsedProofs } from './used-proofs.ts'

/** A request with a token that is bound to a key. */
export interface ProvenRequest {
  /** Value of the single `DPoP` header; undefined when there is none. */
  readonly proof: string | undefined
  readonly token: string
  /** `cnf.jkt` of the token. */
  readonly key: string
  readonly method: string
  /** URL of the request as clients write it, in canonical form without query. */
  readonly url: string
  /** How far the clock of the client may be ahead. */
  readonly clockSkewMs: number
  readonly nonce: 'required' | 'none'
}

export interface ProofVerifierOptions {
  readonly shared: SharedProofs
  /** A URL in the form of `ProvenRequest.url`, without query and fragment; undefined when it is no canonical http URL. */
  readonly canonicalUrl: (text: string) => string | undefined
}

/** Algorithms of keys, as the rules for keys name them. */
const families = [...new Set(proofAlgorithms.map(familyOf))]
/** The largest proof that is needed (RSA with 8192 bits) has half of this. */
const maxCharacters = 8192
const maxKeys = 4096
/** Most signature checks that may be under way in a worker. */
const maxUnderWay = 1000

export class ProofVerifier {
  readonly #used: UsedProofs
  readonly #nonces: Nonces
  readonly #maxAgeMs: number
  readonly #canonicalUrl: ProofVerifierOptions['canonicalUrl']
  /** By algorithm and thumbprint, which say all about a key; a text says why a key is not used. */
  readonly #keys = new Map<string, VerifyingKey | string>()
  #underWay = 0

  constructor({ shared, canonicalUrl }: ProofVerifierOptions) {
    this.#used = new UsedProofs(shared)
    this.#nonces = new Nonces(shared.secret)
    this.#maxAgeMs = shared.maxAgeS * 1000
    this.#canonicalUrl = canonicalUrl
  }

  /** The nonce that the next proof of a client must carry. */
  nonce(nowMs: number): string {
    return this.#nonces.current(nowMs)
  }

  /** @throws GateError ERR_PROOF_*, ERR_TOKEN_BOUND, ERR_OVERLOADED, as a rejected promise */
  async check(asked: ProvenRequest): Promise<void> {
    const { proof } = asked
    if (proof === undefined) throw unfit('there is none')
    const { header, claims } = readJws(proof, maxCharacters, unfit)
    const { alg, jwk } = readHeader(header)
    const key = thumbprintOf(jwk)
    if (key !== asked.key) {
      const cause = `the token is bound to the key ${asked.key}; the proof is signed by ${key}`
      throw new GateError('ERR_TOKEN_BOUND', undefined, { cause })
    }
    this.#checkRequest(claims, asked)
    const madeAtS = this.#checkTimes(claims, Date.now(), asked.clockSkewMs)
    const { jti } = claims
    if (typeof jti !== 'string' || jti === '') throw unfit('its jti is not a text')
    if (asked.nonce === 'required' && !this.#nonces.accepts(claims.nonce, Date.now())) {
      const cause = `its nonce is ${claims.nonce === undefined ? 'missing' : 'another'}`
      throw new GateError('ERR_PROOF_NONCE', undefined, { cause })
    }
    await this.#checkSignature(proof, this.#keyOf(key, jwk, alg))
    this.#use(key, jti, madeAtS)
  }

  #checkRequest({ htm, htu, ath }: Claims, { method, url, token }: ProvenRequest): void {
    if (htm !== method)
      throw unfit(`its htm is ${shown(htm)}, the request is ${JSON.stringify(method)}`)
    if (typeof htu !== 'string') throw unfit(`its htu is ${shown(htu)}`)
    const named = htu === url ? url : this.#canonicalUrl(htu)
    if (named !== url)
      throw unfit(`its htu is ${named ?? 'not a canonical http URL'}, the request came to ${url}`)
    if (ath !== hash('sha256', token, 'base64url'))
      throw unfit('its ath is not the hash of the token')
  }

  /** @returns `iat` */
  #checkTimes({ iat, exp, nbf }: Claims, nowMs: number, skewMs: number): number {
    if (!isTime(iat)) throw unfit(`its iat is ${shown(iat)}`)
    const found = `its iat is ${iat}, now is ${Math.floor(nowMs / 1000)}`
    if (iat * 1000 > nowMs + skewMs) throw unfit(`${found}: it is in the future`)
    if (nowMs >= iat * 1000 + this.#maxAgeMs)
      throw unfit(`${found}: it is older than limits.dpop_proof_age`)
    // RFC 9449 knows neither; a client that writes them means them (RFC 7519 section 4.1).
    if (exp !== undefined && !(isTime(exp) && nowMs < exp * 1000 + skewMs))
      throw unfit('its exp has passed')
    if (nbf !== undefined && !(isTime(nbf) && nbf * 1000 <= nowMs + skewMs))
      throw unfit('its nbf is in the future')
    return iat
  }

  #keyOf(thumbprint: string, jwk: Jwk, alg: string): VerifyingKey {
    const name = `${alg} ${thumbprint}`
    let key = this.#keys.get(name)
    if (key === undefined) {
      key = weaknessOfKey(jwk) ?? verifyingKey(publicPart(jwk), alg)
      // The oldest makes room.
      for (const [oldest] of this.#keys) {
        if (this.#keys.size < maxKeys) break
        this.#keys.delete(oldest)
      }
      this.#keys.set(name, key)
    }
    if (typeof key === 'string') throw unfit(`its key is not used: ${key}`)
    return key
  }

  async #checkSignature(proof: string, key: VerifyingKey): Promise<void> {
    if (this.#underWay >= maxUnderWay) throw new GateError('ERR_OVERLOADED')
    this.#underWay++
    let isGood: boolean
    try {
      isGood = await isSignedBy(proof, key)
    } finally {
      this.#underWay--
    }
    if (!isGood) throw unfit('its signature is wrong')
  }

  #use(key: string, jti: string, madeAtS: number): void {
    switch (this.#used.use(key, jti, madeAtS, Date.now() / 1000)) {
      case 'first':
        return
      case 'again':
        throw new GateError('ERR_PROOF_REPLAYED', undefined, {
          cause: `its jti was used before: ${shown(jti)}`,
        })
      case 'forgotten':
        throw unfit(
          `its iat is ${madeAtS}, before what this gate remembers: before its start, or its clock was set back`,
        )
      case 'full':
        throw new GateError('ERR_OVERLOADED', undefined, {
          cause: 'limits.dpop_proofs has no room for more proofs',
        })
    }
  }
}

function readHeader({ typ, alg, jwk }: Claims): { readonly alg: string; readonly jwk: Jwk } {
  if (typ !== 'dpop+jwt') throw unfit(`its typ is ${shown(typ)}, expected "dpop+jwt"`)
  if (typeof alg !== 'string' || !proofAlgorithms.includes(alg))
    throw unfit(`its alg is ${shown(alg)}, expected one of ${JSON.stringify(proofAlgorithms)}`)
  const problem = formProblem(jwk, families)
  if (problem !== undefined) throw unfit(`its jwk is not used: ${problem}`)
  const key = jwk as Jwk
  const family = familyOf(alg)
  const isItsOwn = key.alg === undefined || familyOf(key.alg as string) === family
  if (!isItsOwn || !isKeyFor(key, family)) throw unfit(`its jwk does not fit ${alg}`)
  return { alg, jwk: key }
}

function isTime(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 && value <= 1e11
}

function unfit(why: string): GateError {
  return new GateError('ERR_PROOF_INVALID', undefined, { cause: why })
}
