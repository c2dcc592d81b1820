/**
 * The ledger's table in a local file, with the cursor it belongs to: a restart reads it and then only what has changed
 * since, however large the table is.
 *
 * The file is written while the ledger changes, a piece at a time, so it shows no single moment. That is enough: it was
 * begun at its cursor, what has changed since is read again after loading, and doing a change twice is doing it once.
 * Tags are written before the slots they announce, and a slot's words never change once its tag is there; so each row
 * whose tag is in the file is in it as a whole.
 *
 * It ends with an HMAC by the key of the notifications: a damaged file, one of another database or one that somebody has
 * taken rows out of is not read. It holds digests and row ids, no identifier.
 */
import { createHmac } from 'node:crypto'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { makeFolder } from '../domain/folder.ts'
import { GateError } from '../errors.ts'
import type { Given, Ledger } from '../revocation/ledger.ts'
import { type Cursor, gapAfter, type Ident } from './cursor.ts'
import type { MacKey } from './payload.ts'

const magic = Buffer.from('dropgate ledger 3\n')
const pieceBytes = 1 << 20
/** A written piece is smaller, and what writing it took is left to others three times over: the feed goes first. */
const writtenBytes = 1 << 18
const restShare = 3
const macBytes = 32
const maxHeadBytes = 1 << 20

interface Head {
  readonly cursor: Cursor
  readonly tableBytes: number
  /** The ledger's head, base64: which rows on the exchange there are. */
  readonly head: string
}

/** Shortest time between two writings; and of all time, this share at most is spent writing. */
const everyMs = 60_000
const share = 1 / 20

/** When to write the file; one writing at a time, never waited for. */
export class SnapshotFile {
  readonly #path: string
  #writing: Promise<void> | undefined
  #notBefore = 0
  #version = -1
  #closing = false

  constructor(path: string) {
    this.#path = path
  }

