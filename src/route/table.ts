/**
 * Room: route. In: a canonical target. Out: the one route that serves it. Never does: look at who asks. Immutable:
 * an exchange that began with one table ends with it.
 *
 * The host chooses first (exact, then the longest wildcard, then routes without one), the path second: exact,
 * then the longest prefix by whole segments. A host with routes of its own never falls through to another's.
 */
import type { RouteConfig } from '../config/options.ts'
import { GateError } from '../errors.ts'
import { parseRequestTarget, readAuthority, type Target } from './target.ts'

export interface Route {
  readonly config: RouteConfig
  /** `input.route` and its labels, serialised once. */
  readonly routeJson: string
  readonly labelsJson: string
}

/** The routes of one host pattern, by segments joined with NUL, which no segment holds. */
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
  /** `.example.com` for `*.example.com`, longest first. */
  readonly #wildcards: { readonly suffix: string; readonly group: Group }[] = []
  #any: Group | undefined

  /** @throws GateError ERR_CONFIG_VALUE for a path or host that no request could have, or two routes alike. */
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

  /** Whether a TLS client that asked for one name may talk to the other: they must have the same routes. */
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
        'a prefix covers everything below it: leave the slash out',
      )
    }
    const map = exact ? group.exact : group.prefix
    const key = keyOf(segments)
    const twin = map.get(key)
    if (twin !== undefined) {
      throw unusable(
        `${at}.path`,
        `${config.path} is also the path of route ${twin.config.name}`,
        'remove one of the two',
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
    // Said below.
  }
  throw unusable(
    at,
    `${JSON.stringify(path)} is not a path in canonical form`,
    'e.g. /orders, or =/orders for that path alone',
  )
}

function readHost(pattern: string, at: string): string {
  try {
    const { host, authority } = readAuthority(pattern, 'http')
    if (authority === pattern || authority === `[${pattern}]`) return host
  } catch {
    // Said below.
  }
  throw unusable(
    at,
    `${JSON.stringify(pattern)} is not a host name in lower case without port`,
    'e.g. api.example.com or *.example.com',
  )
}

function unusable(at: string, what: string, hint: string): GateError {
  return new GateError('ERR_CONFIG_VALUE', `${at}: ${what}`, { hint })
}
