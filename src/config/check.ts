/**
 * Runs the checks that the JSON Schema cannot express: references between options, files that must exist, certificates and keys
 * that must belong together. All problems of a configuration are reported together.
 */
import { readFileSync, statSync } from 'node:fs'
import { isIP } from 'node:net'
import { createSecureContext } from 'node:tls'
import { databaseHosts } from '../domain/database-url.ts'
import { namesOf, tenantPlace } from '../domain/issuer-pattern.ts'
import { networkProblem } from '../domain/network.ts'
import { isIdentityHeader } from '../domain/proxy-headers.ts'
import type { GateError } from '../errors.ts'
import { checkFetch } from './check-fetch.ts'
import { checkUnits } from './check-units.ts'
import type { GateConfig, IssuerConfig, RouteConfig } from './options.ts'
import { readPeppers } from './peppers.ts'
import { anyAudience } from './presets.ts'
import type { AddProblem, Problems } from './problems.ts'
import { mayCarryToken } from './token-header.ts'
import { isTrusted } from './trust.ts'

type IsSound = (path: string) => boolean

/**
 * @param config The complete configuration, with units resolved; a part that already has a problem is skipped.
 * @param problems Receives each problem that is found.
 */
export function check(config: GateConfig, problems: Problems): void {
  const value: AddProblem = (path, message) => problems.add('ERR_CONFIG_VALUE', path, message)
  const file: AddProblem = (path, message) => problems.add('ERR_CONFIG_FILE', path, message)
  const sound: IsSound = (path) => problems.sound(path)
  const { database, routes, revocation, policy, limits, upstream_networks: networks } = config
  checkUnits(config, problems, value)
  if (sound('database')) checkDatabase(database, value)
  const names = new Set<string>()
  const issuers = config.issuers.filter((_, i) => sound(`issuers[${i}]`))
  for (const [i, issuer] of config.issuers.entries()) {
    if (!issuers.includes(issuer)) continue
    checkNetworks(
      issuer.fetch.http_networks ?? [],
      `issuers[${i}].fetch.http_networks`,
      sound,
      value,
    )
    if (!sound(`issuers[${i}]`)) continue
    checkIssuer(issuer, `issuers[${i}]`, value, file)
    checkFetch(issuer, `issuers[${i}]`, value, file)
    if (sound('listen')) checkHeaderSources(issuer, `issuers[${i}].from`, config.listen, value)
    const own = new Set([issuer.issuer, ...namesOf(issuer)])
    const twin = [...own].find((name) => names.has(name))
    for (const name of own) names.add(name)
    if (twin !== undefined)
      value(`issuers[${i}].issuer`, `${twin} is a duplicate; each issuer may appear once`)
  }
  const byCookie = issuers.find(({ from }) => from.some((each) => each.startsWith('cookie:')))
  for (const [i, route] of routes.entries()) {
    const at = `routes[${i}]`
    if (!sound(at)) continue
    if (routes.findIndex((other) => other.name === route.name) < i)
      value(`${at}.name`, `${route.name} is a duplicate; each route needs its own name`)
    if (route.auth !== 'none' && config.issuers.length === 0 && sound('issuers')) {
      value(
        `${at}.auth`,
        `auth is ${route.auth}, but there are no issuers, so no token could be accepted`,
      )
    }
    checkRoute(route, at, value)
    if (byCookie !== undefined && route.auth !== 'none' && route.origins === undefined) {
      value(
        `${at}.origins`,
        `missing, but tokens of ${byCookie.issuer} are taken from a cookie; expected the origins of the pages that may use it`,
      )
    }
  }
  if (sound('revocation')) checkRevocation(revocation, value)
  for (const [i, listen] of config.listen.entries()) {
    const at = `listen[${i}]`
    if (sound(at)) checkListen(listen, at, value)
    if (sound(`${at}.host`)) checkHost(listen.host, `${at}.host`, value)
    checkNetworks(listen.trusted_proxies ?? [], `${at}.trusted_proxies`, sound, value)
  }
  if (sound('admin.host')) checkHost(config.admin.host, 'admin.host', value)
  checkPorts(config, sound, value)
  checkNetworks(networks.deny, 'upstream_networks.deny', sound, value)
  checkLimits(limits, sound, value)
  if (sound('policy.bundles')) checkFolder(policy.bundles, 'policy.bundles', file)
  if (sound('revocation.pepper_file')) {
    try {
      readPeppers(revocation.pepper_file)
    } catch (error) {
      const { message, hint } = error as GateError
      file('revocation.pepper_file', `${message.replace(/^[\w.]+: /, '')}: ${hint}`)
    }
  }
}

