/**
 * Finds the ends of frames in one direction of a WebSocket (RFC 6455 section 5.2), so that a close frame can be
 * inserted between two frames, never inside one. Payloads are not interpreted.
 */

/** Returned for bytes that are not a valid frame of this side. */
const malformed = -1

export class Frames {
  /** True for the client's direction: clients mask their frames, servers do not. */
  readonly #masked: boolean
  /** Payload bytes of the current frame that have not arrived yet. */
  #left = 0
  /** First bytes of a frame header that has not arrived completely. */
  #header: Buffer | undefined
  #closed = false
  #broken = false

  constructor(options: { readonly masked: boolean }) {
    this.#masked = options.masked
  }

  get atBoundary(): boolean {
    return this.#left === 0 && this.#header === undefined && !this.#broken
  }

  /** True after a close frame of this side; it must send nothing more. */
  get closed(): boolean {
    return this.#closed
  }

  /**
   * @param toBoundary Stop at the first end of a frame.
   * @returns Number of bytes of the chunk that were read, −1 if they are not a valid frame of this side.
   */
  read(chunk: Buffer, toBoundary: boolean): number {
    // After an invalid frame, the ends of later frames are unknown.
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

  /**
   * @returns Position of the payload, the end of the chunk if the frame header is incomplete, or −1 if it is invalid.
   */
  #readHead(chunk: Buffer, from: number): number {
    const before = this.#header?.length ?? 0
    const bytes =
      this.#header === undefined
        ? chunk.subarray(from)
        : Buffer.concat([this.#header, chunk.subarray(from, from + 14)])
    const size = headSize(bytes)
    if (bytes.length >= 2 && !this.#fits(bytes)) return malformed
    if (bytes.length < size) {
      this.#header = Buffer.from(bytes)
      return chunk.length
    }
    this.#header = undefined
    const short = bytes[1]! & 0x7f
    if (short < 126) this.#left = short
    else if (short === 126) this.#left = bytes.readUInt16BE(2)
    else {
      // No peer sends a frame longer than 2^53 bytes, and its length would not be exact in a number.
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
    // Control frames must be short and must not be split into fragments (RFC 6455 section 5.5).
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

/** Returns a close frame as a server sends it (no mask) or a client (with mask). The reason must be short ASCII. */
export function closeFrame(code: number, reason: string, mask?: Buffer): Buffer {
  const payload = Buffer.alloc(2 + reason.length)
  payload.writeUInt16BE(code)
  payload.write(reason, 2, 'latin1')
  if (mask === undefined) return Buffer.concat([Buffer.of(0x88, payload.length), payload])
  for (let i = 0; i < payload.length; i++) payload[i] = payload[i]! ^ mask[i % 4]!
  return Buffer.concat([Buffer.of(0x88, 0x80 | payload.length), mask, payload])
}