  async restore(ident: Ident, mac: MacKey): Promise<Restored | undefined> {
    const restored = await readFile(this.#path, ident, mac)
    // What has just been read need not be written yet.
    if (restored !== undefined) this.#notBefore = performance.now() + everyMs
    return restored
  }

  /** @param onDone Told of what was written, or of what went wrong. */
  keep(
    ledger: Ledger,
    cursor: Cursor,
    mac: MacKey,
    onDone: (result: { bytes: number; ms: number } | Error) => void,
  ): void {
    const startedAt = performance.now()
    const { version } = ledger
    if (this.#writing !== undefined || startedAt < this.#notBefore || version === this.#version) {
      return
    }
    this.#version = version
    this.#writing = writeFile(this.#path, ledger, cursor, mac, this.#rest)
      .then((bytes) => onDone({ bytes, ms: Math.round(performance.now() - startedAt) }))
      .catch((error: Error) => onDone(error))
      .finally(() => {
        this.#notBefore =
          performance.now() + Math.max(everyMs, (performance.now() - startedAt) / share)
        this.#writing = undefined
      })
  }

  readonly #rest = (tookMs: number): Promise<void> | undefined =>
    this.#closing ? undefined : pause(tookMs * restShare)

  /** What is being written is finished, as fast as it can be. */
  async close(): Promise<void> {
    this.#closing = true
    await this.#writing
  }
}

/**
 * @param rest Called after each piece with what it took, ms.
 * @returns bytes written. The control thread works on it for less than a millisecond at a time.
 */
export async function writeFile(
  path: string,
  ledger: Ledger,
  cursor: Cursor,
  mac: MacKey,
  rest: (tookMs: number) => Promise<void> | undefined,
): Promise<number> {
  const half = `${path}.new`
  makeFolder(dirname(path))
  await rm(half, { force: true })
  const file = await open(half, 'wx', 0o600)
  try {
    const { table, head } = ledger.shared
    const text = Buffer.from(
      JSON.stringify({
        cursor,
        tableBytes: table.byteLength,
        head: Buffer.from(head).toString('base64'),
      } satisfies Head),
    )
    const length = Buffer.alloc(4)
    length.writeUInt32BE(text.length)
    const hmac = createHmac('sha256', mac.key)
    let at = 0
    const put = async (piece: Buffer): Promise<void> => {
      hmac.update(piece)
      await file.writev([piece], at)
      at += piece.length
    }
    await put(Buffer.concat([magic, length, text]))
    const bytes = new Uint8Array(table)
    for (let from = 0; from < bytes.length; from += writtenBytes) {
      const startedAt = performance.now()
      // A copy: what is signed must be what is written.
      await put(Buffer.from(bytes.subarray(from, from + writtenBytes)))
      await rest(performance.now() - startedAt)
    }
    await file.writev([hmac.digest()], at)
    await file.sync()
    await file.close()
    await rename(half, path)
    return at + macBytes
  } catch (error) {
    await file.close().catch(() => {})
    await rm(half, { force: true })
    throw error
  }
}

export interface Restored {
  readonly cursor: Cursor
  readonly given: Given
}

/**
 * @param ident Who answers now: a file of another database, or older than what can be caught up with, is of no use.
 * @returns undefined where there is no file
 * @throws GateError ERR_SNAPSHOT_FILE with the sentence that says why it is not used
 */
export async function readFile(
  path: string,
  ident: Ident,
  mac: MacKey,
): Promise<Restored | undefined> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw unusable('it cannot be opened', error)
  }
  try {
    const { size } = await file.stat()
    const hmac = createHmac('sha256', mac.key)
    let at = 0
    // The next piece is read while the last one is summed up.
    const take = async (into: Uint8Array): Promise<void> => {
      if (at + into.length > size) throw unusable('it is too short')
      const read = async (from: number): Promise<Uint8Array> => {
        const piece = into.subarray(from, from + pieceBytes)
        const { bytesRead } = await file.read(piece, 0, piece.length, at + from)
        return piece.subarray(0, bytesRead)
      }
      let reading = read(0)
      for (let done = 0; done < into.length; ) {
        const piece = await reading
        if (piece.length === 0) throw unusable('it is too short')
        done += piece.length
        if (done < into.length) reading = read(done)
        hmac.update(piece)
      }
      at += into.length
    }
    const start = Buffer.alloc(magic.length + 4)
    await take(start)
    const headBytes = start.readUInt32BE(magic.length)
    if (!start.subarray(0, magic.length).equals(magic) || headBytes > maxHeadBytes) {
      throw unusable('it is not of this release')
    }
    const text = Buffer.alloc(headBytes)
    await take(text)
    const { cursor, tableBytes, head } = parse(text)
    const gap = gapAfter(cursor, ident)
    if (gap !== undefined) throw unusable(gap)
    if (at + tableBytes + macBytes !== size) throw unusable('it is too short or too long')
    const table = new SharedArrayBuffer(tableBytes)
    await take(new Uint8Array(table))
    const expected = hmac.digest()
    const found = Buffer.alloc(macBytes)
    await file.read(found, 0, macBytes, at)
    if (!found.equals(expected)) throw unusable('it is damaged or of another database')
    const words = new Int32Array(Uint8Array.from(Buffer.from(head, 'base64')).buffer)
    return { cursor, given: { table, head: words } }
  } finally {
    await file.close().catch(() => {})
  }
}

function parse(text: Buffer): Head {
  try {
    const head = JSON.parse(text.toString()) as Head
    if (Number.isSafeInteger(head.tableBytes) && head.tableBytes % 4 === 0) return head
  } catch (error) {
    throw unusable('it is damaged', error)
  }
  throw unusable('it is damaged')
}

function unusable(why: string, cause?: unknown): GateError {
  return new GateError('ERR_SNAPSHOT_FILE', `the snapshot file is not used: ${why}`, { cause })
}
