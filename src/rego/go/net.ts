/**
 * `net.cidr_*`: computes with addresses as numbers. Two of these functions replace those compiled into the module, see
 * policy/module.ts. Addresses are parsed as strictly as in Go: no leading zeros, no zones. An IPv4 address mapped into
 * IPv6 counts as IPv4. Looking up names is refused, see registry.ts.
 */
import { isIPv4, isIPv6 } from 'node:net'
import type { BuiltinTable } from '../builtin.ts'
import { type Args, BuiltinError, members, refuseWork, text } from '../values/operand.ts'
import { isArray, RegoNumber, RegoObject, RegoSet, type Value } from '../values/value.ts'

interface Address {
  readonly bits: 32 | 128
  readonly value: bigint
}

interface Network extends Address {
  readonly prefix: number
}

const mappedPrefix = 0xffffn << 32n
const maxAddresses = 65_536n
const maxComparisons = 1_000_000

/** @returns Undefined if the text is not an address. */
function readAddress(given: string): Address | undefined {
  if (isIPv4(given)) return { bits: 32, value: BigInt(`0x${hexOfV4(given)}`) }
  if (!isIPv6(given) || given.includes('%')) return undefined
  const value = BigInt(`0x${hexOfV6(given)}`)
  return value >> 32n === 0xffffn ? { bits: 32, value: value & 0xffffffffn } : { bits: 128, value }
}

function hexOfV4(given: string): string {
  return given
    .split('.')
    .map((byte) => Number(byte).toString(16).padStart(2, '0'))
    .join('')
}

function hexOfV6(given: string): string {
  const dotted = /[0-9.]*$/.exec(given)![0]
  const plain = isIPv4(dotted)
    ? given.slice(0, -dotted.length) + hexOfV4(dotted).replace(/^..../, '$&:')
    : given
  const [head, tail] = plain.split('::') as [string, string | undefined]
  const groups = (half: string): string[] => (half === '' ? [] : half.split(':'))
  const [before, after] = [groups(head), groups(tail ?? '')]
  const zeros = Array<string>(8 - before.length - after.length).fill('0')
  return [...before, ...zeros, ...after].map((group) => group.padStart(4, '0')).join('')
}

/** @throws BuiltinError */
function parseNetwork(given: string): Network {
  const network = networkOf(given)
  if (network === undefined) throw new BuiltinError(`invalid CIDR address: ${given}`)
  return network
}

function networkOf(given: string): Network | undefined {
  const slash = given.indexOf('/')
  if (slash === -1) return undefined
  const digits = given.slice(slash + 1)
  const host = given.slice(0, slash)
  const address = readAddress(host)
  if (address === undefined || !/^[0-9]+$/.test(digits)) return undefined
  const written = Number(digits)
  if (written > (isIPv4(host) ? 32 : 128)) return undefined
  // A mapped address with a prefix shorter than 96 bits is an IPv6 network.
  if (address.bits === 32 && !isIPv4(host) && written < 96) {
    return network({ bits: 128, value: mappedPrefix | address.value }, written)
  }
  return network(address, isIPv4(host) || address.bits === 128 ? written : written - 96)
}

function network({ bits, value }: Address, prefix: number): Network {
  const host = BigInt(bits - prefix)
  return { bits, prefix, value: (value >> host) << host }
}

function lastOf({ bits, prefix, value }: Network): bigint {
  return value | ((1n << BigInt(bits - prefix)) - 1n)
}

function holds(outer: Network, inner: Address): boolean {
  return outer.bits === inner.bits && network(inner, outer.prefix).value === outer.value
}

/** Returns true if the network contains an address or a whole other network. @throws BuiltinError */
function contains(outer: Network, given: string): boolean {
  const address = readAddress(given)
  if (address !== undefined) return holds(outer, address)
  const inner = parseNetwork(given)
  return inner.prefix >= outer.prefix && holds(outer, inner)
}

/** True when one network contains the first address of the other. */
function intersect(args: Args): boolean {
  const [a, b] = [parseNetwork(text(args, 0)), parseNetwork(text(args, 1))]
  return holds(a, b) || holds(b, a)
}

function writeAddress({ bits, value }: Address): string {
  if (bits === 32) {
    return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 0xffn).join('.')
  }
  const groups = value
    .toString(16)
    .padStart(32, '0')
    .match(/..../g)!
    .map((group) => group.replace(/^0{1,3}/, ''))
  // The longest run of zeros is written as `::` (RFC 5952 section 4.2).
  let [best, length] = [-1, 1]
  for (let i = 0; i < 8; i++) {
    let end = i
    while (groups[end] === '0') end++
    if (end - i > length) [best, length] = [i, end - i]
  }
  if (best === -1) return groups.join(':')
  return `${groups.slice(0, best).join(':')}::${groups.slice(best + length).join(':')}`
}

