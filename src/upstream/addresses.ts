/**
 * Which addresses a name in the configuration may mean. A name is resolved when a connection is made, the answer is
 * checked and the checked address is the one dialled, so that whoever controls the name's DNS cannot point the
 * gate at itself, at this machine or at a cloud's metadata (DNS rebinding). Addresses that the configuration
 * writes out are checked when it is read.
 */
import { lookup as resolve } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { networkInterfaces } from 'node:os'
import type { GateConfig } from '../config/options.ts'
import { addressBytes, plainAddress } from '../domain/address.ts'
import { NetworkSet } from '../domain/network.ts'
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
  const port = portOf(origin)
  const local = /^(?:.+\.)?localhost$/.test(new URL(origin).hostname)
  const refused = (text: string): boolean => {
    const address = plainAddress(text)
    if (address === undefined || isDenied(address, port, denied, rules)) return true
    return !local && reached(address).some((each) => loopback.has(each))
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
  return reached(address).some(
    (each) => denied.has(each) || (port === adminPort && (loopback.has(each) || isOwn(each))),
  )
}

/** Prefixes in which an IPv4 address stands, with where; whoever routes them delivers to it. */
const translated = [
  // ::/96, RFC 4291 section 2.5.5.1
  { prefix: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], at: 12, mask: 0 },
  // 64:ff9b::/96, RFC 6052, and 64:ff9b:1::/48, RFC 8215
  { prefix: [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0], at: 12, mask: 0 },
  { prefix: [0x00, 0x64, 0xff, 0x9b, 0x00, 0x01], at: 12, mask: 0 },
  // 2002::/16, RFC 3056
  { prefix: [0x20, 0x02], at: 2, mask: 0 },
  // 2001::/32, RFC 4380: written inverted
  { prefix: [0x20, 0x01, 0, 0], at: 12, mask: 0xff },
]

/** What dialling an address may reach: itself, and the IPv4 address inside it. */
function reached(address: string): string[] {
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
  return new GateError('ERR_UPSTREAM_ADDRESS', `${name} resolves to nothing that may be dialled`, {
    hint: 'see upstream_networks.deny',
  })
}
