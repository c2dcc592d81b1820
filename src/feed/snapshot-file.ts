/**
 * The ledger's table in a local file, with the cursor it belongs to: a restart reads it and then only what has changed
 * since, however large the table is.
 *
 * The file is written while the ledger changes, a piece at a time, so it shows no single moment. That is enough: it was
 * begun at its cursor, what has changed since is read again after loading, and doing a change twice is doing it once.
 * Tags are written before the slots they announce, and a slot's words never change once its tag is there; so each row
 * whose tag is in the file is in it as a whole.
 *
 * It ends with an HMAC by the key of the notifications: a file that is damaged, is of another database or has lost rows to
 * an intruder is not used. It holds digests and row ids, no identifier.
 */
import { createHmac } from 'node:crypto'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { makeFolder } from '../domain/folder.ts'
import type { Log } from '../domain/log.ts'
import { asGateError, GateError } from '../errors.ts'
import type { Given, Ledger } from '../revocation/ledger.ts'
import { type Cursor, gapAfter, type Ident } from './cursor.ts'
import type { InForce } from './in-force.ts'
import type { MacKey } from './payload.ts'

const magic = Buffer.from('dropgate ledger 3\n')
const pieceBytes = 1 << 20
/** A written piece is smaller, and a rest of three times as long as its writing follows: the feed goes first. */
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

/** Decides when the file is read and written; one writing at a time, never waited for. */
export class SnapshotFile {
  readonly #path: string
  readonly #log: Log
  #writing: Promise<void> | undefined
  #notBefore = 0
  #version = -1
  #closing = false

  constructor(path: string, log: Log) {
    this.#path = path
    this.#log = log
  }

  /**
   * Puts what an earlier run has left on this machine in force; ticks bring what has changed since.
   * @returns the cursor that belongs to it; undefined where there is no file that can be used, and the log says why
   */
  async restore(ident: Ident, mac: MacKey, inForce: InForce): Promise<Cursor | undefined> {
    const { ledger } = inForce
    const startedAt = performance.now()
    try {
      const saved = await readFile(this.#path, ident, mac)
      if (saved === undefined) return undefined
      // The file is as new as what it was read into: it need not be written yet.
      this.#notBefore = performance.now() + everyMs
      const loading = await ledger.restoreLoad(saved.given)
      inForce.learnPointers(saved.cursor.pointers)
      await ledger.finishLoad(loading, async () => {})
      const ms = Math.round(performance.now() - startedAt)
      this.#log.info({ rows: ledger.rows, ms }, 'revocations are restored from the snapshot file')
      return saved.cursor
    } catch (error) {
      const { code, message } = asGateError(error, 'ERR_SNAPSHOT_FILE')
      this.#log.warn({ code }, `${message}; everything is loaded from the table`)
      return undefined
    }
  }

  /** Begins to write the file, where that is due. */
  keep(ledger: Ledger, cursor: Cursor, mac: MacKey): void {
    const startedAt = performance.now()
    const { version } = ledger
    if (this.#writing !== undefined || startedAt < this.#notBefore || version === this.#version) {
      return
    }
    this.#version = version
    this.#writing = writeFile(this.#path, ledger, cursor, mac, this.#rest)
      .then((bytes) => {
        const ms = Math.round(performance.now() - startedAt)
        this.#log.info({ bytes, ms }, 'the snapshot file is written')
      })
      .catch((error: Error) => {
        this.#log.error({ err: error }, 'the snapshot file cannot be written')
      })
      .finally(() => {
        this.#notBefore =
          performance.now() + Math.max(everyMs, (performance.now() - startedAt) / share)
        this.#writing = undefined
      })
  }

  readonly #rest = (tookMs: number): Promise<void> | undefined =>
    this.#closing ? undefined : pause(tookMs * restShare)

  /** Finishes the writing under way, without rests. */
  async close(): Promise<void> {
    this.#closing = true
    await this.#writing
  }
}

/**
 * @param rest Called after each piece with how long its writing took.
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

export interface SavedLedger {
  readonly cursor: Cursor
  readonly given: Given
}

/**
 * @param ident The database that answers now: a file of another one, or of one that its cursor cannot go on from, is not used.
 * @returns undefined where there is no file
 * @throws GateError ERR_SNAPSHOT_FILE with the sentence that says why it is not used
 */
export async function readFile(
  path: string,
  ident: Ident,
  mac: MacKey,
): Promise<SavedLedger | undefined> {
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
