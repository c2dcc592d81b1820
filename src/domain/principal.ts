/**
 * Principal: the verified caller of an exchange. Made once per token by `identity/token`, shared by every
 * exchange that carries that token, and never changed but for `cleanAtVersion`. Not: user, account.
 */
export interface Principal {
  readonly issuer: string
  readonly subject: string
  readonly sessionId: string | undefined
  readonly tokenId: string | undefined
  readonly clientId: string | undefined
  readonly tenant: string | undefined
  readonly scopes: readonly string[]
  /** Claim `iat` in seconds, as given: an integer covers its whole second. */
  readonly issuedAtS: number
  /** Claim `exp` in seconds. */
  readonly expiresAtS: number
  readonly claims: Readonly<Record<string, unknown>>
  /** The text of `input.principal`, serialised once. */
  readonly json: string
  /** Revocation keys, four 32-bit words each (little-endian reading of the 16 bytes), see `domain/revocation`. */
  readonly keys: Uint32Array
  /** The issuer's `clock_skew` in ms, added to cutoffs that Postgres stamped. */
  readonly clockSkewMs: number
  /** `exclusive` lets the ambiguous second live. */
  readonly boundary: 'inclusive' | 'exclusive'
  /** Ledger version at which a look-up last found nothing; -1 before the first. Not covered: network predicates. */
  cleanAtVersion: number
}
