/**
 * A client may cut its request body into pieces as small as one byte, and each piece costs the same work up to the
 * write to the upstream. So all pieces that arrive in one turn of the event loop are joined, and a client cannot hold
 * up the worker with small pieces. They are not refused, since clients that stream send them.
 *
 * Relies on Node in two places, which its test checks (see node-quirks.ts for all others): the class of requests is an
 * option of the server, and the parser passes each piece of the body to the request's `push`, and null at the end.
 */
import { IncomingMessage } from 'node:http'
import { atEndOfTurn } from '../domain/turn.ts'

/** Largest size of a joined piece, and the most bytes that are held of one body. */
export const joinBytes = 16 * 1024

/** One buffer is shared by all bodies, since everything that is held is passed on at the end of its turn. */
let spare: Buffer | undefined

/** Takes pieces and passes them on in order, joined within each turn, without changing a byte. */
export class Joiner {
  readonly #give: (piece: Buffer) => void
  /** The only piece so far: a piece that stays alone is not copied. */
  #first: Buffer | undefined
  #joined: Buffer | undefined
  #held = 0
  #due = false

  constructor(give: (piece: Buffer) => void) {
    this.#give = give
  }

  /** Bytes that are not passed on yet. */
  get held(): number {
    return this.#held
  }

  add(piece: Buffer): void {
    if (this.#held + piece.length > joinBytes) this.flush()
    if (piece.length >= joinBytes) {
      this.#give(piece)
      return
    }
    if (this.#held === 0) {
      this.#first = piece
      this.#held = piece.length
      if (!this.#due) {
        this.#due = true
        atEndOfTurn(this.#endTurn)
      }
      return
    }
    if (this.#joined === undefined) {
      this.#joined = spare ?? Buffer.allocUnsafeSlow(joinBytes)
      spare = undefined
      this.#joined.set(this.#first!, 0)
      this.#first = undefined
    }
    this.#joined.set(piece, this.#held)
    this.#held += piece.length
    if (this.#held === joinBytes) this.flush()
  }

  /** Passes on the bytes that are held, if any. */
  flush(): void {
    const held = this.#held
    if (held === 0) return
    let piece = this.#first
    const joined = this.#joined
    // Reset before passing on: the receiver may end the request or bring in more pieces.
    this.#held = 0
    this.#first = undefined
    this.#joined = undefined
    if (joined !== undefined) {
      if (held * 2 > joinBytes) piece = joined.subarray(0, held)
      else {
        // The piece may wait for long behind an upstream that does not read, so it must not keep a much larger buffer
        // in memory.
        piece = Buffer.allocUnsafeSlow(held)
        joined.copy(piece, 0, 0, held)
        spare = joined
      }
    }
    this.#give(piece!)
  }

  readonly #endTurn = (): void => {
    this.#due = false
    this.flush()
  }
}

/** A request whose readers see only joined pieces, no matter when they begin to read. */
export class JoinedRequest extends IncomingMessage {
  #joiner: Joiner | undefined

  /** @returns whether Node may read on; bytes that are held count as passed on. */
  override push(piece: Buffer | null): boolean {
    if (piece === null) {
      this.#joiner?.flush()
      return super.push(null)
    }
    this.#joiner ??= new Joiner((joined) => super.push(joined))
    this.#joiner.add(piece)
    return this.readableLength + this.#joiner.held < this.readableHighWaterMark
  }
}
