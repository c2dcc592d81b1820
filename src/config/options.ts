/**
 * Contract of the configuration while it is being written; see config/load.ts.
 * Keys are those of dropgate.yaml; durations are ms, sizes are bytes.
 */
export type Ms = number
export type Bytes = number

export interface ListenConfig {
  readonly host: string
  readonly port: number
}
export interface IssuerConfig {
  readonly issuer: string
  readonly audience: readonly string[]
  readonly algorithms: readonly string[]
  readonly discovery: boolean // true when neither jwks_uri nor jwks_file is given
  readonly jwks_uri: string | undefined
  readonly jwks_file: string | undefined // absolute path
  readonly claims: {
    readonly tenant?: string
    readonly session: string
    readonly client?: string
    readonly scopes?: string
  }
  readonly token_types: 'at+jwt' | 'any' // any: legacy JWT mode (still refuses ID tokens etc.)
  readonly max_token_lifetime: Ms
  readonly clock_skew: Ms
  readonly boundary: 'inclusive' | 'exclusive'
  readonly keys_refresh: Ms // background refresh interval (5m)
  readonly keys_cooldown: Ms // between fetches for unknown kid, also after failures (30s)
  readonly keys_max_stale: Ms // last good is used this long (24h)
}
export interface RouteConfig {
  readonly name: string
  readonly host: string | undefined
  readonly path: string
  readonly upstream: string // origin, http://host:port or https://
  readonly methods: readonly string[] | undefined
  readonly auth: 'required' | 'none'
  readonly audience: readonly string[] | undefined
  readonly decision: string // entrypoint; from policy.decision by default
  readonly stale: 'deny' | 'allow'
  readonly labels: Readonly<Record<string, string>>
  readonly timeouts: { readonly connect: Ms; readonly headers: Ms; readonly idle: Ms }
  readonly forward: {
    readonly authorization: 'strip' | 'keep'
    readonly identity: 'headers' | 'none'
  }
  readonly repeated_headers: 'refuse' | 'join'
  readonly encoded_slashes: 'refuse' | 'pass'
  readonly matrix_parameters: 'refuse' | 'pass'
  readonly max_connections: number // per worker, to this upstream origin
}
export interface GateConfig {
  readonly listen: readonly ListenConfig[]
  readonly admin: {
    readonly host: string
    readonly port: number
    readonly token_file: string
    readonly metrics_open: boolean
  }
  readonly database:
    | {
        readonly embedded: true
        readonly directory: string
        readonly schema: string
        readonly role_prefix: string
      }
    | {
        readonly embedded: false
        readonly url: string
        readonly cli_url: string
        readonly migrate_url: string
        readonly schema: string
        readonly role_prefix: string
      }
  readonly issuers: readonly IssuerConfig[]
  readonly policy: {
    readonly bundles: string
    readonly decision: string
    readonly vet_timeout: Ms
    readonly settle: Ms
    readonly max_memory: Bytes
    readonly max_bundle: Bytes
    readonly max_unpacked: Bytes
  }
  readonly revocation: {
    readonly max_staleness: Ms
    readonly hard_stop: Ms
    readonly tick: Ms
    readonly spare: number /* rows of room beyond the loaded ones */
  }
  readonly decision_log: { readonly sink: 'stdout' } | { readonly file: string }
  readonly routes: readonly RouteConfig[]
  readonly workers: number // auto resolved
  readonly drain_timeout: Ms
  readonly limits: {
    readonly header_bytes: Bytes
    readonly headers: number
    readonly target_bytes: Bytes
    readonly body_bytes: Bytes
    readonly header_timeout: Ms
    readonly request_timeout: Ms
    readonly connections: number /* per worker */
    readonly token_cache: Bytes
  }
  readonly labels: Readonly<Record<string, string>> // decision-log labels, besides id and version
}
