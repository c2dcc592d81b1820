/** Signature algorithms (RFC 7518 section 3.1, RFC 8037 section 3.1) and the keys that fit them. */

/** RFC 9864 gives EdDSA with this curve a name of its own; both mean the same signature. */
export function familyOf(alg: string): string {
  return alg === 'Ed25519' ? 'EdDSA' : alg
}

/**
 * True if the key may verify this algorithm.
 * @param alg `familyOf` the algorithm. @param own Member `alg` of the key, undefined when it has none.
 */
export function fits(
  { kty, crv }: Readonly<Record<string, unknown>>,
  own: string | undefined,
  alg: string,
): boolean {
  if (own !== undefined && familyOf(own) !== alg) return false
  switch (alg) {
    case 'ES256':
      return kty === 'EC' && crv === 'P-256'
    case 'ES384':
      return kty === 'EC' && crv === 'P-384'
    case 'ES512':
      return kty === 'EC' && crv === 'P-521'
    case 'EdDSA':
      return kty === 'OKP' && crv === 'Ed25519'
    default:
      return kty === 'RSA'
  }
}
