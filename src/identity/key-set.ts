/** What the control thread, which fetches keys, tells the workers, which verify with them. */

/** The keys of one issuer, as public JWKs that passed admission. */
export interface KeySet {
  readonly issuer: string
  /** Counts changes of this issuer's set; a verified token enters the cache only if it is unchanged. */
  readonly version: number
  readonly keys: readonly Readonly<Record<string, unknown>>[]
}
