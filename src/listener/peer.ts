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
  /** SHA-256 of the verified certificate on this connection, base64url (RFC 8705 section 3.1). */
  readonly certificate: string | undefined
}

/** What a listening socket knows about its connections. */
export interface Via {
  readonly scheme: 'http' | 'https'
  /** Proxies whose headers about the client are believed; undefined: none. */
  readonly trusted: NetworkSet | undefined
  /** The one header that is read from these proxies; the other one is removed unread. */
  readonly clientHeader: 'x-forwarded-for' | 'forwarded'
  /** The ends of a connection as its PROXY protocol header names them, see proxy-protocol.ts. */
  readonly named: WeakMap<Socket, Ends>
  /** Thumbprints of client certificates, computed once for each connection. */
  readonly certificates: WeakMap<Socket, string>
  /** The other end of each connection, before a proxy's headers are read. */
  readonly peers: WeakMap<Socket, Peer>
}

const maxHops = 32

/**
 * @param pairs Flat list of header names and values.
 * @returns the peer; its `address` is never empty.
 * @throws GateError ERR_HEADER_MALFORMED when a trusted proxy sends a malformed header, ERR_NOT_READY when the
 * connection has no peer address
 */
export function resolvePeer(socket: Socket, pairs: readonly string[], via: Via): Peer {
  const peer = via.peers.get(socket) ?? readPeer(socket, via)
  const { trusted } = via
  if (trusted === undefined || !trusted.has(peer.address)) return peer
  const told = via.clientHeader === 'forwarded' ? readForwarded(pairs) : readForwardedFor(pairs)
  let { address, forwardedFor } = peer
  for (let i = told.hops.length - 1; i >= 0 && trusted.has(address); i--) {
    const hop = told.hops[i]!
    // A trusted proxy that names no client is itself the peer.
    if (hop === undefined) break
    address = hop
    forwardedFor = `${hop}, ${forwardedFor}`
  }
  const port = address === peer.address ? peer.port : 0
  const scheme = told.scheme ?? peer.scheme
  return { ...peer, proxied: true, address, forwardedFor, port, scheme }
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
  /** The hops, leftmost first; undefined for a hop that hides its address. */
  readonly hops: readonly (string | undefined)[]
  readonly scheme: 'http' | 'https' | undefined
}

function readForwardedFor(pairs: readonly string[]): ForwardedPeer {
  const hops: string[] = []
  let scheme: ForwardedPeer['scheme']
  for (let i = 0; i < pairs.length; i += 2) {
    if (pairs[i] === 'x-forwarded-for') {
      for (const part of pairs[i + 1]!.split(',')) hops.push(readHop(part.trim()))
    } else if (pairs[i] === 'x-forwarded-proto') {
      scheme = readScheme(pairs[i + 1]!.split(',').at(-1)!.trim())
    }
  }
  return { hops: capped(hops), scheme }
}

/** RFC 7239: elements are separated by commas, pairs by semicolons; values are tokens or quoted strings. */
function readForwarded(pairs: readonly string[]): ForwardedPeer {
  const hops: (string | undefined)[] = []
  let scheme: ForwardedPeer['scheme']
  for (let i = 0; i < pairs.length; i += 2) {
    if (pairs[i] !== 'forwarded') continue
    for (const element of outsideQuotes(pairs[i + 1]!, ',')) {
      let hop: string | undefined
      // Only the last element was written by the trusted proxy itself.
      scheme = undefined
      for (const pair of outsideQuotes(element, ';')) {
        const [, name = '', token = '', quoted] = forwardedPair.exec(pair.trim()) ?? []
        if (name === '') throw new GateError('ERR_HEADER_MALFORMED')
        const value = quoted ?? token
        // `unknown` and `_names` hide the hop (RFC 7239 sections 6.2 and 6.3).
        if (name.toLowerCase() === 'for' && value !== 'unknown' && !value.startsWith('_'))
          hop = readHop(value)
        if (name.toLowerCase() === 'proto') scheme = readScheme(value)
      }
      hops.push(hop)
    }
  }
  return { hops: capped(hops), scheme }
}

/** More than RFC 7239 allows without quotes: `:` and brackets too, since proxies write IPv6 addresses and ports that way. */
const forwardedPair = new RegExp(`^([A-Za-z]+)=(?:([${tokenCharacters}:[\\]]+)|"([^"\\\\]*)")$`)

/** Splits at separators outside quotes. */
function outsideQuotes(text: string, separator: ',' | ';'): string[] {
  if (!text.includes('"')) return text.split(separator)
  const parts: string[] = []
  let quoted = false
  let from = 0
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '"') quoted = !quoted
    else if (text[at] === separator && !quoted) {
      parts.push(text.slice(from, at))
      from = at + 1
    }
  }
  if (quoted) throw new GateError('ERR_HEADER_MALFORMED')
  parts.push(text.slice(from))
  return parts
}

const withPort = /^(?:\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([0-9.]+):\d{1,5})$/

/** Reads an address; some proxies write a port after it. */
function readHop(text: string): string {
  const parts = withPort.exec(text)
  const address = plainAddress(parts?.[1] ?? parts?.[2] ?? text)
  if (address === undefined) throw new GateError('ERR_HEADER_MALFORMED')
  return address
}

function readScheme(text: string): 'http' | 'https' {
  const lower = text.toLowerCase()
  if (lower === 'http' || lower === 'https') return lower
  throw new GateError('ERR_HEADER_MALFORMED')
}

function capped<T>(hops: readonly T[]): readonly T[] {
  if (hops.length > maxHops) throw new GateError('ERR_HEADER_MALFORMED')
  return hops
}
