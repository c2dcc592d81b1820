/**
 * Address: an IP address, as text in its one canonical spelling or as bytes. An IPv4 address mapped into IPv6 counts as
 * the IPv4 address, everywhere. Only this file handles mapped addresses and zones.
 */
import { isIP, isIPv4, SocketAddress } from 'node:net'

/**
 * The canonical spelling of an address: IPv6 compressed and in lower case, without zone; mapped IPv4 as IPv4.
 * @returns undefined when the text is not an address
 */
export function plainAddress(text: string): string | undefined {
  const kind = isIP(text)
  if (kind === 4) return text
  if (kind === 0) return undefined
  const zone = text.indexOf('%')
  const { address } = new SocketAddress({
    address: zone === -1 ? text : text.slice(0, zone),
    family: 'ipv6',
  })
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address
}

/** The 4 or 16 bytes of an address; undefined when the text is not an address. */
export function addressBytes(text: string): Uint8Array | undefined {
  const plain = plainAddress(text)
  if (plain === undefined) return undefined
  if (isIPv4(plain)) return Uint8Array.from(plain.split('.'), Number)
  const bytes = new Uint8Array(16)
  const [head = '', tail = ''] = plain.split('::')
  const back = groups(tail)
  bytes.set(groups(head))
  bytes.set(back, 16 - back.length)
  return bytes
}

/** Bytes of the groups in a part of an IPv6 address such as `1:203:1.2.3.4`. */
function groups(text: string): number[] {
  if (text === '') return []
  return text.split(':').flatMap((group) => {
    if (group.includes('.')) return group.split('.').map(Number)
    const value = Number.parseInt(group, 16)
    return [value >> 8, value & 0xff]
  })
}
