/**
 * The signatures that keys of this process have verified, in memory that all workers share: a token costs one signature
 * check, not one in each worker, nor another one when it has left the cache of a worker.
 *
 * An entry says only "this key verified this text", which stays true. Everything else about a token is checked by the
 * rules of now, so an entry outlives its key set without harm: a key that is removed is not picked any more, and another
 * key under the same id has another thumbprint.
 *
 * An entry is a tag: 128 bits of SHA-256 over a secret of this process, the thumbprint of the key, the algorithm and the
 * whole token. Only a token with a good signature is entered, so strangers can neither fill the table nor look for a tag
 * that fits theirs other than by asking the gate 2^100 times.
 *
 * Readers and writers take no lock. The presence of four equal words is the whole message: a reader that meets a half
 * written entry sees words of different tags, which is a miss.
 */
import { hash, randomBytes } from 'node:crypto'

/** What the control thread makes once and gives to every worker. */
export interface SharedSignatures {
  readonly table: SharedArrayBuffer
  readonly secret: string
}

/** The key that verified a token, as far as a tag covers it. */
export interface VerifyingKey {
  /** RFC 7638 thumbprint in base64url, always of the same length. */
  readonly thumbprint: string
  readonly algorithm: string
}

const tagWords = 4
const tagsPerBucket = 4
const bucketWords = tagWords * tagsPerBucket

export class KnownSignatures {
  readonly #words: Uint32Array
  readonly #buckets: number
  readonly #secret: string
  /** What `#find` has found: the tag of the token that is asked for, and its bucket. */
  readonly #tag = new Uint32Array(tagWords)
  #bucket = 0

  constructor({ table, secret }: SharedSignatures) {
    this.#words = new Uint32Array(table)
    this.#buckets = this.#words.length / bucketWords
    this.#secret = secret
  }

  /** @param bytes Size of the table; 32 bytes are used for each token that is to be remembered. */
  static create(bytes: number): SharedSignatures {
    const buckets = 2 ** Math.floor(Math.log2(bytes / (4 * bucketWords)))
    return {
      table: new SharedArrayBuffer(Math.max(1, buckets) * bucketWords * 4),
      secret: randomBytes(32).toString('hex'),
    }
  }

  has(token: string, key: VerifyingKey): boolean {
    this.#find(token, key)
    return this.#slotOf(this.#tag) !== undefined
  }

  /** Remembers a token whose signature this key has just verified. */
  add(token: string, key: VerifyingKey): void {
    this.#find(token, key)
    if (this.#slotOf(this.#tag) !== undefined) return
    // A full bucket loses one of its tags by chance: the order in which tokens come back cannot then make all of them miss.
    const slot =
      this.#slotOf(empty) ?? this.#bucket + tagWords * Math.floor(Math.random() * tagsPerBucket)
    this.#words.set(this.#tag, slot)
  }

  #find(token: string, { thumbprint, algorithm }: VerifyingKey): void {
    // One text only: secret and thumbprint have a fixed length, and no algorithm has a dot in its name.
    const digest = hash('sha256', `${this.#secret}${thumbprint}${algorithm}.${token}`, 'binary')
    for (let i = 0; i < tagWords; i++) this.#tag[i] = wordOf(digest, 4 * i)
    this.#bucket = (wordOf(digest, 4 * tagWords) & (this.#buckets - 1)) * bucketWords
  }

  #slotOf(tag: Uint32Array): number | undefined {
    const words = this.#words
    for (let slot = this.#bucket; slot < this.#bucket + bucketWords; slot += tagWords) {
      if (
        words[slot] === tag[0] &&
        words[slot + 1] === tag[1] &&
        words[slot + 2] === tag[2] &&
        words[slot + 3] === tag[3]
      )
        return slot
    }
    return undefined
  }
}

const empty = new Uint32Array(tagWords)

function wordOf(bytes: string, at: number): number {
  return (
    (bytes.charCodeAt(at) |
      (bytes.charCodeAt(at + 1) << 8) |
      (bytes.charCodeAt(at + 2) << 16) |
      (bytes.charCodeAt(at + 3) << 24)) >>>
    0
  )
}