function checkLimits(limits: GateConfig['limits'], sound: IsSound, value: AddProblem): void {
  const least = [
    ['header_bytes', 1024, '1KiB'],
    ['dpop_proofs', 65536, '64KiB'],
    ['dpop_proof_age', 1000, '1s'],
  ] as const
  for (const [name, number, text] of least) {
    const at = `limits.${name}`
    if (sound(at) && limits[name] < number) value(at, `expected at least ${text}`)
  }
}

function checkDatabase(database: GateConfig['database'], value: AddProblem): void {
  const { url, embedded } = database
  for (const name of ['url', 'cli_url', 'migrate_url', 'breakglass_url'] as const) {
    try {
      if (database[name] !== undefined) databaseHosts(database[name])
    } catch (error) {
      value(`database.${name}`, (error as Error).message)
    }
  }
  // Reported under the path of `url`: a command with a login of its own (`cli_url`) does not use `url` and skips this.
  if (url !== undefined && embedded !== undefined)
    value('database.url', 'expected either url or embedded, not both')
  if (url === undefined && embedded === undefined) {
    value('database.url', 'missing; expected a postgres:// URL, or `database: embedded`')
  }
}

function checkRevocation(revocation: GateConfig['revocation'], value: AddProblem): void {
  const { tick, max_staleness, hard_stop, cut_after } = revocation
  if (tick * 2 > max_staleness)
    value('revocation.tick', 'expected at most half of revocation.max_staleness')
  if (tick < 10) value('revocation.tick', 'expected at least 10ms')
  if (hard_stop < max_staleness)
    value('revocation.hard_stop', 'expected at least revocation.max_staleness')
  if (cut_after < max_staleness)
    value('revocation.cut_after', 'expected at least revocation.max_staleness')
}

/**
 * Two listeners must not share a port: worker threads share the port, so the system could give a connection to
 * either.
 */
function checkPorts(config: GateConfig, sound: IsSound, value: AddProblem): void {
  const bound = [
    ...config.listen.map((listen, i) => ({ ...listen, at: `listen[${i}].port` })),
    { ...config.admin, at: 'admin.port' },
  ].filter(({ at, port }) => sound(at) && port !== 0)
  for (const [i, { at, host, port }] of bound.entries()) {
    const twin = bound.slice(0, i).find((each) => each.port === port && meet(each.host, host))
    if (twin !== undefined) value(at, `${port} is already used by ${twin.at}`)
  }
}

/** Returns true if two hosts have an address in common: `::` means every address, `0.0.0.0` every IPv4 address. */
function meet(a: string, b: string): boolean {
  const holds = (all: string, one: string): boolean =>
    all === '::' || (all === '0.0.0.0' && !one.includes(':'))
  return a === b || holds(a, b) || holds(b, a)
}

/** A port, a scheme or a path in the address to listen on would be looked up as a name. */
function checkHost(host: string, at: string, value: AddProblem): void {
  if (isIP(host) !== 0 || /^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$/.test(host)) return
  const expected =
    'expected an address or a name without scheme and port, such as 127.0.0.1, 0.0.0.0 or ::'
  const [, name, port] =
    /^(?:[a-z]+:\/\/)?\[?([0-9A-Za-z.-]+|[0-9A-Fa-f:]+)\]?(?::(\d+))?\/?$/.exec(host) ?? []
  const write =
    name === undefined ? '' : `; write ${name}${port === undefined ? '' : `, and ${port} as port`}`
  value(at, `${expected}, found ${JSON.stringify(host)}${write}`)
}

