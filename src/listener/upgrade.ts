/**
 * Reads a WebSocket handshake strictly (RFC 6455 section 4.2.1), or refuses it. Node raises `upgrade` also for requests
 * that are not a handshake: a POST with a body, HTTP/1.0, `h2c`. Another server may take the bytes after such a request
 * for the next request, so each of them is refused.
 */
import { type IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { GateError } from '../errors.ts'

/** A handshake that is valid and can be decided. Only `res` still speaks HTTP on its connection. */
export interface Upgrade {
  readonly socket: Socket
  /** `Sec-WebSocket-Key`. */
  readonly key: string
  /** Writes an answer that is not 101 and then closes the connection. */
  readonly res: ServerResponse
  /** Ends HTTP on the connection and gives its socket to the caller. */
  readonly take: () => Socket
}

/**
 * 16 bytes in base64: 22 characters, then padding. The last character holds 4 bits that no byte needs; they may be set,
 * as in the key of RFC 6455 section 4.1. The key is only sent on and hashed, never decoded.
 */
const goodKey = /^[A-Za-z0-9+/]{22}==$/

/** @throws GateError ERR_UPGRADE_MALFORMED, ERR_UPGRADE_VERSION */
export function parseUpgrade(req: IncomingMessage, socket: Socket, head: Buffer): Upgrade {
  const { method, httpVersion, rawHeaders } = req
  const found = new Map<string, string[]>()
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!.toLowerCase()
    const values = found.get(name)
    if (values === undefined) found.set(name, [rawHeaders[i + 1]!])
    else values.push(rawHeaders[i + 1]!)
  }
  const only = (name: string): string | undefined => {
    const values = found.get(name)
    return values?.length === 1 ? values[0] : undefined
  }
  const key = only('sec-websocket-key')
  const connection = (found.get('connection') ?? []).join(',').toLowerCase().split(',')
  const handshake =
    method === 'GET' &&
    httpVersion === '1.1' &&
    head.length === 0 &&
    only('upgrade')?.toLowerCase() === 'websocket' &&
    connection.some((name) => name.trim() === 'upgrade') &&
    key !== undefined &&
    goodKey.test(key) &&
    !found.has('content-length') &&
    !found.has('transfer-encoding') &&
    !found.has('expect')
  if (!handshake) throw new GateError('ERR_UPGRADE_MALFORMED')
  if (only('sec-websocket-version') !== '13') throw new GateError('ERR_UPGRADE_VERSION')
  return pending(socket, req, key)
}

function pending(socket: Socket, req: IncomingMessage, key: string): Upgrade {
  const res = new ServerResponse(req)
  res.shouldKeepAlive = false
  res.assignSocket(socket)
  res.once('finish', () => socket.destroySoon())
  // Any byte or FIN before the answer is an error: it could be smuggled behind the handshake.
  const early = (): void => {
    socket.destroy()
  }
  socket.on('data', early).on('end', early)
  return {
    socket,
    key,
    res,
    take: () => {
      socket.off('data', early).off('end', early).pause()
      res.detachSocket(socket)
      return socket
    },
  }
}
