/**
 * Checks the addresses that plain http goes to. Whoever answers there chooses the keys, so a name must resolve to listed
 * networks alone: with one other address, its owner could be the one who answers.
 */
import type { LookupAddress } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { isLoopback } from '../config/trust.ts'
import { plainAddress } from '../domain/address.ts'
import { checkedLookup } from '../domain/lookup.ts'
import { NetworkSet } from '../domain/network.ts'
import { GateError } from '../errors.ts'

const loopback = ['127.0.0.0/8', '::1']

/** Returns why plain http may not go to a host that is written as an address; undefined for a name. */
export function addressProblem(
  hostname: string,
  networks: readonly string[],
): GateError | undefined {
  const address = plainAddress(hostname.replace(/^\[|\]$/g, ''))
  const outside = address && firstOutside(hostname, [address], networks)
  return outside === undefined ? undefined : unlisted(hostname, outside)
}

/** Resolves a name as Node does, and fails where one of its addresses is not in the networks. */
export function lookupIn(networks: readonly string[]): LookupFunction {
  const outsideOf = (name: string, found: readonly LookupAddress[]): string | undefined =>
    firstOutside(
      name,
      found.map(({ address }) => address),
      networks,
    )
  return checkedLookup({
    allowed: (name, found) => (outsideOf(name, found) === undefined ? found : []),
    refusal: (name, found) => unlisted(name, outsideOf(name, found) ?? 'none'),
  })
}

/** Returns the first of the addresses of a host that plain http may not go to. */
export function firstOutside(
  hostname: string,
  addresses: readonly string[],
  networks: readonly string[],
): string | undefined {
  const listed = new NetworkSet(isLoopback(hostname) ? [...networks, ...loopback] : networks)
  return addresses.find((address) => {
    const plain = plainAddress(address)
    return plain === undefined || !listed.has(plain)
  })
}

function unlisted(name: string, address: string): GateError & NodeJS.ErrnoException {
  return new GateError(
    'ERR_OUTBOUND',
    `${name} has the address ${address}, which is not in issuers[].fetch.http_networks`,
    { hint: 'use https, or list the network of every address of this name' },
  )
}