function checkListen(listen: GateConfig['listen'][number], at: string, value: AddProblem): void {
  const { tls, trusted_proxies: trusted, proxy_protocol: proxied } = listen
  if (proxied === 'required' && trusted === undefined) {
    value(
      `${at}.trusted_proxies`,
      'required with proxy_protocol: list the load balancers that may send its header',
    )
  }
  const { client_cert_form: form, client_cert_header: name } = listen
  if (form !== 'none' && trusted === undefined) {
    value(
      `${at}.trusted_proxies`,
      'required with client_cert_form: list the proxies that may pass on client certificates',
    )
  }
  if (name !== undefined && (form !== 'nginx' || /^x-(?:forwarded|dropgate)-/i.test(name))) {
    value(
      `${at}.client_cert_header`,
      form === 'nginx'
        ? `${name} is the name of another header; write for example X-SSL-Client-Cert`
        : 'only used with client_cert_form: nginx; the other forms have a header of their own',
    )
  }
  if (tls !== undefined) {
    const { cert, key, client_ca: ca } = tls
    checkKeyPair(ca === undefined ? { cert, key } : { cert, key, ca }, `${at}.tls`, value)
  }
}

function checkRoute(route: RouteConfig, at: string, value: AddProblem): void {
  const { audience, cors, tls } = route
  if (audience?.includes(anyAudience)) {
    value(
      `${at}.audience`,
      `${anyAudience} is no audience; name each, or write audience: none at the issuer`,
    )
  }
  const upstream = originProblem(route.upstream)
  if (upstream !== undefined) value(`${at}.upstream`, upstream)
  checkPages(route.origins ?? [], `${at}.origins`, value)
  checkPages(cors?.origins ?? [], `${at}.cors.origins`, value)
  if (cors?.credentials && cors.origins.includes('*')) {
    value(`${at}.cors.credentials`, 'true cannot be used with the origin *; name each origin')
  }
  checkPassed(route.forward, `${at}.forward`, value)
  if (cors !== undefined && route.preflight === 'pass')
    value(`${at}.preflight`, 'pass cannot be used beside cors, which answers preflights')
  if (route.strip_prefix || route.base_path !== undefined) {
    // Their header `destination` names a path of the clients, which the upstream would take for one of its own.
    const [writes] = (route.methods ?? []).filter((one) => one === 'COPY' || one === 'MOVE')
    if (writes !== undefined)
      value(`${at}.methods`, `${writes} cannot be used beside strip_prefix and base_path`)
  }
  if (tls === undefined) return
  if (!route.upstream.startsWith('https:'))
    value(`${at}.tls`, 'tls is set, but the upstream is not an https origin')
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    value(`${at}.tls`, 'expected both cert and key, or neither')
  } else checkKeyPair(tls, `${at}.tls`, value)
}

/** A route passes only what it would lose otherwise, and never what says how the request came here. */
function checkPassed(
  { pass = [], remove }: RouteConfig['forward'],
  at: string,
  value: AddProblem,
): void {
  for (const [i, name] of pass.entries()) {
    if (remove?.includes(name)) value(`${at}.pass[${i}]`, `${name} is in remove too; expected one`)
    else if (!isIdentityHeader(name))
      value(
        `${at}.pass[${i}]`,
        `${name} is not a header by which another proxy names the caller, so this changes nothing; see docs/reference/removed-headers.md`,
      )
  }
}

function checkNetworks(
  networks: readonly string[],
  at: string,
  sound: IsSound,
  value: AddProblem,
): void {
  for (const [i, network] of networks.entries()) {
    const problem = sound(`${at}[${i}]`) ? networkProblem(network) : undefined
    if (problem !== undefined)
      value(`${at}[${i}]`, `${problem}; expected a network such as 10.1.0.0/16`)
  }
}

