/**
 * Peer: from where an exchange comes, as far as rows can name it. It belongs to the exchange, not to its token: the
 * same token may come from anywhere. Not: client (that is who the token was issued to).
 */
import { isIPv4, isIPv6 } from 'node:net'

export interface PeerIdentity {
  /** IP address as text, of the client itself where a trusted proxy stands before it. */
  readonly address: string | undefined
  /** SHA-256 of the client certificate on the connection, base64url; undefined without one. */
  readonly certificate: string | undefined
}

/** The 4 or 16 bytes of an address; IPv4 written inside IPv6 is IPv4. Undefined for anything else. */
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

/** `1:203:1.2.3.4` -> its bytes. */
function groups(text: string): number[] {
  if (text === '') return []
  return text.split(':').flatMap((group) => {
    if (group.includes('.')) return group.split('.').map(Number)
    const value = Number.parseInt(group, 16)
    return [value >> 8, value & 0xff]
  })
}
