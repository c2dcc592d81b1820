/**
 * Peer: the network address and certificate that an exchange comes from, as far as revocations can name them. They
 * belong to the exchange, not to its token: the same token may come from anywhere. Not: client (the application that
 * the token was issued to).
 */
import { isIPv4, isIPv6 } from 'node:net'

export interface PeerIdentity {
  /** IP address as text. Behind a trusted proxy it is the address of the client itself. */
  readonly address: string | undefined
  /** SHA-256 of the client certificate on the connection, base64url; undefined without one. */
  readonly certificate: string | undefined
}

/** Returns the 4 or 16 bytes of an address, 4 for IPv4 inside IPv6; undefined for any other text. */
export function addressBytes(text: string): Uint8Array | undefined {
  if (isIPv4(text)) return Uint8Array.from(text.split('.'), Number)
  if (!isIPv6(text)) return undefined
  const bytes = new Uint8Array(16)
  const [plain = ''] = text.split('%')
  const [head = '', tail] = plain.split('::')
  const front = groups(head)
  const back = groups(tail ?? '')
  bytes.set(front)
  bytes.set(back, 16 - back.length)
  const mapped =
    bytes.subarray(0, 10).every((byte) => byte === 0) && (bytes[10]! & bytes[11]!) === 255
  return mapped ? bytes.slice(12) : bytes
}

/** Parses a part of an IPv6 address, such as `1:203:1.2.3.4`, into bytes. */
function groups(text: string): number[] {
  if (text === '') return []
  return text.split(':').flatMap((group) => {
    if (group.includes('.')) return group.split('.').map(Number)
    const value = Number.parseInt(group, 16)
    return [value >> 8, value & 0xff]
  })
}
