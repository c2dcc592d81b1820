/** Says in words whether an entrypoint of a policy reads request bodies, for status, logs and `dropgate build`. */
import type { PolicyUsage, UsedField } from './input-usage.ts'

/** By entrypoint: `read`, `not read`, or `unknown: …`. */
export type BodyUses = Readonly<Record<string, string>>

/** @param entrypoints Numbers of the module's entrypoints, by name. */
export function bodyUsesOf(
  usage: PolicyUsage,
  entrypoints: ReadonlyMap<string, number>,
  decisions: Iterable<string>,
): BodyUses {
  const uses: Record<string, string> = {}
  for (const decision of decisions) {
    const found = usage.entrypoints.get(entrypoints.get(decision) ?? -1)
    uses[decision] =
      found === undefined
        ? 'unknown: the policy is too large to be followed, so everything counts as read'
        : bodyUseOf(found.input)
  }
  return uses
}

/** The members above the body. */
const above = ['attributes', 'request', 'http'] as const

function bodyUseOf(input: UsedField): string {
  if (input.fields.has('parsed_body')) return 'read'
  let at: UsedField | undefined = input
  let name = 'input'
  for (const next of [...above, 'body']) {
    if (at.whole)
      return `unknown: a rule uses ${name} as a whole, or a member of it whose name it computes`
    at = at.fields.get(next)
    name += `.${next}`
    if (at === undefined) return 'not read'
  }
  return 'read'
}

/** @returns One sentence for each entrypoint of which it is not known whether it reads bodies. */
export function bodyWarnings(uses: BodyUses): string[] {
  return Object.entries(uses)
    .filter(([, use]) => use.startsWith('unknown'))
    .map(
      ([decision, use]) =>
        `whether ${decision} reads request bodies is ${use}. So its routes collect bodies before they decide, up to limits.policy_body. Where the policy needs no bodies, write \`policy_body: withhold\` at the route, or let the rules name the members that they read`,
    )
}
