/** Which URLs signing keys may be fetched from. */
import { plainAddress } from '../domain/address.ts'
import { NetworkSet } from '../domain/network.ts'

/** The part of `issuers[].fetch` that decides it. */
export interface FetchTrust {
  readonly http_networks?: readonly string[]
  readonly proxy?: string
}

/**
 * Returns true if signing keys may be fetched from this URL: over https, over plain http from this machine, or over
 * plain http from a listed network. A name counts as listed where networks are: its addresses are checked when the gate
 * connects. Through a proxy only https will do, since the gate cannot check where the proxy connects to.
 */
export function isTrusted(
  text: string,
  { http_networks: networks = [], proxy }: FetchTrust,
): boolean {
  if (!URL.canParse(text)) return false
  const { protocol, hostname } = new URL(text)
  if (protocol === 'https:') return true
  if (protocol !== 'http:' || proxy !== undefined) return false
  if (isLoopback(hostname)) return true
  const address = plainAddress(hostname.replace(/^\[|\]$/g, ''))
  return address === undefined ? networks.length > 0 : new NetworkSet(networks).has(address)
}

/** @param hostname As `URL` has it. */
export function isLoopback(hostname: string): boolean {
  return /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(hostname)
}
