/**
 * Proof: a signed statement by which a client shows, for one request, that it holds the key that its token is bound to
 * (DPoP, RFC 9449). Not: token, credential.
 */

/** Signature algorithms of proofs that the gate accepts: all asymmetric, registered and supported (RFC 9449 section 4.3). */
export const proofAlgorithms: readonly string[] = [
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'Ed25519',
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
]
