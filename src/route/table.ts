/**
 * Room: route. In: a canonical target. Out: the one route that serves it. Never does: look at the caller. A table is
 * immutable: an exchange that began with one table ends with it.
 *
 * The host is matched first: exact name, then the longest wildcard, then routes without a host. The path is matched
 * second: exact path, then the longest prefix of whole segments. A host that has routes never uses the routes of
 * another host pattern.
 */
import type { RouteConfig } from '../config/options.ts'
import { GateError, type Problem } from '../errors.ts'
import { readRewrite, readRouteHost, readRoutePath, readSentHost } from './pattern.ts'
import type { Rewrite } from './rewrite.ts'
import type { Target } from './target.ts'

export interface Route {
  readonly config: RouteConfig
  /** `input.route` with its labels as JSON text, made once. */
  readonly routeJson: string
  readonly labelsJson: string
  /** Host and port that the upstream is told; undefined: those of the request. */
  readonly sentHost: string | undefined
  /** How the path is changed on the way to the upstream; undefined: not at all. */
  readonly rewrite: Rewrite | undefined
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

  hasBelow(segments: readonly string[]): boolean {
    const key = keyOf(segments.filter((segment) => segment !== ''))
    const isBelow = (other: string): boolean => other !== key && other.startsWith(key)
    return [...this.exact.keys(), ...this.prefix.keys()].some(isBelow)
  }
}

export class RouteTable {
  readonly #hosts = new Map<string, Group>()
  /** Wildcard groups; the suffix of `*.example.com` is `.example.com`. The longest suffix comes first. */
  readonly #wildcards: { readonly suffix: string; readonly group: Group }[] = []
  #any: Group | undefined

  /**
   * @throws GateError ERR_CONFIG_VALUE for paths and hosts that no request can have, and for two equal routes; all of
   * them are named.
   */
  constructor(routes: readonly RouteConfig[]) {
    const problems: Problem[] = []
    for (const [i, config] of routes.entries()) this.#add(config, `routes[${i}]`, problems)
    if (problems.length > 0) throw unusable(problems)
    this.#wildcards.sort((a, b) => b.suffix.length - a.suffix.length)
  }

  find(target: Target): Route | 'host-unknown' | 'no-route' {
    const group = this.#groupOf(target.host)
    if (group === undefined) return 'host-unknown'
    if (target.path === '*') return 'no-route'
    return group.find(target.segments) ?? 'no-route'
  }

  /** True if another route begins below this target: what is done with a whole tree would reach what that one serves. */
  hasBelow(target: Target): boolean {
    return this.#groupOf(target.host)?.hasBelow(target.segments) === true
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

  #add(config: RouteConfig, at: string, problems: Problem[]): void {
    const refuse = (key: string, message: string): void => {
      problems.push({ code: 'ERR_CONFIG_VALUE', path: `${at}.${key}`, message })
    }
    const path = readRoutePath(config)
    const group = this.#group(config.host)
    if (typeof group === 'string') refuse('host', group)
    if (typeof path === 'string') refuse('path', path)
    if (typeof group === 'string' || typeof path === 'string') return
    const { exact, segments } = path
    const map = exact ? group.exact : group.prefix
    const key = keyOf(segments)
    const twin = map.get(key)
    if (twin !== undefined) {
      refuse(
        'path',
        `${config.path} is already the path of route ${twin.config.name}, so no request would come to this one; remove one of the two, or give them other paths or hosts`,
      )
      return
    }
    const sent = readSentHost(config)
    if (sent.problem !== undefined) refuse('forward.host', sent.problem)
    const { rewrite, problem } = readRewrite(config, path)
    if (problem !== undefined) refuse(problem.key, problem.message)
    const labelsJson = JSON.stringify(config.labels)
    const routeJson = `{"name":${JSON.stringify(config.name)},"labels":${labelsJson}}`
    map.set(key, { config, routeJson, labelsJson, sentHost: sent.host, rewrite })
    if (!exact) group.deepest = Math.max(group.deepest, segments.length)
  }

  /** @returns the group of the routes of this host, or what is wrong with the host. */
  #group(pattern: string | undefined): Group | string {
    if (pattern === undefined) {
      this.#any ??= new Group()
      return this.#any
    }
    const read = readRouteHost(pattern)
    if (typeof read === 'string') return read
    const { wild, host } = read
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

function unusable(problems: readonly Problem[]): GateError {
  return new GateError(
    'ERR_CONFIG_VALUE',
    problems.map(({ path, message }) => `${path}: ${message}`).join('\n'),
    {
      hint: 'a path is a prefix that is compared by whole segments, or =/path for exactly that path; a host is a name or *.name',
      problems,
    },
  )
}
