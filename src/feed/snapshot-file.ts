/**
 * A local file with the ledger's table and an anchor: a restarted gate reads the file, and from the database only what
 * has changed since, however large the table is.
 *
 * The file is written piece by piece while the ledger changes, so it does not show a single moment. That is enough: the
 * anchor is the newest of the moment at which the writing begins, all that its snapshot does not show is read again after
 * loading, and so are the rows that the ledger has changed until the end, which the file names at its end (history.ts).
 * Applying a change twice does no harm.
 * Each row whose tag is in the file is complete there, since tags are written before the slots that they announce and a
 * slot does not change once its tag is set.
 *
 * The file ends with an HMAC under the key of the notifications: a file that is damaged, belongs to another database,
 * or from which an intruder has removed rows is not used. It holds digests and row ids, no identifiers.
 */
import { createHmac, type Hmac } from 'node:crypto'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { makeFolder } from '../domain/folder.ts'
import type { Log } from '../domain/log.ts'
import { asGateError, GateError } from '../errors.ts'
import type { Ledger, SavedTable } from '../revocation/ledger.ts'
import { gapAfter, type Ident } from './cursor.ts'
import type { Anchor, History, Touched } from './history.ts'
import type { InForce } from './in-force.ts'
import type { MacKey } from './payload.ts'

const magic = Buffer.from('dropgate ledger 4\n')
const pieceBytes = 1 << 20
/**
 * Size limit of a piece. After each piece, the writer rests three times as long as the writing took, so that the feed
 * is not delayed.
 */
const writtenBytes = 1 << 18
const restShare = 3
const macBytes = 32
const maxHeadBytes = 1 << 20
const maxTailBytes = 1 << 25

interface FileHead {
  readonly anchor: Pick<Anchor, 'nonce' | 'cursor'>
  readonly tableBytes: number
  /** The ledger's head in base64: it tells which kinds of rows about the exchange there are. */
  readonly head: string
}

/** The rows touched since the anchor: the id, then each key list in base64. */
type FileTail = readonly (readonly [id: number, ...keys: string[]])[]

/** The database that answers now. */
export interface AnsweringDatabase {
  readonly ident: Ident
  readonly mac: MacKey
  /** @returns those of these anchors that it has */
  readonly held: (nonces: readonly string[]) => Promise<ReadonlySet<string>>
}

/** Shortest time between two writings; and the largest share of time spent writing. */
const everyMs = 60_000
const share = 1 / 20
/**
 * Where the ledger has changed less often than this, the file is written more rarely: what has changed since is read from
 * the database in one tick, and canaries alone must not write a file of ten million rows each minute.
 */
const fewChanges = 100
const everyFewMs = 15 * 60_000

/** When the file was written last, or read. */
export interface LastWriting {
  readonly endedAt: number
  readonly tookMs: number
  readonly version: number
}

/** @param version The ledger's. @returns whether the file should be written now */
export function isDue(now: number, version: number, last: LastWriting | undefined): boolean {
  if (last === undefined) return true
  const changes = version - last.version
  if (changes === 0) return false
  const pauseMs = changes < fewChanges ? everyFewMs : everyMs
  return now >= last.endedAt + Math.max(pauseMs, last.tookMs / share)
}

/**
 * Decides when the file is read and written. Only one writing is under way at a time, and the feed never waits for it.
 */
export class SnapshotFile {
  readonly #path: string
  readonly #log: Log
  #writing: Promise<void> | undefined
  #last: LastWriting | undefined
  #closing = false

  constructor(path: string, log: Log) {
    this.#path = path
    this.#log = log
  }

