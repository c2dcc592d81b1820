/**
 * The nonces that proofs must carry on routes with `dpop_nonce: required` (RFC 9449 sections 8 and 9): proof that the client
 * made its proof just now, whatever its clock says. Nothing is stored: a nonce is a MAC of the minute under a secret that the
 * workers of this process share. Another gate has another secret, so a client that comes to it for the first time is refused
 * once and told the nonce of that gate.
 */
import { createHmac } from 'node:crypto'

const slotMs = 60_000

export class Nonces {
  readonly #secret: string
  #slot = -1
  #current = ''
  #before = ''

  constructor(secret: string) {
    this.#secret = secret
  }

  current(nowMs: number): string {
    this.#turn(nowMs)
    return this.#current
  }

  /** True for the nonce of this minute and of the one before. */
  accepts(nonce: unknown, nowMs: number): boolean {
    this.#turn(nowMs)
    return nonce === this.#current || nonce === this.#before
  }

  #turn(nowMs: number): void {
    const slot = Math.floor(nowMs / slotMs)
    if (slot === this.#slot) return
    this.#slot = slot
    this.#current = this.#nonceOf(slot)
    this.#before = this.#nonceOf(slot - 1)
  }

  #nonceOf(slot: number): string {
    return createHmac('sha256', this.#secret).update(`nonce ${slot}`).digest('base64url')
  }
}
