/**
 * The path and host of a route as an operator writes them -> what the table compares with. What no request can have,
 * and what looks like a pattern of another program, is refused with the reason and with what to write in its place:
 * otherwise a route stands in the configuration and never matches.
 */
import { isIPv6 } from 'node:net'
import { domainToASCII } from 'node:url'
import type { RouteConfig } from '../config/options.ts'
import type { Rewrite } from './rewrite.ts'
import {
  checkTarget,
  parseRequestTarget,
  readAuthority,
  type Target,
  type TargetRules,
} from './target.ts'

/** What is wrong and what to write; `readRoutePath` and `readRouteHost` return it as a text. */
type Problem = string

export interface RoutePath {
  /** True for `=/path`: exactly this path. */
  readonly exact: boolean
  readonly segments: readonly string[]
}

type PathRules = Pick<RouteConfig, 'path'> & TargetRules

export function readRoutePath(route: PathRules): RoutePath | Problem {
  const exact = route.path.startsWith('=')
  const path = exact ? route.path.slice(1) : route.path
  const shown = JSON.stringify(path)
  const problem = patternProblem(path)
  if (problem !== undefined) return `${shown} ${problem}`
  const target = parse(path)
  if (target === undefined) return `${shown} ${malformedProblem(path)}`
  if (target.path !== path)
    return `${shown} is not how a request has this path; write ${target.path}`
  if (target.matrix) {
    return `${shown} has parameters behind a semicolon, which a route does not compare; write ${path.replace(/(?:;|%3B)[^/]*/g, '') || '/'}`
  }
  try {
    checkTarget(target, route)
  } catch {
    return `${shown} has an encoded / or %, and this route refuses every request with one; add encoded_slashes: pass to the route`
  }
  if (!exact && target.segments.at(-1) === '')
    return `${path} ends with a slash; write ${path.replace(/\/+$/, '')}, which covers every path below it`
  return { exact, segments: target.segments }
}

/** Characters that no path holds, and that regular expressions and templates of other programs do. */
const ofPatterns = /[\^|\\[\]{}<>]/

