/**
 * Makes a Principal from verified claims. Every identifier must be one that a row in PostgreSQL can name, and every
 * time must be finite: a token that no cutoff could revoke is not accepted.
 */
import type { IssuerConfig } from '../config/options.ts'
import { anyAudience } from '../config/presets.ts'
import { subjectCaller } from '../domain/caller.ts'
import { namesOf, tenantIn } from '../domain/issuer-pattern.ts'
import { wellFormedJson } from '../domain/json.ts'
import { noteContent, type Pointers, type Principal, valueAt } from '../domain/principal.ts'
import { keysOf } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import { readBinding } from './binding.ts'
import { type Claims, type Header, shown } from './shape.ts'

const maxIdentifierBytes = 1024

/**
 * The columns of `revocations` by which this gate can match tokens, for each issuer; '' stands for requests without a
 * token.
 * @param exchange Columns about the exchange instead of the token (address, certificate) that this gate can match.
 */
export function matchedColumns(
  issuers: readonly IssuerConfig[],
  peppers: boolean,
  exchange: readonly string[],
): Record<string, readonly string[]> {
  const every = ['subject', 'session_id', 'token_id', 'client_id', 'proof_key', 'key_thumbprint']
  const found: Record<string, readonly string[]> = { '': exchange }
  for (const issuer of issuers) {
    const { claims } = issuer
    const columns = [...every, ...exchange, 'claims']
    if (peppers) columns.push('token_hash')
    if (claims.tenant !== undefined) columns.push('tenant')
    if (claims.groups !== undefined) columns.push('group_value')
    if (claims.device !== undefined) columns.push('device_id')
    for (const name of publishedNames(issuer)) found[name] = columns
  }
  return found
}

/** Every gate writes its names with each heartbeat; of a long list of tenants it writes the pattern instead. */
const maxPublished = 100

function publishedNames(issuer: IssuerConfig): readonly string[] {
  const names = namesOf(issuer)
  return names.length === 0 || names.length > maxPublished ? [issuer.issuer] : names
}

/**
 * Where an issuer signs for many tenants, a token says its tenant twice. @throws GateError ERR_TOKEN_ISSUER when the two
 * differ
 */
export function checkTenant(claims: Claims, { issuer, tenants }: IssuerConfig): void {
  if (tenants === undefined) return
  const tenant = tenantIn(issuer, claims.iss as string)
  if (tenant !== undefined && claims.tid === tenant) return
  const cause = `its tid is ${shown(claims.tid)}, and its iss names the tenant ${tenant}`
  throw new GateError('ERR_TOKEN_ISSUER', undefined, { cause })
}

/**
 * Checks that a token is an access token: its `typ` (RFC 9068 section 4), or where the issuer does not write one, what
 * tells its other tokens apart. @throws GateError ERR_TOKEN_TYPE
 */
export function checkType(
  { typ }: Header,
  claims: Claims,
  config: Pick<IssuerConfig, 'token_types' | 'access_token_nonce'>,
): void {
  if (typ === 'at+jwt') return
  const mode = config.token_types
  if (mode === 'at+jwt') throw notAccess(`its typ is ${shown(typ)}, expected at+jwt`)
  if (typ !== undefined && typ !== 'jwt')
    throw notAccess(`its typ is ${shown(typ)}, expected at+jwt, JWT or none`)
  // An issuer signs ID tokens, logout tokens and event tokens with the same key: only a token that is none of these
  // passes.
  if (claims.events !== undefined) throw notAccess('it has events: it is a logout or event token')
  const kind = kindOf(claims)
  if (kind !== undefined && kind !== 'bearer' && kind !== 'access') {
    if (mode === 'id' && kind === 'id') return
    throw notAccess(`it says that it is of the kind ${shown(kind)}`)
  }
  if (mode === 'id') return
  for (const name of ['at_hash', 'c_hash'])
    if (claims[name] !== undefined) throw notAccess(`it has ${name}: it is an ID token`)
  const { nonce, scope, scp } = claims
  if (nonce === undefined || config.access_token_nonce === 'allow') return
  if (kind === undefined && scope === undefined && scp === undefined)
    throw notAccess(
      'it has a nonce and neither scopes nor a kind, so it counts as an ID token; see issuers[].access_token_nonce',
    )
}

