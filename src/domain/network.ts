/**
 * Network: a range of IP addresses in CIDR notation; address.ts has their spelling. Not: subnet mask, host.
 */
import { BlockList } from 'node:net'
import { addressBytes, plainAddress } from './address.ts'

const cidr = /^([0-9A-Fa-f:.]+)(?:\/(0|[1-9][0-9]{0,2}))?$/

interface Network {
  /** Address in the form of `plainAddress`. */
  readonly address: string
  readonly prefix: number
  readonly family: 'ipv4' | 'ipv6'
}

/** @throws TypeError with a message that says what is wrong. */
function parseNetwork(network: string): Network {
  const [, text = '', digits] = cidr.exec(network) ?? []
  const address = plainAddress(text)
  if (address === undefined) throw new TypeError(`${network} is not a network`)
  const mapped = address.includes('.') && text.includes(':')
  const family = address.includes(':') ? 'ipv6' : 'ipv4'
  const longest = family === 'ipv6' ? 128 : 32
  const prefix = digits === undefined ? longest : Number(digits) - (mapped ? 96 : 0)
  if (prefix < 0 || prefix > longest)
    throw new TypeError(`${network} has a prefix length out of range`)
  return { address, prefix, family }
}

/**
 * Returns the problem of a network in the configuration, undefined if it is valid. A network like 10.1.2.3/16 is a
 * problem: it is unclear whether one machine or the whole network is meant.
 */
export function networkProblem(text: string): string | undefined {
  let network: Network
  try {
    network = parseNetwork(text)
  } catch (error) {
    return (error as Error).message
  }
  const { address, prefix } = network
  const beyond = (i: number): number => 0xff >> Math.min(8, Math.max(0, prefix - 8 * i))
  const inside = addressBytes(address)!.some((byte, i) => (byte & beyond(i)) !== 0)
  return inside
    ? `${text} has bits set after its prefix: write either the single address or the first address of the network`
    : undefined
}

/** A set of networks. */
export class NetworkSet {
  /** One list per address family: in a common list, `::/0` would also contain every (mapped) IPv4 address. */
  readonly #lists = { ipv4: new BlockList(), ipv6: new BlockList() }

  /**
   * @throws TypeError for a text that is not a network, and for a network that would contain every mapped IPv4
   * address.
   */
  constructor(networks: readonly string[]) {
    for (const network of networks) this.#add(network)
  }

  /** @param address Address in the form of `plainAddress`. */
  has(address: string): boolean {
    const family = address.includes(':') ? 'ipv6' : 'ipv4'
    return this.#lists[family].check(address, family)
  }

  #add(network: string): void {
    const { address, prefix, family } = parseNetwork(network)
    this.#lists[family].addSubnet(address, prefix, family)
  }
}