/** Finds what is a pattern elsewhere. Here a path is a prefix, compared by whole segments. */
function patternProblem(path: string): Problem | undefined {
  const query = path.search(/[?#]/)
  if (query !== -1)
    return `has a ${path[query] === '?' ? 'query' : 'fragment'}, and a route compares the path alone; write ${path.slice(0, query)}`
  const segments = path.split('/').slice(1)
  const odd = (test: RegExp): number => segments.findIndex((segment) => test.test(segment))
  const wild = odd(/\*|^\.\+$/)
  const place = odd(/^:|^\{.*\}$|^<.*>$/)
  const regex = odd(new RegExp(`${ofPatterns.source}|\\$$`))
  const at = [wild, place, regex].filter((index) => index !== -1).sort((a, b) => a - b)[0]
  if (at === undefined) return undefined
  const before = `/${segments.slice(0, at).join('/')}`
  const write = `write ${before}, which covers every path below it`
  const literal = (text: string): string => ` (for the character ${text} itself: ${encode(text)})`
  const segment = segments[at]!
  if (at === place)
    return `has the placeholder ${segment}, and a path is no template; ${write}${segment.startsWith(':') ? literal(':') : ''}`
  if (at === wild)
    return `has a wildcard, and a path is a prefix of whole segments; ${write}${segment.includes('*') ? literal('*') : ''}`
  return `looks like a regular expression, and a path is a prefix of whole segments; ${write}${segment.endsWith('$') ? literal('$') : ''}`
}

function malformedProblem(path: string): Problem {
  if (path.includes('//')) return `has an empty segment; write ${path.replace(/\/{2,}/g, '/')}`
  const dots = /\/(?:\.|%2e){1,2}(?:\/|$)/i.test(path)
  const better = dots ? new URL(path, 'http://a').pathname : encode(path)
  const what = dots
    ? 'has a segment . or .., which every request with one is refused for'
    : 'is not a path that a request can have'
  const usable = parse(better)?.path === better
  return `${what}; write ${usable ? better : 'for example /orders, or =/orders for exactly that path'}`
}

/** With every character percent-encoded that a path cannot hold, and those of patterns. */
function encode(text: string): string {
  return text.replace(
    /[^A-Za-z0-9\-._~!&'()+,;=@/%]/gu,
    (char) => `%${Buffer.from(char).toString('hex').toUpperCase().match(/../g)!.join('%')}`,
  )
}

function parse(path: string): Target | undefined {
  try {
    const target = parseRequestTarget('GET', path, 'localhost', { scheme: 'http', maxBytes: 4096 })
    return target.doubt === undefined ? target : undefined
  } catch {
    return undefined
  }
}

export interface RouteHost {
  /** True for `*.example.com`. */
  readonly wild: boolean
  readonly host: string
}

export function readRouteHost(pattern: string): RouteHost | Problem {
  const wild = pattern.startsWith('*.')
  const name = wild ? pattern.slice(2) : pattern
  const shown = JSON.stringify(pattern)
  if (pattern === '*')
    return `${shown} is no host name; leave host out: such a route serves every host that no other route names`
  if (name.includes('*'))
    return `${shown} has a * that is not its first label; write for example *.example.com, and one route for each name that differs inside`
  try {
    const { host, authority } = readAuthority(name, 'http')
    const bare = host.includes(':') ? `[${host}]` : host
    if (name === host || name === bare) return { wild, host }
    if (authority !== name || name.startsWith('[')) return hostProblem(shown, wild, bare)
    return `${shown} has a port, and a host is compared without it; write ${wild ? '*.' : ''}${bare}`
  } catch {
    return hostProblem(shown, wild, plainHost(name))
  }
}

function hostProblem(shown: string, wild: boolean, better: string | undefined): Problem {
  const write =
    better === undefined
      ? 'for example api.example.com or *.example.com'
      : `${wild ? '*.' : ''}${better}`
  return `${shown} is not a host name in lower case, without scheme, port, path or final dot; write ${write}`
}

/** The host name in a URL or in another spelling. */
function plainHost(text: string): string | undefined {
  if (isIPv6(text)) return `[${text}]`
  const [, bare = ''] = /^(?:[a-z][a-z0-9+.-]*:\/\/)?([^/?#:@]*)/i.exec(text) ?? []
  const host = domainToASCII(bare)
  try {
    return host === '' || readAuthority(host, 'http').host !== host ? undefined : host
  } catch {
    return undefined
  }
}

/** Reads `forward.host`: what the upstream is told in place of the request's host. */
export function readSentHost({ forward, upstream }: Pick<RouteConfig, 'forward' | 'upstream'>): {
  readonly host?: string
  readonly problem?: Problem
} {
  const { host } = forward
  if (host === 'keep') return {}
  const { host: origin, protocol } = new URL(upstream)
  if (host === 'upstream') {
    return origin === ''
      ? { problem: 'a Unix socket has no host; write keep, or a name such as app.internal' }
      : { host: origin }
  }
  try {
    const { authority } = readAuthority(host, protocol === 'https:' ? 'https' : 'http')
    if (authority === host) return { host }
    return { problem: `${host} is not how a host is written; write ${authority}` }
  } catch {
    return {
      problem: `${host} is malformed; expected keep, upstream, or a name such as app.internal`,
    }
  }
}

/** Reads `strip_prefix` and `base_path`. */
export function readRewrite(
  config: PathRules & Pick<RouteConfig, 'strip_prefix' | 'base_path'>,
  { segments }: RoutePath,
): { readonly rewrite?: Rewrite; readonly problem?: { key: string; message: Problem } } {
  const { strip_prefix: strip, base_path: base = '' } = config
  if (strip && segments.length === 0) {
    const message = 'there is nothing to cut off of the path /; leave it out'
    return { problem: { key: 'strip_prefix', message } }
  }
  const message = base === '' ? undefined : basePathProblem(base)
  if (message !== undefined) return { problem: { key: 'base_path', message } }
  if (!strip && base === '') return {}
  const prefix = strip ? config.path.replace(/^=|\/$/g, '') : ''
  return { rewrite: { stripped: strip ? segments.length : 0, base, prefix } }
}

function basePathProblem(base: string): Problem | undefined {
  const target = parse(base)
  const sound = target?.path === base && target.query === null && !target.matrix
  return sound && !target.encodedSlash
    ? undefined
    : `${JSON.stringify(base)} is not how a request has a path; expected for example /v1`
}
