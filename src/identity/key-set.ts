/** What the control thread, which fetches keys, sends to the workers, which verify tokens with them. */

/** The keys of one issuer, as public JWKs that admit.ts accepted. */
export interface KeySet {
  readonly issuer: string
  /**
   * Number of changes of this issuer's key set. A verified token enters the cache only if the number has not changed
   * meanwhile.
   */
  readonly version: number
  readonly keys: readonly Readonly<Record<string, unknown>>[]
}
