/**
 * Checks the addresses that plain http goes to. Whoever answers there chooses the keys, so a name must resolve to listed
 * networks alone: with one other address, its owner could be the one who answers.
 */
import { lookup as resolve } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { isLoopback } from '../config/trust.ts'
import { plainAddress } from '../domain/address.ts'
import { NetworkSet } from '../domain/network.ts'
import { GateError } from '../errors.ts'

const loopback = ['127.0.0.0/8', '::1']

/** Returns why plain http may not go to a host that is written as an address; undefined for a name. */
export function addressProblem(
  hostname: string,
  networks: readonly string[],
): GateError | undefined {
  const address = plainAddress(hostname.replace(/^\[|\]$/g, ''))
  if (address === undefined || isListed(hostname, address, networks)) return undefined
  return unlisted(hostname, address)
}

/** Resolves a name as Node does, and fails where one of its addresses is not in the networks. */
export function lookupIn(networks: readonly string[]): LookupFunction {
  return (name, options, callback) => {
    resolve(name, { ...options, all: true }, (error, found) => {
      const [first] = found ?? []
      const outside = found?.find(({ address }) => !isListed(name, address, networks))
      if (error !== null) callback(error, '', 0)
      else if (outside !== undefined) callback(unlisted(name, outside.address), '', 0)
      else if (options.all) callback(null, found)
      else callback(null, first!.address, first!.family)
    })
  }
}

function isListed(hostname: string, address: string, networks: readonly string[]): boolean {
  const plain = plainAddress(address)
  const all = isLoopback(hostname) ? [...networks, ...loopback] : networks
  return plain !== undefined && new NetworkSet(all).has(plain)
}

function unlisted(name: string, address: string): GateError & NodeJS.ErrnoException {
  return new GateError(
    'ERR_OUTBOUND',
    `${name} has the address ${address}, which is not in issuers[].fetch.http_networks`,
    { hint: 'use https, or list the network of every address of this name' },
  )
}
