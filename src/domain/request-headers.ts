/** The parsed headers of a request: `listener/headers.ts` makes them, later stages only read them. */

export interface RequestHeaders {
  /** Flat list of names and values; names in lower case, in the order received. */
  readonly pairs: readonly string[]
  /** Value of the single `Host` header. */
  readonly host: string
  /** −1 when the header is absent. */
  readonly contentLength: number
  readonly chunked: boolean
  readonly expectContinue: boolean
  /** Names that the header `Connection` lists; they are not forwarded. */
  readonly connectionNames: readonly string[]
  /** The first header name that occurs more than once and is not a list header; undefined when there is none. */
  readonly repeated: string | undefined
  /** A header with bytes above 0x7F that only some routes accept; undefined when there is none. */
  readonly nonAscii: string | undefined
}
