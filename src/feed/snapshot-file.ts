/**
 * A local file with the ledger's table and its cursor: a restarted gate reads the file, and from the database only what
 * has changed since, however large the table is.
 *
 * The file is written piece by piece while the ledger changes, so it does not show a single moment. That is enough:
 * everything that has changed since its cursor is read again after loading, and applying a change twice does no harm.
 * Each row whose tag is in the file is complete there, since tags are written before the slots that they announce and a
 * slot does not change once its tag is set.
 *
 * The file ends with an HMAC under the key of the notifications: a file that is damaged, belongs to another database,
 * or from which an intruder has removed rows is not used. It holds digests and row ids, no identifiers.
 */
import { createHmac } from 'node:crypto'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { makeFolder } from '../domain/folder.ts'
import type { Log } from '../domain/log.ts'
import { asGateError, GateError } from '../errors.ts'
import type { Ledger, SavedTable } from '../revocation/ledger.ts'
import { type Cursor, gapAfter, type Ident } from './cursor.ts'
import type { InForce } from './in-force.ts'
import type { MacKey } from './payload.ts'

const magic = Buffer.from('dropgate ledger 3\n')
const pieceBytes = 1 << 20
/**
 * Size limit of a piece. After each piece, the writer rests three times as long as the writing took, so that the feed
 * is not delayed.
 */
const writtenBytes = 1 << 18
const restShare = 3
const macBytes = 32
const maxHeadBytes = 1 << 20

interface FileHead {
  readonly cursor: Cursor
  readonly tableBytes: number
  /** The ledger's head in base64: it tells which kinds of rows about the exchange there are. */
  readonly head: string
}

/** Shortest time between two writings; and the largest share of time spent writing. */
const everyMs = 60_000
const share = 1 / 20

/**
 * Decides when the file is read and written. Only one writing is under way at a time, and the feed never waits for it.
 */
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
   * Puts the file of an earlier run in force; ticks then bring what has changed since.
   * @returns the cursor of the file; undefined when there is no usable file (the reason is logged)
   */
  async restore(ident: Ident, mac: MacKey, inForce: InForce): Promise<Cursor | undefined> {
    const { ledger } = inForce
    const startedAt = performance.now()
    try {
      const saved = await readFile(this.#path, ident, mac)
      if (saved === undefined) return undefined
      // The file was just read, so it is not written again at once.
      this.#notBefore = performance.now() + everyMs
      const loading = await ledger.restoreLoad(saved.given)
      inForce.learnPointers(saved.cursor.pointers)
      await ledger.finishLoad(loading, async () => {})
      const ms = Math.round(performance.now() - startedAt)
      this.#log.info({ rows: ledger.rows, ms }, 'revocations are restored from the snapshot file')
      return saved.cursor
    } catch (error) {
      const { code, message } = asGateError(error, 'ERR_SNAPSHOT_FILE')
      this.#log.warn({ code }, `${message}; all revocations are loaded from the database`)
      return undefined
    }
  }

  /** Begins to write the file when that is due. */
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
        this.#log.info({ bytes, ms }, 'the snapshot file was written')
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

  /** Finishes the writing that is under way, without rests. */
  async close(): Promise<void> {
    this.#closing = true
    await this.#writing
  }
}

/**
 * @param rest Called after each piece, with the time that writing it took.
 * @returns the bytes written. The control thread spends less than a millisecond on it at a time.
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
      } satisfies FileHead),
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
      // Copy the bytes, so that the same bytes are signed and written while the ledger changes.
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
  readonly given: SavedTable
}

/**
 * @param ident The database that answers now. A file of another database is not used, nor one whose cursor the feed
 * cannot continue from.
 * @returns undefined when there is no file
 * @throws GateError ERR_SNAPSHOT_FILE with the reason why the file is not used
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
    // The next piece is read while the HMAC of the last one is computed.
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
      throw unusable('it was written by another release')
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

function parse(text: Buffer): FileHead {
  try {
    const head = JSON.parse(text.toString()) as FileHead
    if (Number.isSafeInteger(head.tableBytes) && head.tableBytes % 4 === 0) return head
  } catch (error) {
    throw unusable('it is damaged', error)
  }
  throw unusable('it is damaged')
}

function unusable(why: string, cause?: unknown): GateError {
  return new GateError('ERR_SNAPSHOT_FILE', `the snapshot file is not used: ${why}`, { cause })
}
