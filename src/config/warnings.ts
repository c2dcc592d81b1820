/** What a configuration may say, and its author should mean. A gate logs it, and `config check` prints it. */
import type { GateConfig } from './options.ts'

export interface ConfigWarning {
  /** Path of the key, such as `issuers[0].tenants`. */
  readonly path: string
  readonly message: string
}

export function warningsOf({ issuers }: Pick<GateConfig, 'issuers'>): readonly ConfigWarning[] {
  return issuers.flatMap(({ issuer, tenants }, i) =>
    tenants === 'any'
      ? {
          path: `issuers[${i}].tenants`,
          message: `any accepts the tokens of every tenant of ${issuer}, whoever made it; the policy must check input.principal.tenant or the issuer`,
        }
      : [],
  )
}
