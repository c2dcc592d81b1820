/** Signature algorithms that the gate verifies, of tokens and of proofs (RFC 7518 section 3.1, RFC 8037): none is symmetric. */
export const signatureAlgorithms: readonly string[] = [
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
]
