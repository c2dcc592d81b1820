/**
 * Claim names and token types of known identity providers. A preset is filled in before the defaults; options written
 * in the file win over it. docs/providers.md says for each what to set at the provider, and what its tokens cannot do.
 */

interface Preset {
  readonly claims: Readonly<Record<string, string>>
  readonly token_types: 'at+jwt' | 'any' | 'id'
  readonly access_token_nonce?: 'allow'
  readonly max_token_lifetime?: string
  readonly clock_skew?: string
  readonly algorithms?: readonly string[]
  readonly from?: readonly string[]
  /** Where the keys are, for a provider without discovery: a URL, or a path below the issuer. */
  readonly jwks_uri?: string
}

export const presets = {
  keycloak: {
    claims: { client: '/azp', groups: '/groups' },
    token_types: 'any',
    // Keycloak writes it into access tokens before release 25. Its ID tokens say `typ: ID` in their claims.
    access_token_nonce: 'allow',
  },
  entra: {
    claims: {
      token: '/uti',
      tenant: '/tid',
      groups: '/groups',
      device: '/deviceid',
      scopes: '/scp',
    },
    token_types: 'any',
    // Sessions with continuous access evaluation have tokens of up to 28 hours.
    max_token_lifetime: '29h',
  },
  okta: { claims: { client: '/cid', groups: '/groups', scopes: '/scp' }, token_types: 'any' },
  auth0: { claims: { tenant: '/org_id' }, token_types: 'any' },
  // Access tokens have no `aud`; the client is what they are for.
  cognito: {
    claims: {
      audience: '/client_id',
      client: '/client_id',
      session: '/origin_jti',
      groups: '/cognito:groups',
    },
    token_types: 'any',
  },
  google: { claims: { client: '/azp' }, token_types: 'id' },
  firebase: { claims: { tenant: '/firebase/tenant' }, token_types: 'id' },
  supabase: { claims: { session: '/session_id' }, token_types: 'any' },
  github: { claims: { tenant: '/repository_owner', client: '/repository' }, token_types: 'any' },
  kubernetes: { claims: { tenant: '/kubernetes.io/namespace' }, token_types: 'any' },
  zitadel: { claims: { tenant: '/urn:zitadel:iam:user:resourceowner:id' }, token_types: 'any' },
  authentik: {
    claims: { client: '/azp', groups: '/groups' },
    token_types: 'any',
    access_token_nonce: 'allow',
  },
  // Access tokens look like ID tokens but for `at_hash`.
  dex: {
    claims: { groups: '/groups' },
    token_types: 'any',
    access_token_nonce: 'allow',
  },
  hydra: { claims: { scopes: '/scp' }, token_types: 'any' },
  // Session tokens have no `aud`; the page that they were made for is in `azp`.
  clerk: {
    claims: { audience: '/azp', session: '/sid', tenant: '/o/id' },
    token_types: 'any',
  },
  duende: { claims: {}, token_types: 'at+jwt' },
  // What an identity-aware proxy in front adds to each request. Google asks its readers to allow for 30 s.
  'google-iap': {
    claims: { device: '/google/device_id' },
    token_types: 'any',
    algorithms: ['ES256'],
    from: ['header:x-goog-iap-jwt-assertion'],
    jwks_uri: 'https://www.gstatic.com/iap/verify/public_key-jwk',
    clock_skew: '30s',
  },
  'cloudflare-access': {
    claims: {},
    token_types: 'any',
    algorithms: ['RS256'],
    from: ['header:cf-access-jwt-assertion'],
    jwks_uri: '/cdn-cgi/access/certs',
  },
} as const satisfies Record<string, Preset>

export type PresetName = keyof typeof presets

export const presetNames = Object.keys(presets) as PresetName[]

/** The form in which the program has `audience: none`: one audience that stands for every one. */
export const anyAudience = '*'

/** Returns the issuer as written, plus the options of its preset that the file does not set. */
export function withPreset(issuer: unknown): unknown {
  if (typeof issuer !== 'object' || issuer === null || Array.isArray(issuer)) return issuer
  const written = { ...issuer } as Record<string, unknown>
  if (written.audience === 'none') written.audience = [anyAudience]
  const { preset, claims } = written
  if (typeof preset !== 'string' || !Object.hasOwn(presets, preset)) return written
  if (claims !== undefined && (typeof claims !== 'object' || claims === null)) return written
  const { claims: standard, jwks_uri: place, ...rest } = presets[preset as PresetName] as Preset
  const keys = keysAt(place, written)
  return {
    ...rest,
    ...(keys === undefined ? {} : { jwks_uri: keys }),
    ...written,
    claims: { ...standard, ...(claims as object | undefined) },
  }
}

function keysAt(
  place: string | undefined,
  { issuer, jwks_file: file }: Record<string, unknown>,
): string | undefined {
  if (place === undefined || file !== undefined) return undefined
  if (!place.startsWith('/')) return place
  if (typeof issuer !== 'string') return undefined
  return `${issuer.replace(/\/$/, '')}${place}`
}
