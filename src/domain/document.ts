/** Document: a text that an issuer publishes, its metadata or its key set. Not: a bundle, which is larger and signed. */

export interface DocumentRequest {
  readonly maxBytes: number
  /** For everything, from the name to the last byte. */
  readonly timeoutMs: number
  /** Headers to send; their values are secret. */
  readonly headers: Readonly<Record<string, string>>
  /** `etag` of the text that the caller has: the answer may then be `unchanged`. */
  readonly etag?: string | undefined
  /** PEM text of the authorities for the server's certificate, in place of those of the system. */
  readonly ca?: string | undefined
  /** URL of a proxy for CONNECT; it may hold a password. */
  readonly proxy?: string | undefined
  /** Networks that may be reached over plain http, beside this machine. */
  readonly httpNetworks?: readonly string[] | undefined
}

interface Told {
  readonly etag: string | undefined
  /** How long the answer may be used, in ms, by `cache-control` and `age`; undefined where it does not say. */
  readonly freshMs: number | undefined
}

export type DocumentAnswer =
  | (Told & { readonly kind: 'text'; readonly text: string })
  | (Told & { readonly kind: 'unchanged' })
  /** Status 404 or 410. */
  | { readonly kind: 'absent'; readonly status: number }

/** @throws GateError ERR_OUTBOUND */
export type FetchDocument = (url: string, request: DocumentRequest) => Promise<DocumentAnswer>
