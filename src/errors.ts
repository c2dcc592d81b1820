/**
 * Every way dropgate says no, in one table: the code is what users and tests rely on, the status is what
 * a client sees, the sentence is the problem document's `title`. The README's table is compared with this one
 * by a test, both ways. A cause never leaves the process except into the gate's own log.
 */

interface Entry {
  /** HTTP status of the answer; 0 for codes that never answer a request (start, commands, bundles). */
  readonly status: number
  readonly title: string
  /** Seconds for `Retry-After`, where waiting helps. */
  readonly retryAfterS?: number
}

const table = {
  // The request cannot be understood in exactly one way.
  ERR_TARGET_MALFORMED: { status: 400, title: 'The request target is not in canonical form.' },
  ERR_TARGET_TOO_LONG: { status: 414, title: 'The request target is too long.' },
  ERR_HOST_MALFORMED: { status: 400, title: 'The host is missing, repeated or malformed.' },
  ERR_HEADER_MALFORMED: { status: 400, title: 'A header is malformed or its name is not allowed.' },
  ERR_HEADER_REPEATED: { status: 400, title: 'A header that may appear once appears twice.' },
  ERR_HEADERS_TOO_LARGE: { status: 431, title: 'The request headers are too large.' },
  ERR_FRAMING: { status: 400, title: 'The message framing is ambiguous or malformed.' },
  ERR_TRANSFER_CODING: { status: 501, title: 'The transfer coding is not supported.' },
  ERR_METHOD_UNKNOWN: { status: 501, title: 'The method is not known.' },
  ERR_METHOD_NOT_ALLOWED: { status: 405, title: 'The method is not allowed here.' },
  ERR_EXPECTATION: { status: 417, title: 'The expectation cannot be met.' },
  ERR_UPGRADE_MALFORMED: { status: 400, title: 'The WebSocket handshake is malformed.' },
  ERR_UPGRADE_VERSION: { status: 426, title: 'Only version 13 of WebSocket is supported.' },
  ERR_BODY_TOO_LARGE: { status: 413, title: 'The request body is too large.' },
  ERR_BODY_TIMEOUT: { status: 408, title: 'The request body took too long to arrive.' },
  ERR_BODY_MALFORMED: { status: 400, title: 'The request body cannot be read in exactly one way.' },
  ERR_BODY_TYPE: {
    status: 415,
    title: 'The request body has a type or coding that the policy cannot read.',
  },
  ERR_REQUEST_TIMEOUT: { status: 408, title: 'The request took too long to arrive.' },
  // Where it should go.
  ERR_HOST_UNKNOWN: { status: 421, title: 'No route serves this host.' },
  ERR_ROUTE_NOT_FOUND: { status: 404, title: 'No route serves this path.' },
  ERR_CORS_REFUSED: { status: 403, title: 'The cross-origin rules of this route do not allow it.' },
  // Who asks.
  ERR_CREDENTIAL_MISSING: { status: 401, title: 'A credential is required.' },
  ERR_CREDENTIAL_BOUND: {
    status: 401,
    title: 'Authentication that is bound to a connection cannot pass a proxy.',
  },
  ERR_CREDENTIAL_REPEATED: { status: 400, title: 'The request carries more than one credential.' },
  ERR_TOKEN_MALFORMED: { status: 401, title: 'The token is malformed.' },
  ERR_TOKEN_ISSUER: {
    status: 401,
    title: 'The token is from an issuer that is not accepted here.',
  },
  ERR_TOKEN_ALGORITHM: {
    status: 401,
    title: 'The token is signed with an algorithm that is not accepted.',
  },
  ERR_TOKEN_KEY_UNKNOWN: { status: 401, title: 'The token is signed with an unknown key.' },
  ERR_TOKEN_SIGNATURE: { status: 401, title: 'The token signature does not verify.' },
  ERR_TOKEN_TYPE: { status: 401, title: 'The token is not an access token.' },
  ERR_TOKEN_CLAIMS: {
    status: 401,
    title: 'The token lacks a required claim or a claim is out of range.',
  },
  ERR_TOKEN_AUDIENCE: { status: 401, title: 'The token is for another audience.' },
  ERR_TOKEN_BOUND: {
    status: 401,
    title: 'The token is bound to a certificate or key that this connection does not prove.',
  },
  ERR_TOKEN_EXPIRED: { status: 401, title: 'The token has expired.' },
  ERR_KEYS_UNAVAILABLE: {
    status: 503,
    title: 'The issuer keys are not available yet.',
    retryAfterS: 5,
  },
  // What was taken back.
  ERR_REVOKED: { status: 401, title: 'The credential has been revoked.' },
  ERR_EVERYONE_REVOKED: {
    status: 503,
    title: 'Access is suspended for everyone.',
    retryAfterS: 30,
  },
  ERR_PEER_REVOKED: {
    status: 403,
    title: 'Access from this network or with this certificate is suspended.',
  },
  // From which page.
  ERR_ORIGIN_NOT_ALLOWED: { status: 403, title: 'This origin may not use that credential here.' },
  // What the policy says.
  ERR_POLICY_DENIED: { status: 403, title: 'The policy does not allow this request.' },
  ERR_POLICY_MISSING: { status: 503, title: 'No policy is loaded yet.', retryAfterS: 1 },
  ERR_POLICY_FAILED: {
    status: 503,
    title: 'The policy did not give a usable answer.',
    retryAfterS: 1,
  },
  ERR_POLICY_SUSPENDED: {
    status: 503,
    title: 'The policy is suspended because it ran away.',
    retryAfterS: 5,
  },
  ERR_CALLER_SUSPENDED: {
    status: 503,
    title: 'The policy ran away for this caller, who has to wait.',
    retryAfterS: 60,
  },
  // What the gate itself cannot do now.
  ERR_NOT_READY: { status: 503, title: 'The gate is not ready.', retryAfterS: 1 },
  ERR_STALE: {
    status: 503,
    title: 'The gate cannot prove that it knows all revocations.',
    retryAfterS: 1,
  },
  ERR_OVERLOADED: {
    status: 503,
    title: 'The gate has no room for another request.',
    retryAfterS: 1,
  },
  ERR_INTERNAL: { status: 500, title: 'Internal error.' },
  // What the upstream does.
  ERR_UPSTREAM_ADDRESS: {
    status: 502,
    title: 'The upstream has an address that may not be dialled.',
  },
  ERR_UPSTREAM_UNREACHABLE: { status: 502, title: 'The upstream cannot be reached.' },
  ERR_UPSTREAM_MALFORMED: {
    status: 502,
    title: 'The upstream gave an answer that cannot be relayed.',
  },
  ERR_UPSTREAM_TIMEOUT: { status: 504, title: 'The upstream did not answer in time.' },
  // Operators: start, commands, database, bundles. These never answer a request.
  ERR_USAGE: { status: 0, title: 'The command was used wrongly.' },
  ERR_CONFIG_READ: { status: 0, title: 'The configuration cannot be read.' },
  ERR_CONFIG_KEY_UNKNOWN: { status: 0, title: 'The configuration has an unknown key.' },
  ERR_CONFIG_VALUE: { status: 0, title: 'A configuration value is not usable.' },
  ERR_CONFIG_VARIABLE: { status: 0, title: 'The configuration names a variable that is not set.' },
  ERR_CONFIG_FILE: { status: 0, title: 'A file that the configuration names cannot be used.' },
  ERR_CONFIG_RESTART: { status: 0, title: 'The change of the configuration needs a restart.' },
  ERR_LISTEN: { status: 0, title: 'The address cannot be listened on.' },
  ERR_DATABASE_UNREACHABLE: { status: 0, title: 'The database cannot be reached.' },
  ERR_DATABASE_REFUSED: { status: 0, title: 'The database refused the statement.' },
  ERR_DATABASE_SCHEMA: {
    status: 0,
    title: 'The database schema is not the one this release needs.',
  },
  ERR_DATABASE_EMBEDDED: { status: 0, title: 'The embedded PostgreSQL cannot be used.' },
  ERR_LEDGER_FULL: { status: 0, title: 'The revocation ledger is full.' },
  ERR_LEDGER_UNMATCHABLE: {
    status: 0,
    title: 'A revocation row has no predicate that this release can match.',
  },
  ERR_SNAPSHOT_FILE: { status: 0, title: 'The snapshot file of the revocations cannot be used.' },
  ERR_UNMATCHED: { status: 0, title: 'No gate can match this revocation.' },
  ERR_BUNDLE_READ: { status: 0, title: 'The bundle cannot be read.' },
  ERR_BUNDLE_LIMITS: { status: 0, title: 'The bundle is over a limit.' },
  ERR_BUNDLE_POLICY: { status: 0, title: 'The bundle holds no usable policy.' },
  ERR_BUNDLE_TRIAL: { status: 0, title: 'The bundle failed its trial run.' },
  ERR_OPA: { status: 0, title: 'The opa tool is missing or reported a failure.' },
  ERR_OUTBOUND: { status: 0, title: 'A document the gate needs cannot be fetched.' },
  ERR_NOT_FOUND: { status: 0, title: 'There is no such thing.' },
  ERR_TIMEOUT: { status: 0, title: 'It did not happen in time.' },
} as const satisfies Record<string, Entry>