/** What a token says of itself: `typ` in its claims (Keycloak) or `token_use` (Cognito), in lower case. */
function kindOf(claims: Claims): string | undefined {
  for (const name of ['typ', 'token_use']) {
    const value = claims[name]
    if (typeof value === 'string') return value.toLowerCase()
  }
  return undefined
}

function notAccess(why: string): GateError {
  return new GateError('ERR_TOKEN_TYPE', undefined, { cause: why })
}

/** What is known of a verified token besides its claims. */
export interface Evidence {
  /** The claims as the issuer wrote them, for the policy. */
  readonly written: Claims
  /** HMACs of the token, one for each pepper. */
  readonly tokenHashes: readonly Uint8Array[]
  /** RFC 7638 thumbprint of the key that verified the token. */
  readonly keyThumbprint: string
  readonly pointers: Pointers
}

/** @throws GateError ERR_TOKEN_CLAIMS, ERR_TOKEN_EXPIRED, ERR_TOKEN_BOUND */
export function parsePrincipal(
  claims: Claims,
  config: IssuerConfig,
  nowMs: number,
  evidence: Evidence,
): Principal {
  const issuer = identifier(claims.iss, 'iss')
  const subject = identifier(valueAt(claims, config.claims.subject), config.claims.subject.slice(1))
  const { issuedAtS, expiresAtS } = readTimes(claims, config, nowMs)
  const boundTo = readBinding(claims.cnf)
  const named = readNames(claims, config.claims)
  const { sessionId, tokenId, clientId, tenant, scopes, groups, deviceId } = named
  const content = {
    issuer,
    subject,
    session_id: sessionId,
    token_id: tokenId,
    client_id: clientId,
    tenant,
    scopes,
    issued_at: Math.floor(issuedAtS),
    expires_at: Math.floor(expiresAtS),
    claims: evidence.written,
  }
  const text = JSON.stringify(content)
  const json = wellFormedJson(text)
  if (json === text) noteContent(json, content)
  return {
    issuer,
    subject,
    sessionId,
    tokenId,
    clientId,
    tenant,
    scopes,
    issuedAtS,
    authTimeS: readAuthTime(claims.auth_time, nowMs / 1000 + config.clock_skew / 1000),
    expiresAtS,
    boundTo,
    json,
    keys: keysOf({
      issuer,
      subject,
      actors: readActors(claims.act, issuer),
      sessionId,
      tokenId,
      clientId,
      tenant,
      groups,
      deviceId,
      proofKeys: [boundTo?.certificate, boundTo?.key].filter((one) => one !== undefined),
      tokenHashes: evidence.tokenHashes,
      keyThumbprint: evidence.keyThumbprint,
    }),
    pointers: evidence.pointers,
    pointersSeen: 0,
    clockSkewMs: config.clock_skew,
    boundary: config.boundary,
    cleanAtVersion: -1,
    caller: subjectCaller(issuer, subject),
  }
}

/** Reads and checks the times that bound a token's life. @throws GateError ERR_TOKEN_CLAIMS, ERR_TOKEN_EXPIRED */
function readTimes(
  claims: Claims,
  config: IssuerConfig,
  nowMs: number,
): { issuedAtS: number; expiresAtS: number } {
  const issuedAtS = time(claims.iat, 'iat')
  const expiresAtS = time(claims.exp, 'exp')
  const notBeforeS = claims.nbf === undefined ? undefined : time(claims.nbf, 'nbf')
  const latestS = nowMs / 1000 + config.clock_skew / 1000
  if (issuedAtS > latestS) throw bad('iat is in the future')
  if (notBeforeS !== undefined && notBeforeS > latestS) throw bad('nbf is in the future')
  // The purge deletes old rows on the assumption that no token lives longer than this.
  if (expiresAtS - issuedAtS > config.max_token_lifetime / 1000)
    throw bad('the token lives longer than max_token_lifetime')
  checkExpiry(expiresAtS, nowMs, config.clock_skew)
  return { issuedAtS, expiresAtS }
}

/**
 * Reads the claims that rows and policies name, from the places that the issuer's configuration gives. @throws
 * GateError ERR_TOKEN_CLAIMS
 */
