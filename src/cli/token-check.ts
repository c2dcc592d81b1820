/**
 * Which rows deny one token, by the code by which a gate decides. The token stays in this process: it is neither printed
 * nor sent, and its signature is not checked.
 */
import { loadConfig } from '../config/load.ts'
import type { IssuerConfig } from '../config/options.ts'
import { plainAddress } from '../domain/address.ts'
import { monotonicUs } from '../domain/clock.ts'
import { IssuerNames } from '../domain/issuer-pattern.ts'
import type { Pointers, Principal } from '../domain/principal.ts'
import { keyBytes, kinds, negatedBit, type RevocationRow } from '../domain/revocation.ts'
import { keysOfRow } from '../domain/row-keys.ts'
import { tokenHash } from '../domain/token-hash.ts'
import { asGateError, GateError } from '../errors.ts'
import { checkTenant, checkType, parsePrincipal } from '../identity/claims.ts'
import { type Claims, parseTokenShape } from '../identity/shape.ts'
import { Ledger } from '../revocation/ledger.ts'
import { findRevocation } from '../revocation/match.ts'
import type { ComparableRow } from '../store/lookup.ts'
import { readPepperFile } from './peppers.ts'

export interface ReadToken {
  readonly claims: Claims
  /** Undefined where a gate refuses the token before it asks for revocations. */
  readonly principal: Principal | undefined
  /** Why it does. */
  readonly refusal: GateError | undefined
  /** Every text in the token that a row can name: a row that names another one does not concern it. */
  readonly texts: readonly string[]
  /** Kinds of keys that this process cannot know. */
  readonly unknown: ReadonlySet<number>
}

/** @throws GateError ERR_TOKEN_MALFORMED, ERR_CONFIG_*, ERR_USAGE when no issuer of the configuration is the token's */
export function readToken(file: string, token: string, pointers: readonly string[]): ReadToken {
  const { header, claims, written } = parseTokenShape(token)
  const config = issuerOf(file, claims.iss)
  const peppers = peppersOf(file)
  const texts = [...textsIn(claims)]
  const unknown = new Set<number>([
    kinds.client_cert,
    // The key that signed it is known to the issuer and to the gates that have verified it.
    kinds.key_thumbprint,
    ...(peppers === undefined ? [kinds.token_hash] : []),
  ])
  try {
    checkTenant(claims, config)
    checkType(header, claims, config)
    const principal = parsePrincipal(claims, config, Date.now(), {
      written: written(),
      tokenHashes: (peppers ?? []).map((pepper) => tokenHash(pepper, token)),
      keyThumbprint: '',
      pointers: pointersOf(pointers),
    })
    return { claims, principal, refusal: undefined, texts, unknown }
  } catch (error) {
    return { claims, principal: undefined, refusal: asGateError(error), texts, unknown }
  }
}

/** Only a gate fetches keys: what it does that with may be missing where the command runs. */
const fetchSecrets = [
  'issuers.fetch.tls',
  'issuers.fetch.headers',
  'issuers.fetch.token_file',
  'issuers.fetch.proxy',
] as const

function issuerOf(file: string, issuer: unknown): IssuerConfig {
  const { issuers } = loadConfig(file, process.env, ['issuers'], fetchSecrets).config
  const config = new IssuerNames(issuers.map((each) => [each, each] as const)).get(issuer)
  if (config !== undefined) return config
  throw new GateError(
    'ERR_USAGE',
    `no issuer of the configuration is ${JSON.stringify(issuer)}, the issuer of this token`,
    {
      hint: `write the issuer into issuers of ${file} as the gates have it: it says which claims rows can name`,
    },
  )
}

/** Undefined where they cannot be read: then it is not known whether a row names the token by its hash. */
function peppersOf(file: string): readonly Buffer[] | undefined {
  try {
    const peppers = readPepperFile(file)
    return peppers.length === 0 ? undefined : peppers
  } catch {
    return undefined
  }
}

function pointersOf(list: readonly string[]): Pointers {
  return { count: list.length, at: (index) => list[index]! }
}

/** PostgreSQL has no text with this character, so no row names one, and a question with it fails. */
export function isNameable(text: string): boolean {
  return !text.includes('\0')
}

function* textsIn(value: unknown): Generator<string> {
  if (typeof value === 'string' && isNameable(value)) yield value
  else if (typeof value === 'object' && value !== null)
    for (const each of Object.values(value)) yield* textsIn(each)
}

export interface Concerned {
  /** Rows that deny the token. `retry`: only one issued a moment later would be accepted. */
  readonly denying: readonly { readonly id: string; readonly retry: boolean }[]
  /** Rows that deny it if what is not known here fits. */
  readonly depending: readonly string[]
}

/**
 * @param address Address of the client; undefined where it is not known.
 * @param now The clock of the database.
 */
export function rowsOnToken(
  rows: readonly ComparableRow[],
  { unknown }: ReadToken,
  principal: Principal,
  address: string | undefined,
  now: Date,
): Concerned {
  const hidden = new Set([...unknown, ...(address === undefined ? [kinds.network] : [])])
  const denying: { id: string; retry: boolean }[] = []
  const depending: string[] = []
  for (const row of rows) {
    const keys = keysOfRow(row.predicates)
    const known = withoutKinds(keys, hidden)
    // Where nothing else is known, the row is compared as one for everyone: its times still count.
    const compared = isPositive(known) ? known : Buffer.concat([everyone, known])
    const found = matchOf({ ...comparable(row), keys: compared }, principal, address, now)
    if (found === undefined) continue
    if (known.length < keys.length) depending.push(row.id)
    else denying.push({ id: row.id, retry: found.retry })
  }
  return { denying, depending }
}

const everyone = keysOfRow({ everyone: true })

/** True if the first key is one that the principal must have, by which a row can be filed. */
function isPositive(keys: Uint8Array): boolean {
  return keys.length > 0 && (keys[0]! & negatedBit) === 0
}

function comparable(row: ComparableRow): Omit<RevocationRow, 'keys'> {
  return {
    id: Number(row.id),
    cutoffUs: row.cutoff_us === null ? null : Number(row.cutoff_us),
    exact: row.event_time !== null,
    authTime: row.compare === 'auth_time',
    expiresAtS: row.expires_s === null ? null : Number(row.expires_s),
  }
}

function withoutKinds(keys: Uint8Array, left: ReadonlySet<number>): Uint8Array {
  const kept: Uint8Array[] = []
  for (let at = 0; at < keys.length; at += keyBytes) {
    if (!left.has(keys[at]!)) kept.push(keys.subarray(at, at + keyBytes))
  }
  return Buffer.concat(kept)
}

/** A ledger of one row: which of several rows matches first is of no interest here. */
function matchOf(
  row: RevocationRow,
  principal: Principal,
  address: string | undefined,
  now: Date,
): { readonly retry: boolean } | undefined {
  const ledger = Ledger.create(16)
  ledger.upsert(row)
  ledger.fresh(monotonicUs(), now.getTime() - Date.now())
  ledger.publish()
  principal.cleanAtVersion = -1
  const peer = { address: address ?? '0.0.0.0', certificate: undefined }
  return findRevocation(ledger, principal, peer, Date.now())
}

/** @throws GateError ERR_USAGE */
export function readAddress(text: string | undefined): string | undefined {
  if (text === undefined) return undefined
  const address = plainAddress(text)
  if (address !== undefined) return address
  throw new GateError('ERR_USAGE', `--address ${text} is not an IP address`, {
    hint: 'write the address that the gate sees, for example 10.1.2.3 or 2001:db8::7',
  })
}