export type Code = keyof typeof table

/** The closed list of codes. */
export const codes: Readonly<Record<Code, Entry>> = table

/** One of several things that are wrong. */
export interface Problem {
  readonly code: Code
  /** Of the key in the configuration, '' for the whole file. */
  readonly path: string
  readonly message: string
}

export interface GateErrorOptions {
  /** What happened underneath; logged by the gate, never sent to a client. */
  readonly cause?: unknown
  /** What an operator can do about it. */
  readonly hint?: string
  /** Overrides the table's `Retry-After` seconds. */
  readonly retryAfterS?: number
  /** What the sentence is made of, where several things are wrong. */
  readonly problems?: readonly Problem[] | undefined
}

/** The one error class of dropgate: act on `code`, show `message`, log `cause`. */
export class GateError extends Error {
  override readonly name = 'GateError'
  readonly code: Code
  readonly hint: string | undefined
  readonly retryAfterS: number | undefined
  readonly problems: readonly Problem[] | undefined

  /** @param detail One sentence for a person; defaults to the table's title. Must not hold a secret. */
  constructor(code: Code, detail?: string, options: GateErrorOptions = {}) {
    super(
      detail ?? table[code].title,
      options.cause === undefined ? undefined : { cause: options.cause },
    )
    this.code = code
    this.hint = options.hint
    this.retryAfterS = options.retryAfterS ?? codes[code].retryAfterS
    this.problems = options.problems
  }

  /** What crosses between threads: structured cloning keeps of an Error the message alone. */
  get data(): GateErrorData {
    const { code, message, hint } = this
    return hint === undefined ? { code, message } : { code, message, hint }
  }

  static from({ code, message, hint }: GateErrorData): GateError {
    return new GateError(code, message, hint === undefined ? {} : { hint })
  }

  get status(): number {
    return table[this.code].status
  }

  /** What a client may read: the table's sentence, while `message` may name what only an operator should. */
  get title(): string {
    return table[this.code].title
  }
}

export interface GateErrorData {
  readonly code: Code
  readonly message: string
  readonly hint?: string
}

/** Wraps anything thrown into a GateError, keeping one that already is. */
export function asGateError(error: unknown, code: Code = 'ERR_INTERNAL', hint?: string): GateError {
  if (error instanceof GateError) return error
  const detail =
    code === 'ERR_INTERNAL' ? undefined : error instanceof Error ? error.message : String(error)
  return new GateError(code, detail, hint === undefined ? { cause: error } : { cause: error, hint })
}
