/**
 * Where frames begin and end in one direction of a WebSocket (RFC 6455 section 5.2). Payloads are not read: only as much
 * is known as it takes to put a close frame between two frames and never into one.
 */

/** Why a frame is none that may come from this side. */
const malformed = -1

export class Frames {
  /** Frames of clients are masked, those of servers are not. */
  readonly #masked: boolean
  /** Of the frame under way: bytes of payload to come. */
  #left = 0
  /** The beginning of a head that is not complete yet. */
  #head: Buffer | undefined
  #closed = false
  #broken = false

  constructor(options: { readonly masked: boolean }) {
    this.#masked = options.masked
  }

  get atBoundary(): boolean {
    return this.#left === 0 && this.#head === undefined && !this.#broken
  }

  /** A close frame has gone by: this side says nothing more. */
  get closed(): boolean {
    return this.#closed
  }

  /**
   * @param toBoundary Stop at the first boundary.
   * @returns how many bytes of the chunk were read, −1 for what is no frame of this side
   */
  read(chunk: Buffer, toBoundary: boolean): number {
    // After what was no frame nothing is known of bounds.
    if (this.#broken) return malformed
    let at = 0
    while (at < chunk.length) {
      if (this.#left > 0) {
        const taken = Math.min(this.#left, chunk.length - at)
        this.#left -= taken
        at += taken
      } else {
        at = this.#readHead(chunk, at)
        if (at === malformed) {
          this.#broken = true
          return malformed
        }
      }
      if (toBoundary && this.atBoundary) return at
    }
    return at
  }

  /** @returns where the payload begins, the end of the chunk if the head is not complete, or −1 */
  #readHead(chunk: Buffer, from: number): number {
    const before = this.#head?.length ?? 0
    const bytes =
      this.#head === undefined
        ? chunk.subarray(from)
        : Buffer.concat([this.#head, chunk.subarray(from, from + 14)])
    const size = headSize(bytes)
    if (bytes.length >= 2 && !this.#fits(bytes)) return malformed
    if (bytes.length < size) {
      this.#head = Buffer.from(bytes)
      return chunk.length
    }
    this.#head = undefined
    const short = bytes[1]! & 0x7f
    if (short < 126) this.#left = short
    else if (short === 126) this.#left = bytes.readUInt16BE(2)
    else {
      // Longer than 2^53 is no frame that anybody sends.
      if (bytes.readUInt32BE(2) > 0x1fffff) return malformed
      this.#left = bytes.readUInt32BE(2) * 2 ** 32 + bytes.readUInt32BE(6)
    }
    if ((bytes[0]! & 0x0f) === 8) this.#closed = true
    return from + size - before
  }

  #fits(head: Buffer): boolean {
    const opcode = head[0]! & 0x0f
    const control = opcode >= 8
    if (control ? opcode > 10 : opcode > 2) return false
    // Control frames are short and whole (RFC 6455 section 5.5).
    if (control && ((head[0]! & 0x80) === 0 || (head[1]! & 0x7f) > 125)) return false
    return ((head[1]! & 0x80) !== 0) === this.#masked
  }
}

function headSize(head: Buffer): number {
  if (head.length < 2) return 2
  const short = head[1]! & 0x7f
  const length = short === 127 ? 8 : short === 126 ? 2 : 0
  return 2 + length + ((head[1]! & 0x80) === 0 ? 0 : 4)
}

/** A close frame as a server (no mask) or a client (mask) sends it; the reason is short ASCII. */
export function closeFrame(code: number, reason: string, mask?: Buffer): Buffer {
  const payload = Buffer.alloc(2 + reason.length)
  payload.writeUInt16BE(code)
  payload.write(reason, 2, 'latin1')
  if (mask === undefined) return Buffer.concat([Buffer.of(0x88, payload.length), payload])
  for (let i = 0; i < payload.length; i++) payload[i] = payload[i]! ^ mask[i % 4]!
  return Buffer.concat([Buffer.of(0x88, 0x80 | payload.length), mask, payload])
}
