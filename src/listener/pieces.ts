/**
 * A client cuts its request body into pieces as it likes, down to chunks of one byte. Each piece costs the same up to the
 * write to the upstream, whatever its size. So the pieces of one turn of the event loop go on as one, and a client cannot
 * hold the worker up by small pieces. They stay allowed: clients that stream send them.
 *
 * Relies on Node in two places, which its test watches (see node-quirks.ts for all others): the class of requests is an option of the server, and the parser
 * hands each piece of the body to the request's `push`, null at its end.
 */
import { IncomingMessage } from 'node:http'
import { atEndOfTurn } from '../domain/turn.ts'

/** No joined piece is larger; as much as is held of one body at most. */
export const joinBytes = 16 * 1024

/** Between turns one buffer is kept to join in: all that is held goes on at the end of its turn. */
let spare: Buffer | undefined

/** Takes pieces and gives them on, in their order and with no byte more or less, joined within each turn. */
export class Joiner {
  readonly #give: (piece: Buffer) => void
  /** The only piece so far: one that stays alone is not copied. */
  #first: Buffer | undefined
  #joined: Buffer | undefined
  #held = 0
  #due = false

  constructor(give: (piece: Buffer) => void) {
    this.#give = give
  }

  /** Bytes that are not given on yet. */
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

  /** Gives on what is held, if anything is. */
  flush(): void {
    const held = this.#held
    if (held === 0) return
    let piece = this.#first
    const joined = this.#joined
    // First of all: what it is given to may end the request, or bring more.
    this.#held = 0
    this.#first = undefined
    this.#joined = undefined
    if (joined !== undefined) {
      if (held * 2 > joinBytes) piece = joined.subarray(0, held)
      else {
        // It may wait for long behind an upstream that does not read: not in a buffer thousands of times its size.
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

/** A request of which the readers see joined pieces only, whenever they begin to read. */
export class JoinedRequest extends IncomingMessage {
  #joiner: Joiner | undefined

  /** @returns whether there is room for more, as if nothing were held: else Node stops to read. */
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
