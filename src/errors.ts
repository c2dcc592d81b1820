/**
 * All error codes of dropgate in one table. Users and tests rely on the code, a client sees the status, and the
 * sentence is the `title` of the problem document. docs/reference/errors.md has all of them, with what to do; a test compares. The
 * cause of an error is written only to the log of the gate, never to a client.
 */

interface Entry {
  /** HTTP status of the answer; 0 for codes that never answer a request (start, commands, bundles). */
  readonly status: number
  readonly title: string
  /** Seconds for the `Retry-After` header, for errors that waiting can cure. */
  readonly retryAfterS?: number
}

const table = {
  // The request is malformed or could be read in two ways.
  ERR_TARGET_MALFORMED: { status: 400, title: 'The request target is not in canonical form.' },
  ERR_TARGET_TOO_LONG: { status: 414, title: 'The request target is too long.' },
  ERR_HOST_MALFORMED: { status: 400, title: 'The host is missing, repeated or malformed.' },
  ERR_HEADER_MALFORMED: { status: 400, title: 'A header is malformed or its name is not allowed.' },
  ERR_HEADER_REPEATED: { status: 400, title: 'A header that may appear once appears twice.' },
  ERR_HEADERS_TOO_LARGE: { status: 431, title: 'The request headers are too large.' },
  ERR_FRAMING: { status: 400, title: 'The length of the request body is ambiguous or malformed.' },
  ERR_TRANSFER_CODING: {
    status: 501,
    title: 'The transfer coding of the request is not supported.',
  },
  ERR_METHOD_UNKNOWN: { status: 501, title: 'The request method is unknown.' },
  ERR_METHOD_NOT_ALLOWED: {
    status: 405,
    title: 'The request method is not allowed on this route.',
  },
  ERR_EXPECTATION: {
    status: 417,
    title: 'The Expect header asks for something that dropgate does not support.',
  },
  ERR_UPGRADE_MALFORMED: { status: 400, title: 'The WebSocket handshake is malformed.' },
  ERR_UPGRADE_VERSION: { status: 426, title: 'Only version 13 of WebSocket is supported.' },
  ERR_BODY_TOO_LARGE: { status: 413, title: 'The request body is too large.' },
  ERR_BODY_TIMEOUT: { status: 408, title: 'The request body took too long to arrive.' },
  ERR_BODY_MALFORMED: {
    status: 400,
    title: 'The request body is malformed or could be read in two ways.',
  },
  ERR_BODY_TYPE: {
    status: 415,
    title: 'The request body has a content type or encoding that the policy cannot read.',
  },
  ERR_REQUEST_TIMEOUT: { status: 408, title: 'The request took too long to arrive.' },
  // No route accepts the request.
  ERR_HOST_UNKNOWN: { status: 421, title: 'No route serves this host.' },
  ERR_ROUTE_NOT_FOUND: { status: 404, title: 'No route serves this path.' },
  ERR_CORS_REFUSED: {
    status: 403,
    title: 'The cross-origin rules of this route do not allow the request.',
  },
  // The caller cannot be identified.
  ERR_CREDENTIAL_MISSING: { status: 401, title: 'A credential is required.' },
  ERR_CREDENTIAL_BOUND: {
    status: 401,
    title: 'Connection-bound authentication (NTLM, Negotiate) cannot pass through a proxy.',
  },
  ERR_CREDENTIAL_REPEATED: { status: 400, title: 'The request carries more than one credential.' },
  ERR_TOKEN_MALFORMED: { status: 401, title: 'The token is malformed.' },
  ERR_TOKEN_ISSUER: {
    status: 401,
    title: 'The issuer of the token is not accepted.',
  },
  ERR_TOKEN_ALGORITHM: {
    status: 401,
    title: 'The token is signed with an algorithm that is not accepted.',
  },
  ERR_TOKEN_KEY_UNKNOWN: { status: 401, title: 'The token is signed with an unknown key.' },
  ERR_TOKEN_SIGNATURE: { status: 401, title: 'The token signature is invalid.' },
  ERR_TOKEN_TYPE: { status: 401, title: 'The token is not an access token.' },
  ERR_TOKEN_CLAIMS: {
    status: 401,
    title: 'A required claim of the token is missing or out of range.',
  },
  ERR_TOKEN_AUDIENCE: { status: 401, title: 'The token is for another audience.' },
  ERR_TOKEN_BOUND: {
    status: 401,
    title: 'The token is bound to a certificate or key that this connection does not prove.',
  },
  ERR_PROOF_INVALID: {
    status: 401,
    title: 'The DPoP proof is missing, or does not fit the request.',
  },
  ERR_PROOF_REPLAYED: { status: 401, title: 'The DPoP proof was used before.' },
  ERR_PROOF_NONCE: { status: 401, title: 'The DPoP proof needs the nonce of this gate.' },
  ERR_TOKEN_EXPIRED: { status: 401, title: 'The token has expired.' },
  ERR_KEYS_UNAVAILABLE: {
    status: 503,
    title: 'The issuer keys are not available yet.',
    retryAfterS: 5,
  },
  // The access was revoked.
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
  // The web page that sends the request may not use the credential.
  ERR_ORIGIN_NOT_ALLOWED: {
    status: 403,
    title: 'This web origin may not use the credential on this route.',
  },
  // The policy denies, or cannot decide.
  ERR_POLICY_DENIED: { status: 403, title: 'The policy does not allow this request.' },
  ERR_POLICY_MISSING: { status: 503, title: 'No policy is loaded yet.', retryAfterS: 1 },
  ERR_POLICY_FAILED: {
    status: 503,
    title: 'The policy did not return a usable answer.',
    retryAfterS: 1,
  },
  ERR_POLICY_TIMEOUT: {
    status: 503,
    title: 'The policy did not decide in time.',
    retryAfterS: 1,
  },
  ERR_CALLER_SUSPENDED: {
    status: 503,
    title:
      'An evaluation of the policy for this caller did not end; the caller is refused for a while.',
    retryAfterS: 60,
  },
  // The gate cannot serve the request now.
  ERR_NOT_READY: { status: 503, title: 'The gate is not ready.', retryAfterS: 1 },
  ERR_STALE: {
    status: 503,
    title: 'The gate cannot prove that its revocations are up to date.',
    retryAfterS: 1,
  },
  ERR_OVERLOADED: {
    status: 503,
    title: 'The gate is overloaded.',
    retryAfterS: 1,
  },
  ERR_INTERNAL: { status: 500, title: 'Internal error.' },
  // The upstream failed.
  ERR_UPSTREAM_ADDRESS: {
    status: 502,
    title: 'The upstream has a network address that the configuration forbids.',
  },
  ERR_UPSTREAM_UNREACHABLE: { status: 502, title: 'The upstream cannot be reached.' },
  ERR_UPSTREAM_MALFORMED: {
    status: 502,
    title: 'The upstream sent a malformed response.',
  },
  ERR_UPSTREAM_TIMEOUT: { status: 504, title: 'The upstream did not answer in time.' },
  // Errors for operators (start, commands, database, bundles); no request is answered with them.
  ERR_USAGE: { status: 0, title: 'The command was called with wrong arguments.' },
  ERR_CONFIG_READ: { status: 0, title: 'The configuration cannot be read.' },
  ERR_CONFIG_KEY_UNKNOWN: { status: 0, title: 'The configuration has an unknown key.' },
  ERR_CONFIG_VALUE: { status: 0, title: 'A configuration value is invalid.' },
  ERR_CONFIG_VARIABLE: {
    status: 0,
    title: 'The configuration uses an environment variable that is not set.',
  },
  ERR_CONFIG_FILE: { status: 0, title: 'A file named in the configuration cannot be used.' },
  ERR_CONFIG_RESTART: { status: 0, title: 'The configuration change needs a restart.' },
  ERR_LISTEN: { status: 0, title: 'The gate cannot listen on the address.' },
  ERR_DATABASE_UNREACHABLE: { status: 0, title: 'The database cannot be reached.' },
  ERR_DATABASE_REFUSED: { status: 0, title: 'The database refused the statement.' },
  ERR_DATABASE_SCHEMA: {
    status: 0,
    title: 'The database schema does not fit this release.',
  },
  ERR_DATABASE_EMBEDDED: {
    status: 0,
    title: 'The embedded PostgreSQL cannot be started or reached.',
  },
  ERR_LEDGER_FULL: { status: 0, title: 'The revocation ledger is full.' },
  ERR_LEDGER_UNMATCHABLE: {
    status: 0,
    title: 'A revocation row has no target column that this release can match.',
  },
  ERR_SNAPSHOT_FILE: { status: 0, title: 'The snapshot file of the revocations cannot be used.' },
  ERR_KEPT_KEYS: { status: 0, title: 'The kept keys of an issuer cannot be used.' },
  ERR_UNMATCHED: { status: 0, title: 'No gate can match this revocation.' },
  ERR_BUNDLE_READ: { status: 0, title: 'The bundle cannot be read.' },
  ERR_BUNDLE_LIMITS: { status: 0, title: 'The bundle exceeds a size limit.' },
  ERR_BUNDLE_POLICY: { status: 0, title: 'The bundle has no usable policy.' },
  ERR_BUNDLE_TRIAL: { status: 0, title: 'The bundle failed its trial run.' },
  ERR_DATA_PATCH: { status: 0, title: 'A change of the data of the policy is refused.' },
  ERR_OPA: { status: 0, title: 'The opa tool is missing or reported a failure.' },
  ERR_OUTBOUND: { status: 0, title: 'A document that the gate needs cannot be fetched.' },
  ERR_NOT_FOUND: { status: 0, title: 'Not found.' },
  ERR_TIMEOUT: { status: 0, title: 'Timed out.' },
} as const satisfies Record<string, Entry>

