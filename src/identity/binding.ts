/**
 * What a token is bound to (claim `cnf`, RFC 7800), and whether the connection that it comes over proves just that. A
 * bound token without its proof is a stolen one as far as the gate can tell; one that is bound in a way that nothing here
 * can prove is refused, never taken for a plain bearer.
 */
import { GateError } from '../errors.ts'

/** RFC 8705 section 3.1; the one confirmation that is understood. */
const certificateMember = 'x5t#S256'
/** 32 bytes as base64url in their one spelling: the last character carries four bits. */
const thumbprint = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/

/**
 * @param cnf As the issuer wrote it.
 * @returns Thumbprint of the one certificate over whose connections the token is good; undefined where it is good over any
 * @throws GateError ERR_TOKEN_BOUND
 */
export function readBinding(cnf: unknown): string | undefined {
  if (cnf === undefined) return undefined
  if (typeof cnf !== 'object' || cnf === null || Array.isArray(cnf))
    throw unproved('its cnf is not an object')
  // Each member is a condition: one that is not understood is one that nothing has proved.
  const members = Object.keys(cnf)
  if (members.length !== 1 || members[0] !== certificateMember)
    // Names only: a `jwk` may hold a secret.
    throw unproved(`its cnf has ${JSON.stringify(members)}, understood is "x5t#S256" alone`)
  const value = (cnf as Record<string, unknown>)[certificateMember]
  if (typeof value !== 'string' || !thumbprint.test(value))
    throw unproved('its x5t#S256 is not a SHA-256 thumbprint in base64url')
  return value
}

/**
 * Asked for each request, since a token that is known already may come over another connection.
 * @param boundTo `Principal.boundTo`
 * @param certificate `Client.certificate`: of the gate's own TLS connection, never out of a header.
 * @throws GateError ERR_TOKEN_BOUND
 */
export function checkBinding(boundTo: string | undefined, certificate: string | undefined): void {
  if (boundTo === undefined || boundTo === certificate) return
  throw unproved(
    `it is bound to the certificate ${boundTo}, the connection has ${certificate ?? 'none'}`,
  )
}

function unproved(why: string): GateError {
  return new GateError('ERR_TOKEN_BOUND', undefined, { cause: why })
}