/** The certificate and the private key must be readable and belong together. */
function checkKeyPair(
  pair: { readonly ca?: string; readonly cert?: string; readonly key?: string },
  at: string,
  value: AddProblem,
): void {
  const { ca, cert, key } = pair
  try {
    createSecureContext({ ca, cert, key })
  } catch (error) {
    value(at, (error as Error).message)
  }
}

function checkIssuer(issuer: IssuerConfig, at: string, value: AddProblem, file: AddProblem): void {
  const { jwks_file: path, jwks_uri: uri } = issuer
  // Canaries (store/sql) name issuers of this form, so that no token can match them.
  if (issuer.issuer.startsWith('dropgate:'))
    value(`${at}.issuer`, 'names that begin with dropgate: are reserved')
  const wrong = issuerProblem(issuer) ?? textProblem(issuer.issuer)
  if (wrong !== undefined) value(`${at}.issuer`, wrong)
  // Alone it is what `audience: none` is turned into.
  if (issuer.audience.length > 1 && issuer.audience.includes(anyAudience)) {
    value(
      `${at}.audience`,
      `${anyAudience} is no audience; name each, or write audience: none alone`,
    )
  }
  const wrongUri = uri === undefined ? undefined : placeProblem(uri)
  if (wrongUri !== undefined) value(`${at}.jwks_uri`, wrongUri)
  if (path !== undefined && uri !== undefined)
    value(at, 'expected either jwks_uri or jwks_file, not both')
  if (path === undefined) {
    if (isTrusted(uri ?? issuer.issuer, issuer.fetch)) return
    const key = uri === undefined ? 'issuer' : 'jwks_uri'
    const scheme = /^[\w.-]+\.[a-z]+(?:[/:]|$)/i.test(uri ?? issuer.issuer)
    value(
      `${at}.${key}`,
      `expected an https URL, or http on loopback or in fetch.http_networks${scheme ? `; write https://${uri ?? issuer.issuer}` : ''}`,
    )
    return
  }
  const problem = keySetProblem(path)
  if (problem !== undefined) file(`${at}.jwks_file`, `${path} ${problem}`)
}

function checkHeaderSources(
  { from }: IssuerConfig,
  at: string,
  listens: GateConfig['listen'],
  value: AddProblem,
): void {
  for (const [i, source] of from.entries()) {
    if (!source.startsWith('header:')) continue
    const name = source.slice('header:'.length)
    const isCertificate = listens.some((each) => each.client_cert_header?.toLowerCase() === name)
    if (isCertificate || !mayCarryToken(name)) {
      const write =
        name === 'authorization' ? name : 'the header that the proxy in front adds for the token'
      value(
        `${at}[${i}]`,
        `the header ${name} has another meaning and cannot carry a token like this; write ${write}`,
      )
    } else if (listens.every(({ trusted_proxies: trusted }) => trusted === undefined)) {
      value(
        `${at}[${i}]`,
        `the header ${name} is read from trusted proxies only, and there are none; list the networks of the proxy that adds it in listen.trusted_proxies`,
      )
    }
  }
}

/** Returns why issuer and tenants do not fit each other. */
function issuerProblem({ issuer, tenants }: IssuerConfig): string | undefined {
  const parts = issuer.split(tenantPlace)
  if (tenants === undefined) {
    return parts.length === 1
      ? undefined
      : `${tenantPlace} needs tenants: list the ids of the tenants that you accept, such as tenants: [9122040d-6c67-4c5b-b112-36a304b66dad], or write the one tenant into the issuer`
  }
  const [before, after] = parts
  if (parts.length === 2 && before!.endsWith('/') && /^(?:\/|$)/.test(after!)) return undefined
  return `with tenants, expected ${tenantPlace} once, as a whole segment, such as https://login.microsoftonline.com/${tenantPlace}/v2.0`
}

