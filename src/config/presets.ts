/**
 * Claim names and token types of known identity providers. A preset is filled in before the defaults; options written
 * in the file win over it. Okta and Auth0 put no session id into access tokens unless a rule or action adds `sid`.
 */

interface Preset {
  readonly claims: Readonly<Record<string, string>>
  readonly token_types: 'at+jwt' | 'any'
}

export const presets = {
  keycloak: { claims: { client: '/azp', groups: '/groups' }, token_types: 'any' },
  entra: {
    claims: {
      token: '/uti',
      tenant: '/tid',
      groups: '/groups',
      device: '/deviceid',
      scopes: '/scp',
    },
    token_types: 'any',
  },
  okta: { claims: { client: '/cid', groups: '/groups', scopes: '/scp' }, token_types: 'any' },
  auth0: { claims: { tenant: '/org_id' }, token_types: 'any' },
} as const satisfies Record<string, Preset>

export type PresetName = keyof typeof presets

/** Returns the issuer as written, plus the options of its preset that the file does not set. */
export function withPreset(issuer: unknown): unknown {
  if (typeof issuer !== 'object' || issuer === null || Array.isArray(issuer)) return issuer
  const written = issuer as Record<string, unknown>
  const { preset, claims } = written
  if (typeof preset !== 'string' || !Object.hasOwn(presets, preset)) return issuer
  if (claims !== undefined && (typeof claims !== 'object' || claims === null)) return issuer
  const { claims: standard, token_types } = presets[preset as PresetName]
  return { token_types, ...written, claims: { ...standard, ...(claims as object | undefined) } }
}
