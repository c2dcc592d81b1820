/** Open exchanges as operators see them: `/v1/live`, `dropgate live` and `dropgate cut`. */

/** One open exchange, as operators see it. */
export interface LiveEntry {
  /** The decision id. */
  readonly id: string
  readonly worker: number
  readonly route: string
  readonly protocol: 'http' | 'websocket'
  readonly issuer: string | null
  readonly subject: string | null
  readonly client_id: string | null
  readonly session_id: string | null
  readonly address: string | null
  readonly age_ms: number
  readonly bytes_in: number
  readonly bytes_out: number
}

/** Every given member must equal that of the exchange. */
export type LiveFilter = Partial<
  Readonly<Record<'issuer' | 'subject' | 'client_id' | 'route' | 'protocol', string>>
>
