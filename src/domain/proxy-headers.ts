/**
 * Request headers that are never taken from a client: what the gate itself writes, and what upstreams believe from the
 * proxy in front of them. Names are exact; `-*` at the end stands for a whole family, where one product owns the
 * beginning. A beginning that apps use too (`x-auth-`, `x-user-`) is no family: `x-auth-token` belongs to the app.
 * docs/reference/removed-headers.md is written from these two lists. Lower case.
 */

export interface ProxyHeaders {
  /** Whose headers they are, for the documentation. */
  readonly of: string
  readonly names: readonly string[]
}

/** No route passes these: they would contradict what the gate says, or what it decided on. */
export const neverPassed: readonly ProxyHeaders[] = [
  { of: 'dropgate', names: ['x-dropgate-*'] },
  {
    of: 'the way of the request: address, scheme, host, path',
    names: [
      ...['forwarded', 'x-forwarded-*', 'x-original-*', 'x-real-ip', 'x-client-ip', 'x-rewrite-url'],
      ...['x-cluster-client-ip', 'true-client-ip', 'proxy-client-ip', 'client-ip', 'x-envoy-*'],
      ...['cf-connecting-ip', 'cf-connecting-ipv6', 'cf-pseudo-ipv4', 'fastly-client-ip'],
      ...['fly-client-ip', 'x-azure-clientip', 'x-azure-socketip', 'x-appengine-user-ip'],
      ...['do-connecting-ip', 'x-nf-client-connection-ip', 'x-vercel-forwarded-for'],
    ],
  },
  {
    of: 'another method than the one decided on',
    names: ['x-http-method', 'x-http-method-override', 'x-method-override'],
  },
  { of: 'this connection alone', names: ['expect', 'http2-settings'] },
] // biome-ignore format: a table

/** Who the caller is, as other proxies say it. A route may pass some of them (`forward.pass`). */
export const identityHeaders: readonly ProxyHeaders[] = [
  { of: 'client certificates (RFC 9440)', names: ['client-cert', 'client-cert-chain'] },
  {
    of: 'client certificates of nginx, HAProxy, Apache, Traefik',
    names: [
      ...['ssl-client-*', 'x-ssl-*', 'x-client-cert', 'x-client-certificate', 'x-client-verify'],
      ...['x-client-dn', 'x-client-s-dn', 'x-tls-client-cert', 'x-arr-clientcert'],
    ],
  },
  {
    of: 'oauth2-proxy',
    names: [
      ...['x-auth-request-*'],
    ],
  },
  {
    of: 'Authelia, tinyauth and others that follow CGI',
    names: ['remote-user', 'remote-groups', 'remote-name', 'remote-email', 'remote-sub'],
  },
  { of: 'authentik', names: ['x-authentik-*'] },
  { of: 'Pomerium', names: ['x-pomerium-jwt-assertion', 'x-pomerium-jwt-assertion-for', 'x-pomerium-claim-*'] },
  {
    of: 'Keycloak Gatekeeper, and examples for nginx and Traefik',
    names: [
      ...['x-auth-user', 'x-auth-userid', 'x-auth-username', 'x-auth-email', 'x-auth-name'],
      ...['x-auth-groups', 'x-auth-roles', 'x-auth-subject', 'x-auth-audience', 'x-auth-expiresin'],
    ],
  },
  { of: 'Ory Oathkeeper', names: ['x-user'] },
  {
    of: 'Kong, APISIX, WSO2',
    names: [
      ...['x-consumer-*', 'x-authenticated-*', 'x-credential-identifier', 'x-credential-username'],
      ...['x-anonymous-consumer', 'x-userinfo', 'x-jwt-assertion'],
    ],
  },
  {
    of: 'Google Cloud: IAP, App Engine, API Gateway, Endpoints',
    names: [
      ...['x-goog-authenticated-user-*', 'x-goog-iap-jwt-assertion', 'x-appengine-user-*'],
      ...['x-appengine-inbound-appid', 'x-endpoint-api-userinfo', 'x-apigateway-api-userinfo'],
    ],
  },
  {
    of: 'Cloudflare Access',
    names: ['cf-access-authenticated-user-email', 'cf-access-jwt-assertion'],
  },
  { of: 'AWS Application Load Balancer', names: ['x-amzn-oidc-*', 'x-amzn-mtls-*'] },
  {
    of: 'Azure App Service',
    names: ['x-ms-client-principal', 'x-ms-client-principal-*', 'x-ms-token-*'],
  },
  {
    of: 'Tailscale',
    names: [
      ...['tailscale-user-*', 'tailscale-user', 'tailscale-login', 'tailscale-name'],
      ...['tailscale-tailnet', 'tailscale-profile-picture', 'tailscale-app-capabilities'],
    ],
  },
  { of: 'Teleport', names: ['teleport-jwt-assertion'] },
  { of: 'Linkerd', names: ['l5d-client-id', 'l5d-remote-ip', 'l5d-dst-override'] },
  { of: 'ngrok', names: ['ngrok-auth-*'] },
  { of: 'Vouch', names: ['x-vouch-*'] },
  {
    of: 'caddy-security',
    names: ['x-token-subject', 'x-token-user-name', 'x-token-user-email', 'x-token-user-roles'],
  },
  { of: 'Kubernetes, in front of an API server', names: ['x-remote-*'] },
  { of: 'Grafana, Gitea and others with a proxy for sign-in', names: ['x-webauth-*'] },
  { of: 'mod_auth_openidc', names: ['oidc-claim-*', 'oidc-access-token', 'oidc-id-token', 'oidc-id-token-payload'] },
  { of: 'Shibboleth', names: ['shib-*'] },
  {
    of: 'IBM, Oracle, SiteMinder and WebLogic',
    names: [
      ...['iv-user', 'iv-user-l', 'iv-groups', 'iv-creds', 'oam-remote-user', 'sm-user'],
      ...['sm-userdn', 'sm-universalid', 'wl-proxy-client-cert', 'wl-proxy-client-ip', 'wl-proxy-ssl'],
    ],
  },
] // biome-ignore format: a table

/** A test for the names of some lists, made once: it runs for every header of every request. */
export function headerTest(lists: readonly ProxyHeaders[]): (name: string) => boolean {
  const all = lists.flatMap(({ names }) => names)
  const exact = new Set(all.filter((name) => !name.endsWith('-*')))
  const beginnings = all.filter((name) => name.endsWith('-*')).map((name) => name.slice(0, -2))
  const family = new RegExp(`^(?:${beginnings.join('|')})(?:-|$)`)
  // Most names begin like no family, so that most are looked up once and no more.
  const first = new Uint8Array(128)
  for (const beginning of beginnings) first[beginning.charCodeAt(0)] = 1
  return (name) => exact.has(name) || (first[name.charCodeAt(0)] === 1 && family.test(name))
}

/** True for a header that a route may pass (`forward.pass`). */
export const isIdentityHeader = headerTest(identityHeaders)
