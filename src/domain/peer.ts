/**
 * Peer: from where an exchange comes, as far as rows can name it. It belongs to the exchange, not to its token: the
 * same token may come from anywhere. Not: client (that is who the token was issued to).
 */

export interface PeerIdentity {
  /** IP address as text, of the client itself where a trusted proxy stands before it. */
  readonly address: string | undefined
  /** SHA-256 of the client certificate on the connection, base64url; undefined without one. */
  readonly certificate: string | undefined
}
