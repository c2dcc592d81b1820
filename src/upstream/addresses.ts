/**
 * Which addresses a name in the configuration may mean. A name is resolved when a connection is made, the answer is
 * checked and the checked address is the one dialled, so that whoever controls the name's DNS cannot point the
 * gate at itself, at this machine or at a cloud's metadata (http-security R51). Addresses that the configuration
 * writes out are checked when it is read.
 */
import { lookup as resolve } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { networkInterfaces } from 'node:os'
import type { GateConfig } from '../config/options.ts'
import { NetworkSet, plainAddress } from '../domain/network.ts'
import { GateError } from '../errors.ts'

export interface AddressRules {
  /** Networks that no upstream may be in. */
  readonly deny: readonly string[]
  /** The gate's own admin port: on this machine it is nobody's upstream. */
  readonly adminPort: number
}

const loopback = new NetworkSet(['127.0.0.0/8', '::1'])

/** Resolves like Node and leaves out what the rules refuse; fails with ERR_UPSTREAM_ADDRESS where nothing is left. */
export function lookupWithin(origin: string, rules: AddressRules): LookupFunction {
  const denied = new NetworkSet(rules.deny)
  const { port, protocol, hostname } = new URL(origin)
  const dialled = port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port)
  const local = /^(?:.+\.)?localhost$/.test(hostname)
  const refused = (text: string): boolean => {
    const address = plainAddress(text)
    if (address === undefined || denied.has(address)) return true
    if (loopback.has(address)) return !local || dialled === rules.adminPort
    return dialled === rules.adminPort && isOwn(address)
  }
  return (name, options, callback) => {
    resolve(name, { ...options, all: true }, (error, found) => {
      const allowed = (found ?? []).filter(({ address }) => !refused(address))
      const [first] = allowed
      if (error !== null) callback(error, '', 0)
      else if (first === undefined) callback(forbidden(name), '', 0)
      else if (options.all) callback(null, allowed)
      else callback(null, first.address, first.family)
    })
  }
}

export function rulesOf({ upstream_networks, admin }: Config): AddressRules {
  return { deny: upstream_networks.deny, adminPort: admin.port }
}

type Config = Pick<GateConfig, 'upstream_networks' | 'admin' | 'routes'>

/** Addresses that the configuration writes out. @throws GateError ERR_CONFIG_VALUE */
export function checkUpstreams(config: Config): void {
  for (const [i, { upstream }] of config.routes.entries()) {
    if (!isForbidden(upstream, rulesOf(config))) continue
    throw new GateError(
      'ERR_CONFIG_VALUE',
      `routes[${i}].upstream: ${upstream} is an address that may not be dialled`,
      { hint: "it is the gate's own admin port, or in upstream_networks.deny" },
    )
  }
}

function isForbidden(origin: string, rules: AddressRules): boolean {
  const { hostname, port, protocol } = new URL(origin)
  const address = plainAddress(hostname.replace(/^\[|\]$/g, ''))
  if (address === undefined) return false
  const dialled = port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port)
  if (dialled === rules.adminPort && (loopback.has(address) || isOwn(address))) return true
  return new NetworkSet(rules.deny).has(address)
}

function isOwn(address: string): boolean {
  return Object.values(networkInterfaces()).some((cards) =>
    cards?.some((card) => plainAddress(card.address) === address),
  )
}

function forbidden(name: string): NodeJS.ErrnoException {
  return new GateError('ERR_UPSTREAM_ADDRESS', `${name} resolves to nothing that may be dialled`, {
    hint: 'see upstream_networks.deny',
  })
}
