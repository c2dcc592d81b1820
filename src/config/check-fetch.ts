/** Checks how the metadata and the keys of an issuer are fetched (`issuers[].fetch`). */
import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import { hopByHop, isToken, valueCharacters } from '../domain/http.ts'
import type { IssuerConfig } from './options.ts'
import type { AddProblem } from './problems.ts'

/** Headers that the gate writes itself, or that describe a body, which these requests do not have. */
const ownHeaders = new Set([
  'host',
  'accept-encoding',
  'content-length',
  'expect',
  'if-none-match',
  'range',
])
const value = new RegExp(`^[${valueCharacters}]+$`)

/** No message names the value of a header, or the proxy: they are secret. */
export function checkFetch(
  { jwks_file: keysFile, fetch }: IssuerConfig,
  at: string,
  add: AddProblem,
  file: AddProblem,
): void {
  const { tls, headers = {}, token_file: tokenFile, proxy, http_networks: networks } = fetch
  if (keysFile !== undefined && Object.keys(fetch).length > 0)
    add(`${at}.fetch`, 'has no use with jwks_file: nothing is fetched')
  for (const [name, text] of Object.entries(headers)) {
    const problem = headerProblem(name, text, Object.keys(headers))
    if (problem !== undefined) add(`${at}.fetch.headers.${name}`, problem)
  }
  if (proxy !== undefined && !isProxy(proxy))
    add(`${at}.fetch.proxy`, 'is malformed; expected a proxy such as http://proxy.internal:3128')
  if (proxy !== undefined && networks !== undefined)
    add(
      `${at}.fetch.http_networks`,
      'cannot be used with a proxy: the gate could not check where the proxy connects to',
    )
  if (tls?.ca !== undefined) checkAuthorities(tls.ca, `${at}.fetch.tls.ca`, add)
  if (tokenFile === undefined) return
  if (Object.keys(headers).some((name) => name.toLowerCase() === 'authorization'))
    add(`${at}.fetch.token_file`, 'expected either token_file or an authorization header, not both')
  const problem = readProblem(tokenFile)
  if (problem !== undefined) file(`${at}.fetch.token_file`, `${tokenFile} ${problem}`)
}

function headerProblem(name: string, text: string, all: readonly string[]): string | undefined {
  const lower = name.toLowerCase()
  if (!isToken(name)) return 'is not the name of a header'
  if (hopByHop.has(lower) || ownHeaders.has(lower)) return 'is a header that the gate sets itself'
  if (all.some((other) => other !== name && other.toLowerCase() === lower))
    return 'is there twice, spelled differently'
  if (!value.test(text)) return 'has an empty value, or characters that a header cannot have'
  return undefined
}

function isProxy(text: string): boolean {
  try {
    const { username, password } = new URL(text)
    decodeURIComponent(username)
    decodeURIComponent(password)
    return true
  } catch {
    return false
  }
}

function checkAuthorities(ca: string, at: string, add: AddProblem): void {
  try {
    createSecureContext({ ca })
  } catch (error) {
    add(at, (error as Error).message)
  }
}

function readProblem(path: string): string | undefined {
  try {
    readFileSync(path)
    return undefined
  } catch (error) {
    return `cannot be read (${(error as NodeJS.ErrnoException).code})`
  }
}
