/**
 * Issuer pattern: the name of an issuer that signs for many tenants, with `{tenantid}` where the tenant's GUID stands in
 * the claim `iss`. Microsoft Entra ID writes its issuer so in the discovery document that all tenants share. Not: a
 * wildcard; only a GUID in lower case fits, as Entra writes it.
 */

/** Which tenants of a pattern are accepted; undefined: the issuer is no pattern. */
export type Tenants = 'any' | readonly string[] | undefined

export interface NamedIssuer {
  readonly issuer: string
  readonly tenants?: Tenants
}

export const tenantPlace = '{tenantid}'

const guid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const guidWithin = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/

/** The issuer that this tenant has; also where a signing key names its issuer with `{tenantid}`. */
export function withTenant(pattern: string, tenant: string): string {
  return pattern.replace(tenantPlace, tenant)
}

/** The tenant in the name of an issuer; undefined when the name does not fit the pattern. */
export function tenantIn(pattern: string, name: string): string | undefined {
  const at = pattern.indexOf(tenantPlace)
  if (at === -1 || !name.startsWith(pattern.slice(0, at))) return undefined
  const tenant = name.slice(at, at + 36)
  return guid.test(tenant) && withTenant(pattern, tenant) === name ? tenant : undefined
}

/** True when both names are of tenants, and of different ones. The rest may differ: one tenant has a name in each version. */
export function differInTenant(one: string, other: string): boolean {
  const [tenant] = guidWithin.exec(one) ?? []
  const [another] = guidWithin.exec(other) ?? []
  return tenant !== undefined && another !== undefined && tenant !== another
}

/** The names that an issuer has in tokens, as far as they are known beforehand. */
export function namesOf({ issuer, tenants }: NamedIssuer): readonly string[] {
  if (tenants === undefined) return [issuer]
  return tenants === 'any' ? [] : tenants.map((tenant) => withTenant(issuer, tenant))
}

/**
 * Finds what belongs to the issuer of a token by its claim `iss`. A name that is written out comes before a pattern that
 * fits it. Nothing is remembered of the names that are asked for: strangers choose them.
 */
export class IssuerNames<T> {
  readonly #names = new Map<string, T>()
  readonly #patterns: { readonly pattern: string; readonly value: T }[] = []

  constructor(entries: Iterable<readonly [NamedIssuer, T]>) {
    for (const [named, value] of entries) {
      for (const name of namesOf(named)) this.#names.set(name, value)
      if (named.tenants === 'any') this.#patterns.push({ pattern: named.issuer, value })
    }
  }

  get(name: unknown): T | undefined {
    if (typeof name !== 'string') return undefined
    const known = this.#names.get(name)
    if (known !== undefined || this.#patterns.length === 0) return known
    return this.#patterns.find(({ pattern }) => tenantIn(pattern, name) !== undefined)?.value
  }
}
