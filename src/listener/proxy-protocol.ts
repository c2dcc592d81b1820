/**
 * The PROXY protocol (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt), versions 1 and 2: a trusted load
 * balancer names the ends of the connection before its first byte. When the header is required, a connection from
 * another address, without the header, or with a malformed one is closed without an answer, since it is not HTTP yet.
 */
import { createServer, type Server as NetServer, type Socket } from 'node:net'
import { plainAddress } from '../domain/address.ts'
import type { NetworkSet } from '../domain/network.ts'
import type { Ends } from './peer.ts'

/** `ends` is undefined when the load balancer speaks for itself (health checks), or cannot name its client. */
export interface ProxyHeader {
  readonly ends: Ends | undefined
  /** Its length in bytes. */
  readonly length: number
}

const signature2 = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
/** Longest header of version 1, CRLF included (section 2.1 of the specification). */
const longest1 = 107
/** Longest header of version 2: 16 bytes, then addresses and TLVs. */
const longest2 = 16 + 2048

/** @returns the header, `more` while it is incomplete, `malformed` when it can no longer become valid */
export function parseProxyHeader(bytes: Buffer): ProxyHeader | 'more' | 'malformed' {
  const head = bytes.subarray(0, 12)
  if (head.equals(signature2.subarray(0, head.length))) return readVersion2(bytes)
  return readVersion1(bytes)
}

const line1 = /^PROXY (TCP4|TCP6) (\S+) (\S+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})$/

function readVersion1(bytes: Buffer): ProxyHeader | 'more' | 'malformed' {
  const text = bytes.toString('latin1', 0, longest1)
  const end = text.indexOf('\r\n')
  if (end === -1) {
    const begun = text.startsWith('PROXY ') || 'PROXY '.startsWith(text)
    return begun && text.length < longest1 ? 'more' : 'malformed'
  }
  const length = end + 2
  const line = text.slice(0, end)
  if (/^PROXY UNKNOWN(?: .*)?$/.test(line)) return { ends: undefined, length }
  const [, family, from = '', to = '', fromPort, toPort] = line1.exec(line) ?? []
  const ends = endsOf(from, Number(fromPort), to, Number(toPort))
  if (ends === undefined || from.includes(':') !== (family === 'TCP6')) return 'malformed'
  return { ends, length }
}

function readVersion2(bytes: Buffer): ProxyHeader | 'more' | 'malformed' {
  if (bytes.length < 16) return 'more'
  const command = bytes[12]!
  const family = bytes[13]! >>> 4
  const length = 16 + bytes.readUInt16BE(14)
  if ((command !== 0x20 && command !== 0x21) || length > longest2) return 'malformed'
  if (bytes.length < length) return 'more'
  // LOCAL, or a family other than IP: the connection is the load balancer's own.
  if (command === 0x20 || (family !== 1 && family !== 2)) return { ends: undefined, length }
  const size = family === 1 ? 4 : 16
  if (length < 16 + 2 * size + 4) return 'malformed'
  const address = (at: number): string =>
    family === 1
      ? [...bytes.subarray(at, at + 4)].join('.')
      : (bytes
          .toString('hex', at, at + 16)
          .match(/.{4}/g)
          ?.join(':') ?? '')
  const ports = 16 + 2 * size
  const ends = endsOf(
    address(16),
    bytes.readUInt16BE(ports),
    address(16 + size),
    bytes.readUInt16BE(ports + 2),
  )
  return ends === undefined ? 'malformed' : { ends, length }
}

function endsOf(from: string, fromPort: number, to: string, toPort: number): Ends | undefined {
  const address = plainAddress(from)
  const localAddress = plainAddress(to)
  const wrong = address === undefined || localAddress === undefined
  if (wrong || !(fromPort <= 65535) || !(toPort <= 65535)) return undefined
  return { address, port: fromPort, localAddress, localPort: toPort }
}

export interface ProxiedOptions {
  readonly trusted: NetworkSet
  /** Called for each connection. */
  readonly timeoutMs: () => number
  readonly named: WeakMap<Socket, Ends>
  readonly unnamed: WeakSet<Socket>
  /** Called with a connection whose header has been removed. */
  readonly onConnection: (socket: Socket) => void
  /** A connection was closed because its header was malformed, missing, or from an address that is not trusted. */
  readonly onRefused: () => void
}

/** A server that removes the PROXY header from each connection before passing the connection on. */
export function createProxiedServer(options: ProxiedOptions): NetServer {
  const { trusted, timeoutMs, named, unnamed, onConnection, onRefused } = options
  return createServer({ noDelay: true, allowHalfOpen: true }, (socket) => {
    const refuse = (): void => {
      onRefused()
      socket.destroy()
    }
    socket.on('error', () => socket.destroy())
    if (!trusted.has(plainAddress(socket.remoteAddress ?? '') ?? '')) {
      refuse()
      return
    }
    let bytes: Buffer = Buffer.alloc(0)
    const timer = setTimeout(refuse, timeoutMs())
    socket.once('close', () => clearTimeout(timer))
    const onEnd = (): void => refuse()
    const onData = (chunk: Buffer): void => {
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
      const header = parseProxyHeader(bytes)
      if (header === 'more') return
      clearTimeout(timer)
      socket.off('data', onData)
      socket.off('end', onEnd)
      if (header === 'malformed') {
        refuse()
        return
      }
      if (header.ends === undefined) unnamed.add(socket)
      else named.set(socket, header.ends)
      socket.pause()
      const rest = bytes.subarray(header.length)
      if (rest.length > 0) socket.unshift(rest)
      onConnection(socket)
    }
    socket.on('data', onData)
    socket.on('end', onEnd)
  })
}