  /**
   * Puts the file of an earlier run in force; ticks then bring what has changed since its anchor. Where there is no
   * usable file, nothing is changed and the reason is logged.
   */
  async restore(database: AnsweringDatabase, inForce: InForce, history: History): Promise<void> {
    const { ledger } = inForce
    const startedAt = performance.now()
    try {
      const saved = await readFile(this.#path, database)
      if (saved === undefined) return
      const loading = await ledger.restoreLoad(saved.given)
      inForce.learnPointers(database.ident.pointers)
      await ledger.finishLoad(loading, async () => {})
      history.restore(saved.anchor, saved.touched)
      this.#last = { endedAt: performance.now(), tookMs: 0, version: ledger.version }
      const ms = Math.round(performance.now() - startedAt)
      this.#log.info({ rows: ledger.rows, ms }, 'revocations are restored from the snapshot file')
    } catch (error) {
      const { code, message } = asGateError(error, 'ERR_SNAPSHOT_FILE')
      this.#log.warn({ code }, `${message}; all revocations are loaded from the database`)
    }
  }

  /** Begins to write the file when that is due. */
  keep(ledger: Ledger, history: History, mac: MacKey): void {
    const startedAt = performance.now()
    const { version } = ledger
    if (this.#writing !== undefined || !isDue(startedAt, version, this.#last)) return
    const anchor = history.pin()
    if (anchor === undefined) return
    const content = { ledger, anchor, touched: () => history.unpin() }
    this.#writing = writeFile(this.#path, content, mac, this.#rest)
      .then((bytes) => {
        const ms = Math.round(performance.now() - startedAt)
        if (bytes === undefined)
          this.#log.info(
            { ms },
            'the snapshot file was not written: too many rows have changed meanwhile',
          )
        else this.#log.info({ bytes, ms }, 'the snapshot file was written')
      })
      .catch((error: Error) => {
        this.#log.error({ err: error }, 'the snapshot file cannot be written')
      })
      .finally(() => {
        history.unpin()
        const endedAt = performance.now()
        this.#last = { endedAt, tookMs: endedAt - startedAt, version }
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

/** What a file is made of. */
export interface FileContent {
  readonly ledger: Ledger
  readonly anchor: Anchor
  /** Asked when the table is written; undefined: not all of the rows are known, so the file would be of no use. */
  readonly touched: () => readonly Touched[] | undefined
}

/**
 * @param rest Called after each piece, with the time that writing it took.
 * @returns the bytes written; undefined where the file was given up. The control thread spends less than a millisecond
 * on it at a time.
 */
export async function writeFile(
  path: string,
  { ledger, anchor: { nonce, cursor }, touched }: FileContent,
  mac: MacKey,
  rest: (tookMs: number) => Promise<void> | undefined,
): Promise<number | undefined> {
  const half = `${path}.new`
  makeFolder(dirname(path))
  await rm(half, { force: true })
  const file = await open(half, 'wx', 0o600)
  try {
    const { table, head } = ledger.shared
    const hmac = createHmac('sha256', mac.key)
    let at = 0
    const put = async (piece: Buffer): Promise<void> => {
      hmac.update(piece)
      await file.writev([piece], at)
      at += piece.length
    }
    const start: FileHead = {
      anchor: { nonce, cursor },
      tableBytes: table.byteLength,
      head: Buffer.from(head).toString('base64'),
    }
    await put(Buffer.concat([magic, sized(start)]))
    const bytes = new Uint8Array(table)
    for (let from = 0; from < bytes.length; from += writtenBytes) {
      const startedAt = performance.now()
      // Copy the bytes, so that the same bytes are signed and written while the ledger changes.
      await put(Buffer.from(bytes.subarray(from, from + writtenBytes)))
      await rest(performance.now() - startedAt)
    }
    const rows = touched()
    if (rows !== undefined) {
      await put(sized(rows.map(({ id, keys }) => [id, ...keys.map(toBase64)]) satisfies FileTail))
      await file.writev([hmac.digest()], at)
      await file.sync()
    }
    await file.close()
    if (rows === undefined) await rm(half, { force: true })
    else await rename(half, path)
    return rows && at + macBytes
  } catch (error) {
    await file.close().catch(() => {})
    await rm(half, { force: true })
    throw error
  }
}

/** JSON behind its length. */
function sized(value: FileHead | FileTail): Buffer {
  const text = Buffer.from(JSON.stringify(value))
  const length = Buffer.alloc(4)
  length.writeUInt32BE(text.length)
  return Buffer.concat([length, text])
}

const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')

export interface SavedLedger {
  readonly anchor: Pick<Anchor, 'nonce' | 'cursor'>
  readonly given: SavedTable
  readonly touched: readonly Touched[]
}

/**
 * A file of another database is not used, nor one whose anchor is not in the history of this one.
 * @returns undefined when there is no file
 * @throws GateError ERR_SNAPSHOT_FILE with the reason why the file is not used
 */
export async function readFile(
  path: string,
  { ident, mac, held }: AnsweringDatabase,
): Promise<SavedLedger | undefined> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw unusable('it cannot be opened', error)
  }
  try {
    const reader = new SignedReader(file, mac, (await file.stat()).size)
    const start = Buffer.alloc(magic.length)
    await reader.take(start)
    if (!start.equals(magic)) throw unusable('it was written by another release')
    const { anchor, tableBytes, head } = headOf(await reader.json(maxHeadBytes))
    const gap = gapAfter(anchor.cursor, ident)
    if (gap !== undefined) throw unusable(gap)
    if ((await held([anchor.nonce])).size === 0) {
      throw unusable('the database does not have the changes that it holds')
    }
    if (tableBytes > reader.left) throw unusable('it is too short')
    const table = new SharedArrayBuffer(tableBytes)
    await reader.take(new Uint8Array(table))
    const tail = (await reader.json(maxTailBytes)) as FileTail
    if (!(await reader.endsSigned())) throw unusable('it is damaged or of another database')
    const words = new Int32Array(Uint8Array.from(Buffer.from(head, 'base64')).buffer)
    const touched = tail.map(([id, ...keys]) => ({
      id,
      keys: keys.map((each) => Buffer.from(each, 'base64')),
    }))
    return { anchor, given: { table, head: words }, touched }
  } finally {
    await file.close().catch(() => {})
  }
}

/** Reads a file from its beginning to its end, and computes its HMAC. */
class SignedReader {
  readonly #file: FileHandle
  readonly #hmac: Hmac
  /** Bytes before the HMAC. */
  readonly #size: number
  #at = 0

  constructor(file: FileHandle, mac: MacKey, size: number) {
    this.#file = file
    this.#hmac = createHmac('sha256', mac.key)
    this.#size = size - macBytes
  }

  get left(): number {
    return this.#size - this.#at
  }

  /** Fills this array. The next piece is read while the HMAC of the last one is computed. */
  async take(into: Uint8Array): Promise<void> {
    if (into.length > this.left) throw unusable('it is too short')
    const read = async (from: number): Promise<Uint8Array> => {
      const piece = into.subarray(from, from + pieceBytes)
      const { bytesRead } = await this.#file.read(piece, 0, piece.length, this.#at + from)
      return piece.subarray(0, bytesRead)
    }
    let reading = read(0)
    for (let done = 0; done < into.length; ) {
      const piece = await reading
      if (piece.length === 0) throw unusable('it is too short')
      done += piece.length
      if (done < into.length) reading = read(done)
      this.#hmac.update(piece)
    }
    this.#at += into.length
  }

  async json(mostBytes: number): Promise<unknown> {
    const length = Buffer.alloc(4)
    await this.take(length)
    const bytes = length.readUInt32BE()
    if (bytes > mostBytes) throw unusable('it is damaged')
    const text = Buffer.alloc(bytes)
    await this.take(text)
    try {
      return JSON.parse(text.toString())
    } catch (error) {
      throw unusable('it is damaged', error)
    }
  }

  /** @returns whether all was read, and the HMAC at the end is that of what was read */
  async endsSigned(): Promise<boolean> {
    const found = Buffer.alloc(macBytes)
    await this.#file.read(found, 0, macBytes, this.#at)
    return this.left === 0 && found.equals(this.#hmac.digest())
  }
}

function headOf(json: unknown): FileHead {
  const head = json as FileHead
  if (Number.isSafeInteger(head.tableBytes) && head.tableBytes >= 0 && head.tableBytes % 4 === 0)
    return head
  throw unusable('it is damaged')
}

function unusable(why: string, cause?: unknown): GateError {
  return new GateError('ERR_SNAPSHOT_FILE', `the snapshot file is not used: ${why}`, { cause })
}
