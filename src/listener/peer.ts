/**
 * Finds the peer of a connection: the other end itself or, if that is a trusted proxy, the client that the proxy names.
 * Proxies are trusted by network, never by default. The list of hops is read from the right: everything to the left of
 * the first untrusted hop may have been written by the client (RFC 7239 section 8.1).
 */
import type { Socket } from 'node:net'
import { plainAddress } from '../domain/address.ts'
import { tokenCharacters } from '../domain/http.ts'
import type { NetworkSet } from '../domain/network.ts'
import { GateError } from '../errors.ts'
import { type CertificateHeader, forwardedCertificate } from './forwarded-certificate.ts'

/** Both ends of a TCP connection, as far as the gate believes them. */
export interface Ends {
  readonly address: string
  readonly port: number
  readonly localAddress: string
  readonly localPort: number
}

export interface Peer extends Ends {
  readonly scheme: 'http' | 'https'
  /** True when a trusted proxy sent the request: it is then believed about the client. */
  readonly proxied: boolean
  /**
   * The value of `X-Forwarded-For` for the upstream: the client, then the proxies that it came through. What stands to
   * the left of the client in the header of a trusted proxy is left out, since the client may have written it.
   */
  readonly forwardedFor: string
  /**
   * SHA-256 of the client's certificate, base64url (RFC 8705 section 3.1): the verified one on this connection, or the one
   * that a trusted proxy passes on. Everything that asks for the client's certificate takes it from here.
   */
  readonly certificate: string | undefined
}

/** What a listening socket knows about its connections. */
export interface Via {
  readonly scheme: 'http' | 'https'
  /** Proxies whose headers about the client are believed; undefined: none. */
  readonly trusted: NetworkSet | undefined
  /** The one header that is read from these proxies; the other one is removed unread. */
  readonly clientHeader: 'x-forwarded-for' | 'forwarded'
  /** The header in which these proxies pass on the client's certificate; undefined: they pass on none. */
  readonly certificateHeader: CertificateHeader | undefined
  /** The ends of a connection as its PROXY protocol header names them, see proxy-protocol.ts. */
  readonly named: WeakMap<Socket, Ends>
  /**
   * Connections whose PROXY protocol header names no client. The load balancer has not read what comes over them, so it may
   * all be written by a client: a header about the client counts as little as from an address that is not trusted.
   */
  readonly unnamed: WeakSet<Socket>
  /** Thumbprints of client certificates, computed once for each connection. */
  readonly certificates: WeakMap<Socket, string>
  /** The other end of each connection, before a proxy's headers are read. */
  readonly peers: WeakMap<Socket, Peer>
}

const maxHops = 32

/**
 * @param pairs Flat list of header names and values.
 * @returns the peer; its `address` is never empty.
 * @throws GateError ERR_HEADER_MALFORMED, ERR_HEADER_REPEATED when a trusted proxy sends a malformed header, ERR_NOT_READY
 * when the connection has no peer address
 */
export function resolvePeer(socket: Socket, pairs: readonly string[], via: Via): Peer {
  const peer = via.peers.get(socket) ?? readPeer(socket, via)
  const { trusted } = via
  if (trusted === undefined || !trusted.has(peer.address) || via.unnamed.has(socket)) return peer
  const read = via.clientHeader === 'forwarded' ? readForwarded : readForwardedFor
  const { address, forwardedFor, scheme = peer.scheme } = read(pairs, peer.address, trusted)
  const port = address === peer.address ? peer.port : 0
  // A proxy that passes certificates on speaks for its clients: its own certificate is never taken for that of a client.
  const certificate =
    via.certificateHeader === undefined
      ? peer.certificate
      : forwardedCertificate(pairs, via.certificateHeader)
  return { ...peer, proxied: true, address, forwardedFor, port, scheme, certificate }
}

/**
 * True when the connection has a peer address; called as soon as it is accepted. A connection that was reset before has
 * none. One that is reset later keeps its address, since Node remembers an address that was read once: so no request is
 * decided without an address.
 */
export function hasPeer(socket: Socket): boolean {
  return socket.remoteAddress !== undefined
}

/**
 * Reads the peer of the connection itself. Its certificate is verified, and its PROXY header read, before its first
 * request.
 */
function readPeer(socket: Socket, via: Via): Peer {
  const ends = via.named.get(socket) ?? endsOf(socket)
  const { scheme } = via
  const certificate = via.certificates.get(socket)
  const peer = { ...ends, scheme, proxied: false, forwardedFor: ends.address, certificate }
  via.peers.set(socket, peer)
  return peer
}

function endsOf(socket: Socket): Ends {
  const address = plainAddress(socket.remoteAddress ?? '')
  // Without an address, rows and policies that name addresses could not be applied.
  if (address === undefined) throw new GateError('ERR_NOT_READY')
  return {
    address,
    port: socket.remotePort ?? 0,
    localAddress: plainAddress(socket.localAddress ?? '') ?? '',
    localPort: socket.localPort ?? 0,
  }
}

interface ForwardedPeer {
  readonly address: string
  readonly forwardedFor: string
  readonly scheme: 'http' | 'https' | undefined
}

