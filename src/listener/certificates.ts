/** TLS on a port: the options of the handshake, and the thumbprint of a client's certificate. */
import { hash } from 'node:crypto'
import type { ServerOptions } from 'node:https'
import type { TLSSocket } from 'node:tls'
import type { GateConfig } from '../config/options.ts'
import type { Via } from './peer.ts'

type Tls = NonNullable<GateConfig['listen'][number]['tls']>

/**
 * An optional client certificate that does not verify still passes the handshake; `noteCertificate` then ends the
 * connection.
 */
export function secureOptions({ cert, key, client_ca: ca, client_cert }: Tls): ServerOptions {
  const asked =
    ca === undefined
      ? {}
      : { ca, requestCert: true, rejectUnauthorized: client_cert === 'required' }
  return { cert, key, minVersion: 'TLSv1.2', ...asked }
}

/**
 * Remembers the thumbprint of the client's certificate (RFC 8705 section 3.1). A certificate that does not verify ends
 * the connection.
 */
export function noteCertificate(socket: TLSSocket, via: Via): void {
  const certificate = socket.getPeerX509Certificate()
  if (certificate === undefined) return
  if (socket.authorized) {
    via.certificates.set(socket, hash('sha256', certificate.raw, 'base64url'))
  } else socket.destroy()
}
