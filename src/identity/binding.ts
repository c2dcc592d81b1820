/**
 * Reads what a token is bound to (claim `cnf`, RFC 7800) and checks that the connection proves it; dpop.ts checks the proof
 * of a key. A bound token without its proof is treated as stolen. A token with a kind of binding that the gate cannot check
 * is refused; it is never accepted as an unbound token.
 */
import type { Binding } from '../domain/principal.ts'
import { GateError } from '../errors.ts'

/** The members of `cnf` that the gate can check: a certificate (RFC 8705 section 3.1), a key (RFC 9449 section 6.1). */
const members = { certificate: 'x5t#S256', key: 'jkt' } as const
const known: readonly string[] = Object.values(members)
/** 32 bytes in base64url. The last character carries only four bits, so each value has one spelling. */
const thumbprint = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/

/**
 * @param cnf The claim as the issuer wrote it.
 * @returns undefined when the token is not bound
 * @throws GateError ERR_TOKEN_BOUND
 */
export function readBinding(cnf: unknown): Binding | undefined {
  if (cnf === undefined) return undefined
  if (typeof cnf !== 'object' || cnf === null || Array.isArray(cnf))
    throw unproved('its cnf is not an object')
  // Each member of `cnf` is a condition. A member that the gate does not know is a condition that it has not checked.
  const found = Object.keys(cnf)
  if (found.length === 0 || !found.every((name) => known.includes(name)))
    // Only the names of the members are logged: a `jwk` may hold a secret.
    throw unproved(
      `its cnf has ${JSON.stringify(found)}; only ${known.map((name) => JSON.stringify(name)).join(' and ')} are supported`,
    )
  const read = (name: string): string | undefined => {
    const value = (cnf as Record<string, unknown>)[name]
    if (!found.includes(name)) return undefined
    if (typeof value !== 'string' || !thumbprint.test(value))
      throw unproved(`its ${name} is not a SHA-256 thumbprint in base64url`)
    return value
  }
  return { certificate: read(members.certificate), key: read(members.key) }
}

/**
 * Called for each request, since a token whose verification is remembered may come over another connection.
 * @param boundTo `Principal.boundTo`
 * @param certificate `Peer.certificate`
 * @throws GateError ERR_TOKEN_BOUND
 */
export function checkBinding(boundTo: Binding | undefined, certificate: string | undefined): void {
  const wanted = boundTo?.certificate
  if (wanted === undefined || wanted === certificate) return
  throw unproved(
    `the token is bound to the certificate ${wanted}; the connection has ${certificate ?? 'none'}`,
  )
}

/**
 * Checks that a token came under the scheme that fits it (RFC 9449 section 7): under DPoP exactly when it is bound to a key.
 * A cookie or a subprotocol has no scheme.
 * @param scheme Of the `Authorization` header; undefined when the token came in another place.
 * @throws GateError ERR_TOKEN_BOUND
 */
export function checkScheme(
  boundTo: Binding | undefined,
  scheme: 'Bearer' | 'DPoP' | undefined,
): void {
  const isBound = boundTo?.key !== undefined
  if (isBound && scheme === 'Bearer')
    throw unproved(`the token is bound to the key ${boundTo.key}; it came under the scheme Bearer`)
  if (!isBound && scheme === 'DPoP')
    throw unproved('the token is not bound to a key; it came under the scheme DPoP')
}

function unproved(why: string): GateError {
  return new GateError('ERR_TOKEN_BOUND', undefined, { cause: why })
}
