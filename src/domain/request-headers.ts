/** The headers of a request in their one reading: `listener/headers.ts` makes them, later stages only read them. */

export interface RequestHeaders {
  /** Flat name, value list; names lower-case, in the order received. */
  readonly pairs: readonly string[]
  /** Value of the only `Host`. */
  readonly host: string
  /** −1 where there is none. */
  readonly contentLength: number
  readonly chunked: boolean
  readonly expectContinue: boolean
  /** Names that `Connection` lists: not forwarded. */
  readonly connectionNames: readonly string[]
  /** A name that came more than once and is not one of the lists that may. */
  readonly repeated: string | undefined
}