function writeNetwork(of: Network): string {
  return `${writeAddress(of)}/${of.prefix}`
}

function expand(args: Args): Value {
  const of = parseNetwork(text(args, 0))
  const last = lastOf(of)
  if (last - of.value >= maxAddresses)
    refuseWork(`net.cidr_expand of over ${maxAddresses} addresses`)
  const out = new RegoSet()
  for (let value = of.value; value <= last; value++) out.add(writeAddress({ bits: of.bits, value }))
  return out
}

/** Returns the networks of a text, array, set or object, each with the value that stands for it in the result. */
function indexed(value: Value): (readonly [cidr: Value, index: Value])[] {
  const first = (of: Value): Value => {
    const cidr = isArray(of) ? of[0] : of
    if (cidr === undefined || (!isArray(of) && typeof of !== 'string')) {
      throw new BuiltinError('element must be string or non-empty array')
    }
    return cidr
  }
  if (typeof value === 'string') return [[value, value]]
  if (isArray(value)) return value.map((of, i) => [first(of), new RegoNumber(i)])
  if (value instanceof RegoSet) return Array.from(value, (of) => [first(of), of])
  if (value instanceof RegoObject) return Array.from(value, ([key, of]) => [first(of), key])
  return []
}

function containsMatches([outer, inner]: Args): Value {
  const out = new RegoSet()
  const outers = indexed(outer!)
  // OPA reads the second operand only where there is a network to compare with.
  if (outers.length === 0) return out
  const inners = indexed(inner!)
  if (outers.length * inners.length > maxComparisons) refuseWork('net.cidr_contains_matches')
  if (inners.length === 0) return out
  for (const [cidr, index] of outers) {
    const of = parseNetwork(text([cidr], 0))
    for (const [other, otherIndex] of inners) {
      if (contains(of, text([other], 0))) out.add([index, otherIndex])
    }
  }
  return out
}

/** A range of addresses as IPv6 numbers; IPv4 addresses are in the mapped range. */
interface Range {
  readonly first: bigint
  readonly last: bigint
  /** Text of the network as it was written, if nothing was merged into it. */
  readonly text: string | undefined
}

function rangeOf(given: Value): Range {
  if (typeof given !== 'string') throw new BuiltinError('element must be string')
  const address = readAddress(given)
  if (address?.bits === 128) throw new BuiltinError('IPv6 invalid: needs prefix length')
  // An address without a prefix stands for its class A, B or C network, as in OPA.
  const of = address === undefined ? parseNetwork(given) : network(address, classPrefix(address))
  const base = of.bits === 32 ? mappedPrefix : 0n
  const text = address === undefined ? writeNetwork(of) : `${writeAddress(address)}/${of.prefix}`
  return { first: base | of.value, last: base | lastOf(of), text }
}

function classPrefix({ value }: Address): number {
  const first = Number(value >> 24n)
  return first < 128 ? 8 : first < 192 ? 16 : 24
}

function merge(args: Args): Value {
  const ranges = members(args, 0)
    .map(rangeOf)
    .sort((a, b) => order(a.last, b.last) || order(a.first, b.first))
  for (let i = ranges.length - 1; i > 0; i--) {
    const [below, range] = [ranges[i - 1]!, ranges[i]!]
    if (previous(range.first) > below.last) continue
    const [first] = [below.first, range.first].sort(order)
    ranges.splice(i - 1, 2, { first: first!, last: range.last, text: undefined })
  }
  return new RegoSet(ranges.flatMap((range) => range.text ?? cidrsOf(range)))
}

function order(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** Returns the address before, or the same address if it is the lowest of its version. */
function previous(value: bigint): bigint {
  return value === 0n || value === mappedPrefix ? value : value - 1n
}

/** Returns the smallest list of networks that together cover the range. */
function cidrsOf({ first, last }: Range): string[] {
  const isV4 = first >> 32n === 0xffffn && last >> 32n === 0xffffn
  const out: string[] = []
  for (let at = first; at <= last; ) {
    let size = 0n
    while (size < 128n && at % (2n << size) === 0n && at + (2n << size) - 1n <= last) size++
    const prefix = 128 - Number(size)
    out.push(
      isV4
        ? writeNetwork({ bits: 32, value: at & 0xffffffffn, prefix: prefix - 96 })
        : writeNetwork({ bits: 128, value: at, prefix }),
    )
    at += 1n << size
  }
  return out
}

export const netBuiltins: BuiltinTable = {
  'net.cidr_contains': { call: (args) => contains(parseNetwork(text(args, 0)), text(args, 1)) },
  'net.cidr_intersects': { call: intersect },
  'net.cidr_is_valid': {
    call: ([given]) => typeof given === 'string' && networkOf(given) !== undefined,
  },
  'net.cidr_expand': { call: expand },
  'net.cidr_merge': { call: merge },
  'net.cidr_contains_matches': { call: containsMatches },
}