/** Returns why no token can have this issuer. */
function textProblem(issuer: string): string | undefined {
  const text = issuer.replace(tenantPlace, '')
  const place = placeProblem(text)
  if (place !== undefined) return place
  if (/^\s|\s$/.test(text)) return 'begins or ends with a space, and no issuer does; remove it'
  if (!/^https?:/.test(text)) return undefined
  if (/\s/.test(text)) return 'has a space, and no URL has; remove it'
  return /[?#]/.test(text)
    ? 'an issuer has no query and no fragment; write it as claim iss has it'
    : undefined
}

function placeProblem(text: string): string | undefined {
  const place = /[{<][^}>]*[}>]/.exec(text)?.[0]
  return place === undefined
    ? undefined
    : `${place} is a placeholder of the provider's documentation; write what stands there in your tokens, one entry for each tenant, or ${tenantPlace} with tenants`
}

/** Checks the form of a JWK set only. Unusable keys inside it are reported when the gate loads the keys. */
function keySetProblem(path: string): string | undefined {
  const expected = 'expected a JWK set: {"keys": [...]}'
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    return `cannot be read (${(error as NodeJS.ErrnoException).code})`
  }
  try {
    const set = JSON.parse(text) as { keys?: unknown; kty?: unknown } | null
    if (Array.isArray(set?.keys))
      return set.keys.length === 0 ? `holds no key; ${expected}` : undefined
    return set?.kty === undefined ? `is not a JWK set; ${expected}` : `is a single key; ${expected}`
  } catch {
    return `is not JSON; ${expected}`
  }
}

function checkFolder(folder: string, at: string, file: AddProblem): void {
  try {
    if (statSync(folder).isDirectory()) return
  } catch {
    // The missing folder is reported below.
  }
  file(
    at,
    `the folder ${folder} does not exist; make it, and build a bundle into it with dropgate build`,
  )
}

/** Returns what is wrong with the origin of an upstream; the schema has refused a path, a query and credentials. */
function originProblem(text: string): string | undefined {
  if (text.startsWith('unix:')) return socketProblem(text.slice('unix:'.length))
  const example = 'an origin such as http://127.0.0.1:9001'
  try {
    const { origin } = new URL(text)
    return origin === text.toLowerCase() ? undefined : `expected ${example}; write ${origin}`
  } catch {
    return `the host or port is malformed; expected ${example}`
  }
}

/** Schemes of URLs that no page has, or whose pages have no origin (HTML section 7.1.1): browsers send `null` there. */
const pageless = /^(?:wss?|ftp|file|filesystem|blob|data|about|javascript|view-source):/
/** Longest path that the operating system takes for a socket (`sun_path` of unix(7)), in bytes. */
const maxSocketPath = 107

function socketProblem(path: string): string | undefined {
  if (path.endsWith('/'))
    return 'is a folder; expected the path of a socket, such as unix:/run/app.sock'
  return Buffer.byteLength(path) <= maxSocketPath
    ? undefined
    : `the path of a socket has at most ${maxSocketPath} bytes`
}

/** Origins of web pages are compared exactly with what a browser sends, so another spelling would match no page. */
function checkPages(origins: readonly string[], at: string, value: AddProblem): void {
  for (const [i, text] of origins.entries()) {
    const problem = text === '*' ? undefined : pageProblem(text)
    if (problem !== undefined) value(`${at}[${i}]`, problem)
  }
}

function pageProblem(text: string): string | undefined {
  if (text.includes('*'))
    return `${text} has a wildcard, and origins are compared exactly; write out each origin`
  if (pageless.test(text))
    return `no page has the origin ${text}; write that of the page, such as https://app.example.com`
  // Other schemes (of browser extensions) have no origin that could be computed here.
  if (!/^https?:/.test(text)) return undefined
  try {
    const { origin } = new URL(text)
    return origin === text ? undefined : `browsers do not send ${text}; write ${origin}`
  } catch {
    return `${text} is malformed; expected an origin such as https://app.example.com`
  }
}