export type Code = keyof typeof table

/** All codes with their status and sentence. */
export const codes: Readonly<Record<Code, Entry>> = table

/** One problem of several that are reported together. */
export interface Problem {
  readonly code: Code
  /**
   * Where it is: the path of a key in the configuration, '' for the whole file; `file:line` of a policy; the name of a
   * builtin that is not provided.
   */
  readonly path: string
  readonly message: string
}

export interface GateErrorOptions {
  /** The underlying error; the gate logs it and never sends it to a client. */
  readonly cause?: unknown
  /** Tells an operator what to do about the error. */
  readonly hint?: string
  /** Seconds for `Retry-After`, instead of the number in the table. */
  readonly retryAfterS?: number
  /** The single problems, if the message lists several. */
  readonly problems?: readonly Problem[] | undefined
}

/** The only error class of dropgate: callers act on `code`, show `message` and log `cause`. */
export class GateError extends Error {
  override readonly name = 'GateError'
  readonly code: Code
  readonly hint: string | undefined
  readonly retryAfterS: number | undefined
  readonly problems: readonly Problem[] | undefined

  /**
   * @param detail One sentence for the reader of the error; the title of the code by default. Must not hold a secret.
   */
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

  /**
   * The error in a form that can be sent between threads: structured cloning would keep only the message of an Error.
   */
  get data(): GateErrorData {
    const { code, message, hint, problems } = this
    return {
      code,
      message,
      ...(hint === undefined ? {} : { hint }),
      ...(problems === undefined ? {} : { problems }),
    }
  }

  static from({ code, message, ...options }: GateErrorData): GateError {
    return new GateError(code, message, options)
  }

  get status(): number {
    return table[this.code].status
  }

  /** The sentence for a client, from the table. `message` may name things that only an operator should see. */
  get title(): string {
    return table[this.code].title
  }
}

export interface GateErrorData {
  readonly code: Code
  readonly message: string
  readonly hint?: string
  readonly problems?: readonly Problem[]
}

/** Wraps a thrown value in a GateError; a GateError is returned unchanged. */
export function asGateError(error: unknown, code: Code = 'ERR_INTERNAL', hint?: string): GateError {
  if (error instanceof GateError) return error
  const detail =
    code === 'ERR_INTERNAL' ? undefined : error instanceof Error ? error.message : String(error)
  return new GateError(code, detail, hint === undefined ? { cause: error } : { cause: error, hint })
}