/**
 * Reads hops from the right until one is not trusted: what is left of it the client may have written, and is not read.
 * @param own Address of the trusted proxy at the other end of the connection.
 */
function readForwardedFor(
  pairs: readonly string[],
  own: string,
  trusted: NetworkSet,
): ForwardedPeer {
  let address = own
  let forwardedFor = own
  let scheme: ForwardedPeer['scheme']
  let hops = 0
  for (let i = pairs.length - 2; i >= 0; i -= 2) {
    const value = pairs[i + 1]!
    if (pairs[i] === 'x-forwarded-proto') {
      scheme ??= readScheme(value.slice(value.lastIndexOf(',') + 1).trim())
    } else if (pairs[i] === 'x-forwarded-for') {
      for (let end = value.length; end >= 0 && trusted.has(address); ) {
        const start = end === 0 ? 0 : value.lastIndexOf(',', end - 1) + 1
        if (++hops > maxHops) throw new GateError('ERR_HEADER_MALFORMED')
        address = readHop(value.slice(start, end).trim())
        forwardedFor = `${address}, ${forwardedFor}`
        end = start - 1
      }
    }
  }
  return { address, forwardedFor, scheme }
}

/**
 * RFC 7239: elements are separated by commas, pairs by semicolons; values are tokens or quoted strings. As for
 * `X-Forwarded-For`, elements are read from the right, and quotes are counted from there: one that a client leaves open
 * reaches no element of a proxy.
 */
function readForwarded(pairs: readonly string[], own: string, trusted: NetworkSet): ForwardedPeer {
  let address = own
  let forwardedFor = own
  let scheme: ForwardedPeer['scheme']
  let hops = 0
  for (let i = pairs.length - 2; i >= 0; i -= 2) {
    if (pairs[i] !== 'forwarded') continue
    const value = pairs[i + 1]!
    for (let end = value.length; end >= 0 && trusted.has(address); ) {
      const start = startOfLast(value, 0, end, ',')
      const element = readElement(value, start, end)
      // Only the last element was written by the trusted proxy itself.
      if (++hops === 1) scheme = element.scheme
      if (hops > maxHops) throw new GateError('ERR_HEADER_MALFORMED')
      // A trusted proxy that names no client is itself the peer.
      if (element.address === undefined) return { address, forwardedFor, scheme }
      address = element.address
      forwardedFor = `${address}, ${forwardedFor}`
      end = start - 1
    }
  }
  return { address, forwardedFor, scheme }
}

/** @returns its address; undefined for a hop that hides it. */
function readElement(
  text: string,
  from: number,
  to: number,
): { address: string | undefined; scheme: ForwardedPeer['scheme'] } {
  let address: string | undefined
  let scheme: ForwardedPeer['scheme']
  let named = false
  for (let end = to; end >= from; ) {
    const start = startOfLast(text, from, end, ';')
    const [, name = '', token = '', quoted] =
      forwardedPair.exec(text.slice(start, end).trim()) ?? []
    if (name === '') throw new GateError('ERR_HEADER_MALFORMED')
    const value = quoted ?? token
    const lower = name.toLowerCase()
    if (lower === 'for') {
      if (named) throw new GateError('ERR_HEADER_MALFORMED')
      named = true
      // `unknown` and `_names` hide the hop (RFC 7239 sections 6.2 and 6.3).
      if (value !== 'unknown' && !value.startsWith('_')) address = readHop(value)
    } else if (lower === 'proto') scheme ??= readScheme(value)
    end = start - 1
  }
  return { address, scheme }
}

/** More than RFC 7239 allows without quotes: `:` and brackets too, since proxies write IPv6 addresses and ports that way. */
const forwardedPair = new RegExp(`^([A-Za-z]+)=(?:([${tokenCharacters}:[\\]]+)|"([^"\\\\]*)")$`)

/** Where the last part of `text` from `from` to `end` begins: behind the last separator outside quotes. */
function startOfLast(text: string, from: number, end: number, separator: ',' | ';'): number {
  let quoted = false
  for (let at = end - 1; at >= from; at--) {
    if (text[at] === '"') quoted = !quoted
    else if (text[at] === separator && !quoted) return at + 1
  }
  if (quoted) throw new GateError('ERR_HEADER_MALFORMED')
  return from
}

const withPort = /^(?:\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([0-9.]+):\d{1,5})$/

/** Reads an address; some proxies write a port after it. */
function readHop(text: string): string {
  const parts = withPort.exec(text)
  const address = plainAddress(parts?.[1] ?? parts?.[2] ?? text)
  if (address === undefined) throw new GateError('ERR_HEADER_MALFORMED')
  return address
}

/** Traefik and others write `wss` and `ws` for a WebSocket handshake over https and http. */
function readScheme(text: string): 'http' | 'https' {
  switch (text.toLowerCase()) {
    case 'https':
    case 'wss':
      return 'https'
    case 'http':
    case 'ws':
      return 'http'
    default:
      throw new GateError('ERR_HEADER_MALFORMED')
  }
}
