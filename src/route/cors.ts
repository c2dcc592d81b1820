/**
 * Cross-origin rules of one route (https://fetch.spec.whatwg.org/#http-cors-protocol). A preflight request is
 * answered by these rules alone: it carries no credential, so the policy could not decide on it. The request that
 * follows is decided like any other; the rules only tell the browser which pages may read the response.
 */
import type { RouteConfig } from '../config/options.ts'

export type CorsRules = NonNullable<RouteConfig['cors']>

/** Returns headers for the response as a flat list of names and values; they do not depend on the decision. */
export function corsHeaders(rules: CorsRules, origin: string | undefined): readonly string[] {
  // The response depends on Origin even if the request has none: a cache must not give one origin's response to
  // another.
  const headers = anyone(rules) ? [] : ['vary', 'Origin']
  if (origin === undefined || !allows(rules, origin)) return headers
  pushOrigin(headers, rules, origin)
  if (rules.expose !== undefined) {
    headers.push('access-control-expose-headers', rules.expose.join(', '))
  }
  return headers
}

/** @returns Headers of the response, or undefined if the rules do not allow the request. */
export function preflightHeaders(
  rules: CorsRules,
  methods: readonly string[],
  asked: {
    readonly origin: string
    readonly method: string
    readonly headers: string | undefined
  },
): readonly string[] | undefined {
  if (!allows(rules, asked.origin)) return undefined
  if (!(rules.methods ?? methods).includes(asked.method)) return undefined
  const allowed = new Set((rules.headers ?? []).map((name) => name.toLowerCase()))
  for (const name of (asked.headers ?? '').split(',')) {
    const lower = name.trim().toLowerCase()
    if (lower !== '' && !allowed.has(lower)) return undefined
  }
  const headers = [
    ...['vary', 'Origin, Access-Control-Request-Method, Access-Control-Request-Headers'],
    ...['access-control-allow-methods', (rules.methods ?? methods).join(', ')],
    ...['access-control-max-age', String(Math.floor(rules.max_age / 1000))],
  ]
  if (rules.headers !== undefined)
    headers.push('access-control-allow-headers', rules.headers.join(', '))
  pushOrigin(headers, rules, asked.origin)
  return headers
}

function pushOrigin(headers: string[], rules: CorsRules, origin: string): void {
  headers.push('access-control-allow-origin', anyone(rules) ? '*' : origin)
  if (rules.credentials) headers.push('access-control-allow-credentials', 'true')
}

function anyone(rules: CorsRules): boolean {
  return rules.origins.includes('*')
}

/** Compares whole origins in the form in which browsers write them: no prefix, suffix or pattern. */
function allows(rules: CorsRules, origin: string): boolean {
  return anyone(rules) || rules.origins.includes(origin)
}
