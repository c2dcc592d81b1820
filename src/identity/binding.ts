/**
 * Reads what a token is bound to (claim `cnf`, RFC 7800) and checks that the connection proves it. A bound token
 * without its proof is treated as stolen. A token with a kind of binding that the gate cannot check is refused; it is
 * never accepted as an unbound token.
 */
import { GateError } from '../errors.ts'

/**
 * The member of `cnf` that names a certificate (RFC 8705 section 3.1): the only kind of binding that the gate can
 * check.
 */
const certificateMember = 'x5t#S256'
/** 32 bytes in base64url. The last character carries only four bits, so each value has one spelling. */
const thumbprint = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/

/**
 * @param cnf The claim as the issuer wrote it.
 * @returns Thumbprint of the certificate that the token is bound to; undefined when the token is not bound
 * @throws GateError ERR_TOKEN_BOUND
 */
export function readBinding(cnf: unknown): string | undefined {
  if (cnf === undefined) return undefined
  if (typeof cnf !== 'object' || cnf === null || Array.isArray(cnf))
    throw unproved('its cnf is not an object')
  // Each member of `cnf` is a condition. A member that the gate does not know is a condition that it has not checked.
  const members = Object.keys(cnf)
  if (members.length !== 1 || members[0] !== certificateMember)
    // Only the names of the members are logged: a `jwk` may hold a secret.
    throw unproved(`its cnf has ${JSON.stringify(members)}; only "x5t#S256" is supported`)
  const value = (cnf as Record<string, unknown>)[certificateMember]
  if (typeof value !== 'string' || !thumbprint.test(value))
    throw unproved('its x5t#S256 is not a SHA-256 thumbprint in base64url')
  return value
}

/**
 * Called for each request, since a token whose verification is remembered may come over another connection.
 * @param boundTo `Principal.boundTo`
 * @param certificate Thumbprint of the peer's certificate on the gate's own TLS connection, never from a header.
 * @throws GateError ERR_TOKEN_BOUND
 */
export function checkBinding(boundTo: string | undefined, certificate: string | undefined): void {
  if (boundTo === undefined || boundTo === certificate) return
  throw unproved(
    `the token is bound to the certificate ${boundTo}; the connection has ${certificate ?? 'none'}`,
  )
}

function unproved(why: string): GateError {
  return new GateError('ERR_TOKEN_BOUND', undefined, { cause: why })
}
