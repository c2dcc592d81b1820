/** What the tests set at a real identity provider (oidc-provider) in the same way. */

/** A client that gets tokens for itself. */
export const clientOf = (id: string, over: object = {}) => ({
  client_id: id,
  client_secret: 'a-secret',
  id_token_signed_response_alg: 'ES256' as const,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  ...over,
})

/** Access tokens for `api`, in JWT form (RFC 9068). */
export const jwtAccessTokens = {
  enabled: true,
  getResourceServerInfo: () => ({
    scope: 'orders:read',
    audience: 'api',
    accessTokenFormat: 'jwt' as const,
    accessTokenTTL: 600,
    jwt: { sign: { alg: 'ES256' as const } },
  }),
}
