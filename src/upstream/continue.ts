/**
 * Removes `100 Continue` from what an upstream sends. Some upstreams send it to every request with a body, asked or not,
 * and RFC 9110 section 15.2 wants it to be ignored; undici takes it for the end of the connection.
 */

/** Most bytes that are held while the head of an interim answer is incomplete. */
const maxHeldBytes = 32 * 1024
/** Most answers `100 Continue` to one request; after that undici gets them and refuses the connection. */
const maxContinues = 100
const begin = Buffer.from('HTTP/1.1 1')
const headEnd = Buffer.from('\r\n\r\n')
const cr = 0x0d
const lf = 0x0a
const none = Buffer.alloc(0)
/** `HTTP/1.1 100` */
const statusBytes = 12

export class ContinueFilter {
  /** True while interim answers may come: from the start of a request until the head of its answer. */
  #looking = false
  #held = none
  #found = 0

  start(): void {
    this.#looking = true
    this.#found = 0
  }

  /**
   * @param bytes What has arrived; null at the end of the connection.
   * @returns what undici shall read; empty when all of it is held or removed.
   */
  read(bytes: Buffer | null): Buffer {
    if (!this.#looking) return bytes ?? none
    // The usual case: a final answer, in one glance.
    if (bytes !== null && this.#held.length === 0 && bytes.length > begin.length) {
      if (bytes[begin.length - 1] !== begin[begin.length - 1]) {
        this.#looking = false
        return bytes
      }
    }
    const all = bytes === null ? this.#held : Buffer.concat([this.#held, bytes])
    this.#held = none
    return this.#without(all, bytes === null)
  }

  #without(bytes: Buffer, over: boolean): Buffer {
    const kept: Buffer[] = []
    let at = 0
    while (at < bytes.length && this.#looking) {
      const rest = bytes.subarray(at)
      const short = rest.length < statusBytes
      const known = Math.min(rest.length, begin.length)
      const end = rest.indexOf(headEnd)
      // No interim answer, or 101, after which other bytes than HTTP come.
      if (rest.compare(begin, 0, known, 0, known) !== 0 || isSwitch(rest)) this.#looking = false
      else if (short || end === -1) {
        if (over || rest.length > maxHeldBytes) this.#looking = false
        else {
          this.#held = Buffer.from(rest)
          return Buffer.concat(kept)
        }
      } else {
        const length = end + headEnd.length
        if (!isContinue(rest)) kept.push(rest.subarray(0, length))
        else if (++this.#found > maxContinues || !isOneHead(rest.subarray(0, end))) {
          this.#looking = false
          break
        }
        at += length
      }
    }
    kept.push(bytes.subarray(at))
    return kept.length === 1 ? kept[0]! : Buffer.concat(kept)
  }
}

function isContinue(head: Buffer): boolean {
  return head[10] === 0x30 && head[11] === 0x30
}

/**
 * False for lines that end with LF alone, which undici refuses: the end that was found is then that of the next answer,
 * and what is removed with it would leave a body to be read as an answer.
 */
function isOneHead(head: Buffer): boolean {
  for (let at = head.indexOf(lf); at !== -1; at = head.indexOf(lf, at + 1))
    if (head[at - 1] !== cr) return false
  return true
}

function isSwitch(head: Buffer): boolean {
  return head[10] === 0x30 && head[11] === 0x31
}
