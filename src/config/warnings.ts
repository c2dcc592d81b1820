/** What a configuration may say, and its author should mean. A gate logs it, and `config check` prints it. */
import type { GateConfig, IssuerConfig } from './options.ts'
import { anyAudience } from './presets.ts'

export interface ConfigWarning {
  /** Path of the key, such as `issuers[0].tenants`. */
  readonly path: string
  readonly message: string
}

export function warningsOf({
  issuers,
  routes,
}: Pick<GateConfig, 'issuers' | 'routes'>): readonly ConfigWarning[] {
  // A route with audiences of its own asks for them, whatever the issuer says.
  const asksIssuer = routes.some(({ auth, audience }) => auth !== 'none' && audience === undefined)
  return issuers.flatMap((issuer, i) => issuerWarnings(issuer, `issuers[${i}]`, asksIssuer))
}

function issuerWarnings(
  { issuer, tenants, audience }: IssuerConfig,
  at: string,
  asksIssuer: boolean,
): readonly ConfigWarning[] {
  const found: ConfigWarning[] = []
  if (tenants === 'any')
    found.push({
      path: `${at}.tenants`,
      message: `any accepts the tokens of every tenant of ${issuer}, and any person can make a tenant; the policy must check input.principal.tenant or the issuer`,
    })
  if (asksIssuer && audience.includes(anyAudience))
    found.push({
      path: `${at}.audience`,
      message: `none accepts the tokens that ${issuer} made for other services; a service that gets one can use it here`,
    })
  return found
}
