/**
 * Checks the addresses to which the names of upstreams resolve. A name is resolved for each new connection, the
 * result is checked, and the connection goes to the checked address. So the owner of the name's DNS cannot point the
 * gate at itself, at this machine or at the metadata service of a cloud. Addresses written in the configuration are
 * checked when it is loaded.
 */
import type { LookupFunction } from 'node:net'
import { networkInterfaces } from 'node:os'
import type { GateConfig } from '../config/options.ts'
import { addressBytes, plainAddress } from '../domain/address.ts'
import { checkedLookup } from '../domain/lookup.ts'
import { NetworkSet } from '../domain/network.ts'
import { GateError } from '../errors.ts'

export interface AddressRules {
  /** Networks that no upstream may be in. */
  readonly deny: readonly string[]
  /** Port of the gate's admin server. On this machine, no upstream may have it. */
  readonly adminPort: number
}

const loopback = new NetworkSet(['127.0.0.0/8', '::1'])

/**
 * Resolves a name as Node does and removes addresses that the rules forbid. Fails with ERR_UPSTREAM_ADDRESS if none
 * is left.
 */
export function lookupWithin(origin: string, rules: AddressRules): LookupFunction {
  const denied = new NetworkSet(rules.deny)
  const port = portOf(origin)
  const local = /^(?:.+\.)?localhost$/.test(new URL(origin).hostname)
  const refused = (text: string): boolean => {
    const address = plainAddress(text)
    if (address === undefined || isDenied(address, port, denied, rules)) return true
    return !local && reachableAddresses(address).some((each) => loopback.has(each))
  }
  return checkedLookup({
    allowed: (_name, found) => found.filter(({ address }) => !refused(address)),
    refusal: forbidden,
  })
}

function portOf(origin: string): number {
  const { port, protocol } = new URL(origin)
  return port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port)
}

function isDenied(
  address: string,
  port: number,
  denied: NetworkSet,
  { adminPort }: AddressRules,
): boolean {
  return reachableAddresses(address).some(
    (each) => denied.has(each) || (port === adminPort && (loopback.has(each) || isOwn(each))),
  )
}

/**
 * Prefixes of IPv6 addresses that contain an IPv4 address, and its position: a router may deliver them to that IPv4
 * address.
 */
const translated = [
  // ::/96, RFC 4291 section 2.5.5.1
  { prefix: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], at: 12, mask: 0 },
  // 64:ff9b::/96, RFC 6052, and 64:ff9b:1::/48, RFC 8215
  { prefix: [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0], at: 12, mask: 0 },
  { prefix: [0x00, 0x64, 0xff, 0x9b, 0x00, 0x01], at: 12, mask: 0 },
  // 2002::/16, RFC 3056
  { prefix: [0x20, 0x02], at: 2, mask: 0 },
  // 2001::/32, RFC 4380: the IPv4 address is stored inverted
  { prefix: [0x20, 0x01, 0, 0], at: 12, mask: 0xff },
]

/**
 * Returns the addresses that a connection to this address may reach: the address itself and an IPv4 address inside
 * it.
 */
function reachableAddresses(address: string): string[] {
  const bytes = addressBytes(address)
  if (bytes?.length !== 16 || loopback.has(address)) return [address]
  const inside = translated.filter(({ prefix }) => prefix.every((byte, i) => byte === bytes[i]))
  return [
    address,
    ...inside.map(({ at, mask }) =>
      Array.from(bytes.subarray(at, at + 4), (byte) => byte ^ mask).join('.'),
    ),
  ]
}

export function rulesOf({ upstream_networks, admin }: Config): AddressRules {
  return { deny: upstream_networks.deny, adminPort: admin.port }
}

type Config = Pick<GateConfig, 'upstream_networks' | 'admin' | 'routes'>

/** Checks addresses that are written in the configuration. @throws GateError ERR_CONFIG_VALUE */
export function checkUpstreams(config: Config): void {
  for (const [i, { upstream }] of config.routes.entries()) {
    if (!isForbidden(upstream, rulesOf(config))) continue
    throw new GateError(
      'ERR_CONFIG_VALUE',
      `routes[${i}].upstream: ${upstream} is a forbidden upstream address`,
      { hint: "it is the gate's own admin port, or in upstream_networks.deny" },
    )
  }
}

function isForbidden(origin: string, rules: AddressRules): boolean {
  const address = plainAddress(new URL(origin).hostname.replace(/^\[|\]$/g, ''))
  if (address === undefined) return false
  return isDenied(address, portOf(origin), new NetworkSet(rules.deny), rules)
}

function isOwn(address: string): boolean {
  return Object.values(networkInterfaces()).some((cards) =>
    cards?.some((card) => plainAddress(card.address) === address),
  )
}

function forbidden(name: string): NodeJS.ErrnoException {
  return new GateError('ERR_UPSTREAM_ADDRESS', `${name} resolves only to forbidden addresses`, {
    hint: 'change the address of this upstream, or the list of forbidden addresses in upstream_networks.deny',
  })
}