function readNames(claims: Claims, at: IssuerConfig['claims']) {
  const optionalAt = (pointer: string | undefined, name: string): string | undefined =>
    pointer === undefined ? undefined : optional(valueAt(claims, pointer), name)
  return {
    sessionId: optional(valueAt(claims, at.session), 'session'),
    tokenId: optional(valueAt(claims, at.token), 'token'),
    clientId:
      at.client === undefined
        ? optional(claims.client_id ?? claims.azp ?? claims.appid, 'client')
        : optional(valueAt(claims, at.client), 'client'),
    tenant: optionalAt(at.tenant, 'tenant'),
    groups: at.groups === undefined ? [] : readGroups(claims, at.groups),
    deviceId: optionalAt(at.device, 'device'),
    scopes: readScopes(
      at.scopes === undefined ? (claims.scope ?? claims.scp) : valueAt(claims, at.scopes),
    ),
  }
}

/** The tolerance `skewMs` is for the issuer's clock, on `exp` as on `nbf`. @throws GateError ERR_TOKEN_EXPIRED */
export function checkExpiry(expiresAtS: number, nowMs: number, skewMs: number): void {
  if (nowMs >= expiresAtS * 1000 + skewMs)
    throw new GateError('ERR_TOKEN_EXPIRED', undefined, {
      cause: `its exp is ${expiresAtS}, now is ${Math.floor(nowMs / 1000)}`,
    })
}

/** The audiences that a token names; none where no audience is asked for. @throws GateError ERR_TOKEN_AUDIENCE */
export function readAudience(
  claims: Claims,
  { audience, claims: at }: Pick<IssuerConfig, 'audience' | 'claims'>,
): readonly string[] {
  const found = valueAt(claims, at.audience)
  const list = typeof found === 'string' ? [found] : found
  if (Array.isArray(list) && list.every((one) => typeof one === 'string')) return list
  if (found === undefined && audience.includes(anyAudience)) return []
  const what = found === undefined ? 'missing' : 'neither a text nor a list of texts'
  throw new GateError('ERR_TOKEN_AUDIENCE', undefined, { cause: `its ${at.audience} is ${what}` })
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

/** A NumericDate (seconds since 1970) that can be compared with the times of a row. */
function time(value: unknown, name: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0 || value > 1e11) {
    throw bad(`${name} is not a usable time`)
  }
  return value
}

/** Scopes: a space-separated string (RFC 9068) or a list. */
function readScopes(value: unknown): readonly string[] {
  if (value === undefined) return []
  if (typeof value === 'string') return value.split(' ').filter((scope) => scope !== '')
  if (Array.isArray(value) && value.every((scope) => typeof scope === 'string')) return value
  throw bad('scope is neither a string nor a list of strings')
}

/** @throws GateError when the token does not carry all groups: a revoked group could be among the missing ones. */
function readGroups(claims: Claims, pointer: string): readonly string[] {
  const { _claim_names: elsewhere, hasgroups } = claims
  const overage =
    typeof elsewhere === 'object' && elsewhere !== null && Object.hasOwn(elsewhere, 'groups')
  // Entra leaves the groups out of a token that would have too many.
  if (overage || hasgroups !== undefined) throw bad('the issuer left the groups out of the token')
  const value = valueAt(claims, pointer)
  if (value === undefined || value === null) return []
  return (Array.isArray(value) ? value : [value]).map((group) => identifier(group, 'group'))
}

/** The sign-in time. A value that is unusable or in the future does not prove a sign-in and is ignored. */
function readAuthTime(value: unknown, latestS: number): number | undefined {
  const usable = typeof value === 'number' && Number.isFinite(value) && value >= 0
  return usable && value <= latestS ? value : undefined
}

const maxActors = 8

/**
 * The chain of actors (RFC 8693 section 4.1): services that act on behalf of the subject, each on behalf of the next.
 */
function readActors(act: unknown, issuer: string): { issuer: string; subject: string }[] {
  const actors: { issuer: string; subject: string }[] = []
  for (let at = act, depth = 0; at !== undefined; depth++) {
    if (typeof at !== 'object' || at === null || depth === maxActors) {
      throw bad('act is not a usable chain')
    }
    const { sub, iss, act: next } = at as Record<string, unknown>
    const subject = optional(sub, 'act.sub')
    if (subject !== undefined) {
      actors.push({ issuer: optional(iss, 'act.iss') ?? issuer, subject })
    }
    at = next
  }
  return actors
}

function bad(why: string): GateError {
  return new GateError('ERR_TOKEN_CLAIMS', undefined, { cause: why })
}
