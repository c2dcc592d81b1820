/**
 * Room: route. In: a canonical target. Out: the one route that serves it. Never does: look at the caller. A table is
 * immutable: an exchange that began with one table ends with it.
 *
 * The host is matched first: exact name, then the longest wildcard, then routes without a host. The path is matched
 * second: exact path, then the longest prefix of whole segments. A host that has routes never uses the routes of
 * another host pattern.
 */
import type { RouteConfig } from '../config/options.ts'
import { GateError } from '../errors.ts'
import { parseRequestTarget, readAuthority, type Target } from './target.ts'

export interface Route {
  readonly config: RouteConfig
  /** `input.route` with its labels as JSON text, made once. */
  readonly routeJson: string
  readonly labelsJson: string
}

/** The routes of one host pattern, keyed by path segments joined with NUL, which no segment can contain. */
class Group {
  readonly exact = new Map<string, Route>()
  readonly prefix = new Map<string, Route>()
  deepest = 0

  find(segments: readonly string[]): Route | undefined {
    if (this.exact.size > 0) {
      const route = this.exact.get(keyOf(segments))
      if (route !== undefined) return route
    }
    let best = this.prefix.get('')
    let key = ''
    for (let i = 0; i < segments.length && i < this.deepest; i++) {
      key += `${segments[i]!}\0`
      best = this.prefix.get(key) ?? best
    }
    return best
  }
}

export class RouteTable {
  readonly #hosts = new Map<string, Group>()
  /** Wildcard groups; the suffix of `*.example.com` is `.example.com`. The longest suffix comes first. */
  readonly #wildcards: { readonly suffix: string; readonly group: Group }[] = []
  #any: Group | undefined

  /** @throws GateError ERR_CONFIG_VALUE for a path or host that no request can have, and for two equal routes. */
  constructor(routes: readonly RouteConfig[]) {
    for (const [i, config] of routes.entries()) this.#add(config, `routes[${i}]`)
    this.#wildcards.sort((a, b) => b.suffix.length - a.suffix.length)
  }

  find(target: Target): Route | 'host-unknown' | 'no-route' {
    const group = this.#groupOf(target.host)
    if (group === undefined) return 'host-unknown'
    if (target.path === '*') return 'no-route'
    return group.find(target.segments) ?? 'no-route'
  }

  /**
   * Returns true if a TLS client that asked for one server name may send requests for the other host: both must have
   * the same routes.
   */
  sameGroup(serverName: string, host: string): boolean {
    return serverName === host || this.#groupOf(serverName.toLowerCase()) === this.#groupOf(host)
  }

  #groupOf(host: string): Group | undefined {
    return this.#hosts.get(host) ?? this.#wildcard(host) ?? this.#any
  }

  #wildcard(host: string): Group | undefined {
    for (const { suffix, group } of this.#wildcards) {
      if (host.length > suffix.length && host.endsWith(suffix)) return group
    }
    return undefined
  }

  #add(config: RouteConfig, at: string): void {
    const group = this.#group(config.host, `${at}.host`)
    const exact = config.path.startsWith('=')
    const path = exact ? config.path.slice(1) : config.path
    const segments = readPath(path, `${at}.path`)
    if (!exact && segments.at(-1) === '') {
      throw unusable(
        `${at}.path`,
        `${path} ends with a slash`,
        'remove the final slash: a prefix covers all paths below it',
      )
    }
    const map = exact ? group.exact : group.prefix
    const key = keyOf(segments)
    const twin = map.get(key)
    if (twin !== undefined) {
      throw unusable(
        `${at}.path`,
        `${config.path} is already the path of route ${twin.config.name}`,
        'remove one of the two routes',
      )
    }
    const labelsJson = JSON.stringify(config.labels)
    const routeJson = `{"name":${JSON.stringify(config.name)},"labels":${labelsJson}}`
    map.set(key, { config, routeJson, labelsJson })
    if (!exact) group.deepest = Math.max(group.deepest, segments.length)
  }

  #group(pattern: string | undefined, at: string): Group {
    if (pattern === undefined) {
      this.#any ??= new Group()
      return this.#any
    }
    const wild = pattern.startsWith('*.')
    const host = readHost(wild ? pattern.slice(2) : pattern, at)
    if (!wild) {
      const group = this.#hosts.get(host) ?? new Group()
      this.#hosts.set(host, group)
      return group
    }
    const suffix = `.${host}`
    let found = this.#wildcards.find((wildcard) => wildcard.suffix === suffix)
    if (found === undefined) {
      found = { suffix, group: new Group() }
      this.#wildcards.push(found)
    }
    return found.group
  }
}

function keyOf(segments: readonly string[]): string {
  let key = ''
  for (const segment of segments) key += `${segment}\0`
  return key
}

function readPath(path: string, at: string): readonly string[] {
  try {
    const target = parseRequestTarget('GET', path, 'localhost', { scheme: 'http', maxBytes: 4096 })
    if (target.path === path && target.query === null) return target.segments
  } catch {
    // The error is thrown below.
  }
  throw unusable(
    at,
    `${JSON.stringify(path)} is not a path in canonical form`,
    'use for example /orders, or =/orders for exactly that path',
  )
}

function readHost(pattern: string, at: string): string {
  try {
    const { host, authority } = readAuthority(pattern, 'http')
    if (authority === pattern || authority === `[${pattern}]`) return host
  } catch {
    // The error is thrown below.
  }
  throw unusable(
    at,
    `${JSON.stringify(pattern)} is not a lower-case host name without port`,
    'use for example api.example.com or *.example.com',
  )
}

function unusable(at: string, what: string, hint: string): GateError {
  return new GateError('ERR_CONFIG_VALUE', `${at}: ${what}`, { hint })
}
