/**
 * What a schema cannot say of a configuration: references between options, files that must be there, certificates that
 * must fit. Everything that is wrong is said at once.
 */
import { accessSync, constants, statSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import { NetworkSet } from '../domain/network.ts'
import type { Code, GateError } from '../errors.ts'
import type { GateConfig, IssuerConfig, RouteConfig } from './options.ts'
import { readPeppers } from './peppers.ts'
import { isTrusted } from './trust.ts'

/** Something wrong with the configuration; the text begins with the key's path. */
export interface Problem {
  readonly code: Code
  readonly text: string
}

/** @param config As it will be used, units resolved. Adds to `problems` what is wrong with it. */
export function check(config: GateConfig, problems: Problem[]): void {
  const value = (text: string): void => {
    problems.push({ code: 'ERR_CONFIG_VALUE', text })
  }
  const { database, issuers, routes, revocation, policy } = config
  if ((database.url === undefined) === (database.embedded === undefined)) {
    value('database: expected url, or `database: embedded`')
  }
  for (const [i, issuer] of issuers.entries()) {
    checkIssuer(issuer, `issuers[${i}]`, problems)
    if (issuers.findIndex((other) => other.issuer === issuer.issuer) < i) {
      value(`issuers[${i}].issuer: ${issuer.issuer} is there twice`)
    }
  }
  for (const [i, route] of routes.entries()) {
    const at = `routes[${i}]`
    if (routes.findIndex((other) => other.name === route.name) < i)
      value(`${at}.name: ${route.name} is there twice`)
    if (route.auth === 'required' && issuers.length === 0) {
      value(`${at}.auth: required, but there are no issuers whose tokens could be accepted`)
    }
    checkRoute(route, at, value)
    const byCookie = issuers.find(({ from }) => from.some((each) => each.startsWith('cookie:')))
    if (byCookie !== undefined && route.auth === 'required' && route.origins === undefined) {
      value(
        `${at}.origins: missing, but ${byCookie.issuer} is taken from a cookie; expected the origins of the pages that may use it`,
      )
    }
    if (!isOrigin(route.upstream)) {
      value(
        `${at}.upstream: expected an origin such as http://127.0.0.1:9001, without path or credentials`,
      )
    }
  }
  if (revocation.tick * 2 > revocation.max_staleness) {
    value('revocation.tick: expected at most half of revocation.max_staleness')
  }
  if (revocation.tick < 10) value('revocation.tick: expected at least 10ms')
  if (revocation.hard_stop < revocation.max_staleness) {
    value('revocation.hard_stop: expected at least revocation.max_staleness')
  }
  for (const [i, listen] of config.listen.entries()) checkListen(listen, `listen[${i}]`, value)
  checkNetworks(config.upstream_networks.deny, 'upstream_networks.deny', value)
  if (revocation.cut_after < revocation.max_staleness) {
    value('revocation.cut_after: expected at least revocation.max_staleness')
  }
  if (config.limits.header_bytes < 1024) value('limits.header_bytes: expected at least 1KiB')
  checkFolder(policy.bundles, 'policy.bundles', problems)
  try {
    readPeppers(revocation.pepper_file)
  } catch (error) {
    const { code, message, hint } = error as GateError
    problems.push({ code, text: `${message}: ${hint}` })
  }
}

function checkListen(
  listen: GateConfig['listen'][number],
  at: string,
  value: (text: string) => void,
): void {
  const { tls, trusted_proxies: trusted, proxy_protocol: proxied } = listen
  if (trusted !== undefined) checkNetworks(trusted, `${at}.trusted_proxies`, value)
  if (proxied === 'required' && trusted === undefined) {
    value(`${at}.trusted_proxies: missing; proxy_protocol takes its word from somebody`)
  }
  if (tls !== undefined) {
    const { cert, key, client_ca: ca } = tls
    checkKeyPair(ca === undefined ? { cert, key } : { cert, key, ca }, `${at}.tls`, value)
  }
}

function checkRoute(route: RouteConfig, at: string, value: (text: string) => void): void {
  const { cors, tls } = route
  if (cors?.credentials && cors.origins.includes('*')) {
    value(`${at}.cors.credentials: true, but origins has *; name the origins`)
  }
  if (tls === undefined) return
  if (!route.upstream.startsWith('https:')) value(`${at}.tls: the upstream is not an https origin`)
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    value(`${at}.tls: expected both cert and key, or neither`)
  } else checkKeyPair(tls, `${at}.tls`, value)
}

function checkNetworks(
  networks: readonly string[],
  at: string,
  value: (text: string) => void,
): void {
  try {
    new NetworkSet(networks)
  } catch (error) {
    value(`${at}: ${(error as Error).message}; expected networks such as 10.1.0.0/16`)
  }
}

/** Certificate and key must be usable and belong together. */
function checkKeyPair(
  pair: { readonly ca?: string; readonly cert?: string; readonly key?: string },
  at: string,
  value: (text: string) => void,
): void {
  const { ca, cert, key } = pair
  try {
    createSecureContext({ ca, cert, key })
  } catch (error) {
    value(`${at}: ${(error as Error).message}`)
  }
}

function checkIssuer(issuer: IssuerConfig, at: string, problems: Problem[]): void {
  const { jwks_file: file, jwks_uri: uri } = issuer
  if (file !== undefined && uri !== undefined) {
    problems.push({
      code: 'ERR_CONFIG_VALUE',
      text: `${at}: expected one of jwks_uri and jwks_file`,
    })
  }
  const source = uri ?? issuer.issuer
  if (file === undefined && !isTrusted(source)) {
    problems.push({
      code: 'ERR_CONFIG_VALUE',
      text: `${at}.${uri === undefined ? 'issuer' : 'jwks_uri'}: expected an https URL, or http on loopback`,
    })
  }
  if (file === undefined) return
  try {
    accessSync(file, constants.R_OK)
  } catch {
    problems.push({ code: 'ERR_CONFIG_FILE', text: `${at}.jwks_file: ${file} cannot be read` })
  }
}

function checkFolder(folder: string, at: string, problems: Problem[]): void {
  try {
    if (statSync(folder).isDirectory()) return
  } catch {
    // Said below.
  }
  problems.push({ code: 'ERR_CONFIG_FILE', text: `${at}: the folder ${folder} does not exist` })
}

function isOrigin(text: string): boolean {
  try {
    const { origin, username, password } = new URL(text)
    return origin === text.toLowerCase() && username === '' && password === ''
  } catch {
    return false
  }
}
