/**
 * Verified claims -> Principal. Every identifier must be one that a row in Postgres can name, and every time must
 * be finite: a token that no cutoff could ever hit is not accepted.
 */
import type { IssuerConfig } from '../config/options.ts'
import type { Principal } from '../domain/principal.ts'
import { keysOf } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import type { Claims, Header } from './shape.ts'

const maxIdentifierBytes = 1024

/** RFC 9068 section 4. @throws GateError ERR_TOKEN_TYPE */
export function checkType(header: Header, claims: Claims, mode: IssuerConfig['token_types']): void {
  const { typ } = header
  if (typ === 'at+jwt') return
  // Other tokens of the same issuer carry the same signature: only what is no ID, logout or event token passes.
  const legacy = mode === 'any' && (typ === undefined || typ === 'jwt')
  const { typ: kind, events, nonce } = claims
  const another = typeof kind === 'string' && /^(?:id|refresh|offline|logout)$/i.test(kind)
  if (!legacy || events !== undefined || nonce !== undefined || another)
    throw new GateError('ERR_TOKEN_TYPE')
}

/** @throws GateError ERR_TOKEN_CLAIMS, ERR_TOKEN_EXPIRED */
export function readPrincipal(claims: Claims, config: IssuerConfig, nowMs: number): Principal {
  const issuer = identifier(claims.iss, 'iss')
  const subject = identifier(claims.sub, 'sub')
  const issuedAtS = time(claims.iat, 'iat')
  const expiresAtS = time(claims.exp, 'exp')
  const notBeforeS = claims.nbf === undefined ? undefined : time(claims.nbf, 'nbf')
  const nowS = nowMs / 1000
  const skewS = config.clock_skew / 1000
  if (issuedAtS > nowS + skewS) throw bad('iat is in the future')
  if (notBeforeS !== undefined && notBeforeS > nowS + skewS) throw bad('nbf is in the future')
  // Old rows may be deleted because no token outlives this.
  if (expiresAtS - issuedAtS > config.max_token_lifetime / 1000)
    throw bad('the token lives too long')
  checkExpiry(expiresAtS, nowMs, config.clock_skew)
  const at = config.claims
  const sessionId = optional(pointed(claims, at.session), 'session')
  const tokenId = optional(claims.jti, 'jti')
  const clientId =
    at.client === undefined
      ? optional(claims.client_id ?? claims.azp, 'client')
      : optional(pointed(claims, at.client), 'client')
  const tenant =
    at.tenant === undefined ? undefined : optional(pointed(claims, at.tenant), 'tenant')
  const scopes = readScopes(
    at.scopes === undefined ? (claims.scope ?? claims.scp) : pointed(claims, at.scopes),
  )
  return {
    issuer,
    subject,
    sessionId,
    tokenId,
    clientId,
    tenant,
    scopes,
    issuedAtS,
    expiresAtS,
    claims,
    json: JSON.stringify({
      issuer,
      subject,
      session_id: sessionId,
      token_id: tokenId,
      client_id: clientId,
      tenant,
      scopes,
      issued_at: Math.floor(issuedAtS),
      expires_at: Math.floor(expiresAtS),
      claims,
    }),
    keys: keysOf({ issuer, subject, sessionId, tokenId, clientId }),
    clockSkewMs: config.clock_skew,
    boundary: config.boundary,
    cleanAtVersion: -1,
  }
}

/** Tolerance is for the issuer's clock, on `exp` as on `nbf`. @throws GateError ERR_TOKEN_EXPIRED */
export function checkExpiry(expiresAtS: number, nowMs: number, skewMs: number): void {
  if (nowMs >= expiresAtS * 1000 + skewMs) throw new GateError('ERR_TOKEN_EXPIRED')
}

/** The audiences a token names. @throws GateError ERR_TOKEN_AUDIENCE */
export function readAudience(claims: Claims): readonly string[] {
  const { aud } = claims
  const list = typeof aud === 'string' ? [aud] : aud
  if (Array.isArray(list) && list.every((one) => typeof one === 'string')) return list
  throw new GateError('ERR_TOKEN_AUDIENCE')
}

function identifier(value: unknown, name: string): string {
  const usable =
    typeof value === 'string' &&
    value !== '' &&
    !value.includes('\0') &&
    value.isWellFormed() &&
    Buffer.byteLength(value) <= maxIdentifierBytes
  if (!usable) throw bad(`${name} is not a usable string`)
  return value
}

function optional(value: unknown, name: string): string | undefined {
  return value === undefined || value === null ? undefined : identifier(value, name)
}

/** A NumericDate that a row's time can be compared with. */
function time(value: unknown, name: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0 || value > 1e11) {
    throw bad(`${name} is not a usable time`)
  }
  return value
}

/** A space-separated string (RFC 9068) or a list. */
function readScopes(value: unknown): readonly string[] {
  if (value === undefined) return []
  if (typeof value === 'string') return value.split(' ').filter((scope) => scope !== '')
  if (Array.isArray(value) && value.every((scope) => typeof scope === 'string')) return value
  throw bad('scope is neither a string nor a list of strings')
}

/** JSON pointer (RFC 6901) over own properties only. */
export function pointed(claims: unknown, pointer: string): unknown {
  let at = claims
  for (const part of pointer.split('/').slice(1)) {
    if (typeof at !== 'object' || at === null) return undefined
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~')
    if (!Object.hasOwn(at, name)) return undefined
    at = (at as Record<string, unknown>)[name]
  }
  return at
}

function bad(why: string): GateError {
  return new GateError('ERR_TOKEN_CLAIMS', undefined, { cause: why })
}
