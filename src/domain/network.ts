/**
 * Network: a range of IP addresses in CIDR notation; of their spelling, see address.ts. Not: subnet mask, host.
 */
import { BlockList } from 'node:net'
import { addressBytes, plainAddress } from './address.ts'

const cidr = /^([0-9A-Fa-f:.]+)(?:\/(0|[1-9][0-9]{0,2}))?$/

interface Network {
  /** As `plainAddress` gives it. */
  readonly address: string
  readonly prefix: number
  readonly family: 'ipv4' | 'ipv6'
}

/** @throws TypeError with what is wrong with it */
function parseNetwork(network: string): Network {
  const [, text = '', digits] = cidr.exec(network) ?? []
  const address = plainAddress(text)
  if (address === undefined) throw new TypeError(`${network} is not a network`)
  const mapped = address.includes('.') && text.includes(':')
  const family = address.includes(':') ? 'ipv6' : 'ipv4'
  const longest = family === 'ipv6' ? 128 : 32
  const prefix = digits === undefined ? longest : Number(digits) - (mapped ? 96 : 0)
  if (prefix < 0 || prefix > longest) throw new TypeError(`${network} has no such prefix`)
  return { address, prefix, family }
}

/**
 * What is wrong with a network as written, undefined when it is fine. An address inside of a network is not its name:
 * whether one machine or all of them are meant cannot be told.
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
    ? `${text} has bits beyond its prefix: one address, or its whole network?`
    : undefined
}

/** A set of networks. */
export class NetworkSet {
  /** One for each family: in a common one `::/0` would hold every IPv4 address, as mapped. */
  readonly #lists = { ipv4: new BlockList(), ipv6: new BlockList() }

  /** @throws TypeError for what is no network; also for one that would hold every mapped IPv4 address. */
  constructor(networks: readonly string[]) {
    for (const network of networks) this.#add(network)
  }

  /** @param address As `plainAddress` gives it. */
  has(address: string): boolean {
    const family = address.includes(':') ? 'ipv6' : 'ipv4'
    return this.#lists[family].check(address, family)
  }

  #add(network: string): void {
    const { address, prefix, family } = parseNetwork(network)
    this.#lists[family].addSubnet(address, prefix, family)
  }
}
