/**
 * Peer: the network address and certificate that an exchange comes from, as far as revocations can name them. They
 * belong to the exchange, not to its token: the same token may come from anywhere. Not: client (the application that
 * the token was issued to).
 */

export interface PeerIdentity {
  /** IP address as text. Behind a trusted proxy it is the address of the client itself. */
  readonly address: string | undefined
  /** SHA-256 of the client certificate on the connection, base64url; undefined without one. */
  readonly certificate: string | undefined
}
