/**
 * The hosts that a database URL names, by the rules of libpq (PostgreSQL documentation, "Specifying Multiple Hosts"). The
 * driver reads URLs with one host, so a URL with several becomes several URLs.
 */

/** What a server must be so that a session with it is of use. */
export type Wanted = 'any' | 'primary' | 'read-write'

export interface DatabaseHosts {
  /** One URL for each host, in the order in which they are named. */
  readonly urls: readonly string[]
  readonly wanted: Wanted
}

interface Host {
  readonly name: string
  readonly port: string
}

const form = /^(postgres(?:ql)?:\/\/)(?:([^/?#]*)@)?([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/

/** @throws Error with a sentence that shows no password */
export function databaseHosts(url: string): DatabaseHosts {
  const parts = form.exec(url)
  if (parts === null) throw new Error('not a URL such as postgres://login:password@host:5432/name')
  const [, scheme, login, authority = '', path = '', query = ''] = parts
  // With `gate:1/x@db` the password would be a part of the name of the database, which errors show.
  if (login === undefined && `${path}${query}`.includes('@'))
    throw new Error('in a login and password, / ? # and @ are written as %2F %3F %23 and %40')
  const params = new URLSearchParams(query)
  const hosts = hostsIn(authority, params.get('host'), params.get('port'))
  const wanted = wantedIn(params, hosts.length)
  if (hosts.length === 1) return { urls: [url], wanted }
  for (const name of ['host', 'port', 'target_session_attrs']) params.delete(name)
  const before = login === undefined ? scheme! : `${scheme}${login}@`
  return { urls: hosts.map((host) => oneHost(before, host, path, params)), wanted }
}

function hostsIn(authority: string, host: string | null, port: string | null): Host[] {
  // As in the driver, `host` and `port` behind the question mark win over those before it.
  const named = host === null ? authority.split(',').map(hostOf) : host.split(',').map(plainHost)
  if (named.length > 1 && named.some(({ name }) => name === '')) throw new Error('a host is empty')
  const ports = port?.split(',') ?? []
  if (ports.length > 1 && ports.length !== named.length)
    throw new Error(`${named.length} hosts and ${ports.length} ports: expected one port or as many`)
  if (ports.some((each) => !/^\d*$/.test(each))) throw new Error('a port is not a number')
  return named.map((each, i) => ({ name: each.name, port: ports[i] ?? ports[0] ?? each.port }))
}

function hostOf(text: string): Host {
  const parts = /^(\[[^\]]*\]|[^:[\]]*)(?::(\d*))?$/.exec(text)
  if (parts === null) throw new Error('a host or port is malformed')
  return { name: parts[1]!, port: parts[2] ?? '' }
}

function plainHost(name: string): Host {
  return { name: name.includes(':') ? `[${name}]` : name, port: '' }
}

function wantedIn(params: URLSearchParams, hosts: number): Wanted {
  const given = params.get('target_session_attrs')
  // libpq takes any server then. Everything that dropgate does needs one that accepts writes, and with several hosts there
  // may be another one to try.
  if (given === null) return hosts > 1 ? 'read-write' : 'any'
  if (given === 'any' || given === 'primary' || given === 'read-write') return given
  throw new Error(
    `target_session_attrs=${given}: expected read-write, primary or any, since a gate cannot follow a standby`,
  )
}

function oneHost(
  before: string,
  { name, port }: Host,
  path: string,
  more: URLSearchParams,
): string {
  const socket = /^(?:\/|%2f)/i.test(name)
  const params = new URLSearchParams(more)
  if (socket) {
    params.set('host', decodeURIComponent(name))
    if (port !== '') params.set('port', port)
  }
  const at = socket ? '' : port === '' ? name : `${name}:${port}`
  return `${before}${at}${path}${params.size === 0 ? '' : `?${params}`}`
}
