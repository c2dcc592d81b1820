/** The options of `revoke` -> the columns of a row. A raw token never leaves this process. */
import { networkProblem } from '../domain/network.ts'
import { tokenHash } from '../domain/token-hash.ts'
import { GateError } from '../errors.ts'
import { type NewRevocation, predicates } from '../store/statements.ts'

/** The options as commander gives them. */
export interface TargetOptions {
  readonly subject?: string
  readonly session?: string
  /** A `jti`, or `-` for a whole token on standard input. */
  readonly token?: string
  readonly client?: string
  readonly tenant?: string
  readonly group?: string
  readonly key?: string
  readonly clientCert?: string
  readonly proofKey?: string
  readonly device?: string
  readonly network?: string
  readonly claim?: readonly string[]
  readonly issuer?: string
  readonly everyone?: boolean
  readonly issuedBefore?: string
  readonly signedInBefore?: string
  readonly exceptSession?: string
  readonly eventTime?: string
  readonly expires?: string
  readonly reason?: string
}

/**
 * @param readInput Reads standard input; called only for `--token -`.
 * @throws GateError ERR_USAGE, ERR_CONFIG_FILE
 */
export async function parseRevocationTarget(
  options: TargetOptions,
  peppers: readonly Uint8Array[],
  readInput: () => Promise<string>,
): Promise<NewRevocation> {
  const { issuedBefore, signedInBefore } = options
  if (issuedBefore !== undefined && signedInBefore !== undefined) {
    throw usage(
      '--issued-before and --signed-in-before are given together',
      'give one of the two: a cutoff compares one time',
    )
  }
  const target = await parseTarget(options, peppers, readInput)
  if (predicates.every((column) => target[column] === undefined)) {
    throw usage(
      'no target given',
      'give one or more of --subject, --session, --token, --client, --tenant, --group, --key, --client-cert, --proof-key, --device, --network, --claim, --issuer, or --everyone',
    )
  }
  return {
    issued_before: issuedBefore ?? signedInBefore ?? options.eventTime,
    compare: signedInBefore === undefined ? undefined : 'auth_time',
    except_session_id: options.exceptSession,
    event_time: options.eventTime,
    reason: options.reason,
    ...target,
    ...(options.expires === undefined ? {} : { expires_at: options.expires }),
  }
}

/**
 * The columns that say whom a row hits; for a whole token also the end of its revocation.
 * @param readInput Reads standard input; called only for `--token -`.
 * @throws GateError ERR_USAGE, ERR_CONFIG_FILE
 */
export async function parseTarget(
  options: TargetOptions,
  peppers: readonly Uint8Array[],
  readInput: () => Promise<string>,
): Promise<NewRevocation> {
  const { token } = options
  for (const [name, value] of Object.entries(options)) checkText(name, value)
  const wrong = options.network === undefined ? undefined : networkProblem(options.network)
  if (wrong !== undefined) throw usage(`--network: ${wrong}`, 'e.g. 10.1.0.0/16 or 2001:db8::/32')
  return {
    issuer: options.issuer,
    subject: options.subject,
    session_id: options.session,
    token_id: token === '-' ? undefined : token,
    client_id: options.client,
    tenant: options.tenant,
    group_value: options.group,
    key_thumbprint: thumbprint(options.key, '--key'),
    client_cert: thumbprint(options.clientCert, '--client-cert'),
    proof_key: thumbprint(options.proofKey, '--proof-key'),
    device_id: options.device,
    network: options.network,
    ...(options.claim === undefined ? {} : { claims: claimsOf(options.claim) }),
    ...(options.everyone === true ? { everyone: true } : {}),
    ...(token === '-' ? hashOf((await readInput()).trim(), peppers) : {}),
  }
}

const maxBytes = 1024
const maxReasonBytes = 4096

/**
 * Refuses values that the CHECK constraints of the table would refuse, with a hint. @param name Name of the option in
 * commander's spelling.
 */
function checkText(name: string, value: unknown): void {
  if (typeof value !== 'string') return
  const option = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
  if (value === '') throw usage(`${option} is empty`, 'leave it out, or give it a value')
  const most = name === 'reason' ? maxReasonBytes : maxBytes
  const bytes = Buffer.byteLength(value)
  if (bytes > most) throw usage(`${option} has ${bytes} bytes`, `it may have at most ${most}`)
}

/** The hash of a token, and the end of its revocation: an hour after the token's `exp`, if it has one. */
function hashOf(token: string, peppers: readonly Uint8Array[]): Partial<NewRevocation> {
  if (token === '')
    throw usage(
      'no token on standard input',
      'pass the token on standard input, e.g. dropgate revoke --token - < file',
    )
  const [pepper] = peppers
  if (pepper === undefined) {
    throw new GateError(
      'ERR_CONFIG_FILE',
      'a token cannot be hashed without revocation.pepper_file',
      {
        hint: 'set revocation.pepper_file, the same on every gate and here',
      },
    )
  }
  return { token_hash: tokenHash(pepper, token), expires_at: endOf(token) }
}

function endOf(token: string): string | undefined {
  try {
    const { exp } = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())
    const at = new Date(exp * 1000 + 3_600_000)
    return at.getUTCFullYear() >= 2000 && at.getUTCFullYear() < 2200 ? at.toISOString() : undefined
  } catch {
    // An opaque token, or one without `exp`: the row stays until no valid token can match it.
    return undefined
  }
}

/** A thumbprint of 32 bytes, given as base64url or as hex with or without colons. */
function thumbprint(text: string | undefined, option: string): string | undefined {
  if (text === undefined || /^[A-Za-z0-9_-]{43}$/.test(text)) return text
  const hex = text.replaceAll(':', '')
  if (/^[0-9a-fA-F]{64}$/.test(hex)) return Buffer.from(hex, 'hex').toString('base64url')
  throw usage(`${option} is not a SHA-256 thumbprint`, '43 characters of base64url, or 64 of hex')
}

/** Parses `/pointer=text`, or `/pointer:=JSON` for a number or boolean. */
function claimsOf(given: readonly string[]): Record<string, unknown> {
  const claims = new Map<string, unknown>()
  for (const each of given) {
    const [, pointer, colon, text] = /^(\/[^=]*?)(:?)=(.*)$/s.exec(each) ?? []
    if (pointer === undefined)
      throw usage(
        `--claim ${each} is not of the form /pointer=text`,
        'e.g. --claim /role=admin, or --claim /level:=3',
      )
    if (claims.has(pointer))
      throw usage(`--claim ${pointer} is given twice`, 'give each claim once')
    claims.set(pointer, colon === ':' ? jsonValue(text!, each) : text)
  }
  return Object.fromEntries(claims)
}

function jsonValue(text: string, each: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw usage(`--claim ${each} is not JSON after :=`, 'for a text, write = in place of :=')
  }
}

function usage(what: string, hint: string): GateError {
  return new GateError('ERR_USAGE', what, { hint })
}
