/**
 * Proof: a signed statement by which a client shows, for one request, that it holds the key that its token is bound to
 * (DPoP, RFC 9449). Not: token, credential.
 */

import { signatureAlgorithms } from './signature-algorithms.ts'

/** Signature algorithms of proofs that the gate accepts: all asymmetric, registered and supported (RFC 9449 section 4.3). */
export const proofAlgorithms: readonly string[] = signatureAlgorithms.flatMap((each) =>
  // RFC 9864 gives it a second name, which clients write in proofs.
  each === 'EdDSA' ? [each, 'Ed25519'] : [each],
)
