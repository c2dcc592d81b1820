/**
 * Room: revocation. In: rows from the feed (control thread), a principal (workers). Out: whether any row concerns the
 * principal. Never does: I/O, awaiting, stopping at the first matching row.
 *
 * The ledger consists of one header, which lives as long as the gate, and one table (table.ts). Both are in shared
 * memory, once per process: the control thread writes them, all workers read them without a lock. These rules (tests and
 * docs/architecture.md call them the ledger rules) make that safe:
 *
 *  1. The writer stores the words of a slot first and its tag last; a reader who sees the tag sees the whole row.
 *  2. Entries never move and a dead slot is never reused: the probe of a reader cannot skip a live entry.
 *  3. The writer publishes a row first and then increments the version. A reader loads the version *before* it
 *     probes, and stamps the principal with that value. A row that arrives meanwhile makes the stamp old, never
 *     wrongly new.
 *  4. An update writes the new entry before it kills the old one: the row is never absent in between.
 *  5. Growth fills a new table in slices while the old one serves. Until every worker has confirmed that it reads the
 *     new table, rows are written to both; so readers of either miss nothing, and one version covers both.
 *  6. A full load fills a new table that no worker reads yet. When every worker reads it, the version is incremented
 *     and freshness is proved anew: a stamp made over the old rows is not valid for the new ones.
 *
 * Expired rows stay until their deletion arrives. A look-up checks the expiry, so no sweep is needed.
 */
import { breather, monotonicUs } from '../domain/clock.ts'
import {
  keyBytes,
  kinds,
  negatedBit,
  negatedKinds,
  peerKinds,
  prefixCodes,
  type RevocationRow,
} from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import { Digest } from './digest.ts'
import { type Entry, expiryEpochS, flag, Table } from './table.ts'

export type { Entry } from './table.ts'

/** Indices of the header words. The 64-bit words are read through a BigInt64Array, where index = word / 2. */
export const header = {
  version: 1,
  /** 1 after the first full load is complete. */
  loaded: 7,
  /** Monotonic µs at which the last successful tick was sent. */
  freshAtUs: 8,
  /** The same moment in wall clock ms. While the machine is paused, only the wall clock runs on. */
  freshWallMs: 10,
  /** Clock of Postgres minus ours in ms. The estimate errs towards an earlier server clock, so rows expire late. */
  clockOffsetMs: 12,
  /** 1 while the feed reports that the ledger cannot hold every row (a row is unmatchable). */
  broken: 14,
  /**
   * Bits: there are rows for a network, for a client certificate. A bit is set before the first such row is written,
   * and never cleared.
   */
  peer: 15,
  /** One bit for each `prefixCode` that the network of any row has. */
  prefixes: 16,
} as const

/** Number of words of `header.prefixes`. */
export const prefixWords = Math.ceil(prefixCodes / 32)

export const peerBit = { network: 1, certificate: 2 } as const

const headerWords = 32

/** Sent to a worker so that it can read the ledger. */
export interface LedgerShared {
  readonly head: SharedArrayBuffer
  readonly table: SharedArrayBuffer
  /** Number of the table. A worker reports it back when it reads this table. */
  readonly generation: number
}

/** A table and a header that an earlier run of the gate saved. */
export interface SavedTable {
  readonly table: SharedArrayBuffer
  readonly head: Int32Array
}

/** Views of the shared memory of the ledger. A worker creates one with `LedgerView.attach` for each new table. */
export class LedgerView {
  readonly words: Int32Array
  readonly wide: BigInt64Array
  protected serving: Table

  protected constructor(head: SharedArrayBuffer, table: Table) {
    this.words = new Int32Array(head)
    this.wide = new BigInt64Array(head)
    this.serving = table
  }

  static attach({ head, table }: LedgerShared): LedgerView {
    return new LedgerView(head, Table.attach(table))
  }

  get table(): Table {
    return this.serving
  }

  get version(): number {
    return Atomics.load(this.words, header.version)
  }

  get loaded(): boolean {
    return Atomics.load(this.words, header.loaded) === 1
  }

  get broken(): boolean {
    return Atomics.load(this.words, header.broken) === 1
  }

  get rows(): number {
    return this.serving.live
  }

  /** Kinds of exchange-level rows in the ledger (`peerBit`). When it is 0, requests skip that look-up. */
  get peer(): number {
    return Atomics.load(this.words, header.peer)
  }

  /**
   * Milliseconds since the last successful tick was sent; Infinity before the first. Measured by the monotonic clock,
   * or by the wall clock if it has run more than a second further (the machine was paused).
   */
  ageMs(nowUs: number, nowWallMs: number): number {
    const freshAtUs = Number(Atomics.load(this.wide, header.freshAtUs / 2))
    if (freshAtUs === 0) return Number.POSITIVE_INFINITY
    const monotonicMs = (nowUs - freshAtUs) / 1000
    const wallMs = nowWallMs - Number(Atomics.load(this.wide, header.freshWallMs / 2))
    return wallMs > monotonicMs + 1000 ? wallMs : monotonicMs
  }

  /** Current time of the Postgres clock in ms since 1970, by the last measured offset. */
  serverNowMs(nowWallMs: number): number {
    return nowWallMs + Number(Atomics.load(this.wide, header.clockOffsetMs / 2))
  }

  /** Yields every live row, for comparison with the database table. Only for the control thread and tests. */
  *entries(): Generator<RevocationRow> {
    const { serving } = this
    for (let slot = 0; slot < serving.slots; slot++) {
      const row = serving.rowAt(slot)
      if (row !== undefined) yield row
    }
  }
}

/** Longest time in ms for which growth may block the control thread at once. */
const sliceMs = 4
const stride = 512

/** The only writer of the ledger; it lives on the control thread. */
export class Ledger extends LedgerView {
  readonly #hand: (shared: LedgerShared) => Promise<void>
  readonly #entry: Entry = newEntry()
  #generation = 1
  /**
   * The table that growth or a full load is filling. During growth, rows are written to it and to the serving table.
   */
  #next: Table | undefined
  /** Rows and further keys that growth still has to copy to the next table, besides newly written ones. */
  #promised = { rows: 0, overflow: 0 }
  #growing: Promise<void> | undefined
  /** True if the next table is a full load. Then the serving table may drop rows for which it has no room. */
  #replacing = false
  #digest = new Digest()
  /** Sums of the next table during a full load, when it holds other rows than the serving table. */
  #nextDigest: Digest | undefined
  #growths = 0

  /**
   * @param rows Number of rows to hold without growing.
   * @param hand Sends a new table to every worker; resolves when all workers read it.
   */
  static create(
    rows: number,
    hand: (shared: LedgerShared) => Promise<void> = async () => {},
  ): Ledger {
    return new Ledger(rows, hand)
  }

  private constructor(rows: number, hand: (shared: LedgerShared) => Promise<void>) {
    super(new SharedArrayBuffer(headerWords * 4), Table.create(rows, 0))
    this.#hand = hand
  }

  get shared(): LedgerShared {
    return {
      head: this.words.buffer as SharedArrayBuffer,
      table: this.serving.shared,
      generation: this.#generation,
    }
  }

  get growths(): number {
    return this.#growths
  }

  /** Bytes of all tables that exist now. */
  get bytes(): number {
    return this.serving.shared.byteLength + (this.#next?.shared.byteLength ?? 0)
  }

  /** Sums over all rows, to compare with the same sums over the table in Postgres. */
  get digest(): Digest {
    return this.#digest
  }

  /**
   * Ensures that this many rows, with this many further keys, can be written. Growth starts before the room is needed
   * and runs in the background. The caller has to wait only when rows come faster than the table grows.
   */
  reserve(rows: number, overflow: number): Promise<void> | undefined {
    if (this.#growing === undefined) {
      if (this.#replacing || !this.serving.isFilling(rows, overflow)) return undefined
      this.#growing = this.#grow(rows, overflow).finally(() => {
        this.#growing = undefined
      })
    }
    if (this.serving.hasRoom(rows, overflow) && this.#nextHasRoom(rows, overflow)) return undefined
    return this.#growing.then(() => this.reserve(rows, overflow))
  }

  /** Returns true if this many rows can be written now; for writers that cannot wait. */
  hasRoom(rows: number): boolean {
    return this.serving.hasRoom(rows, rows) && this.#nextHasRoom(rows, rows)
  }

  /** Resolves when no growth is under way. */
  async settled(): Promise<void> {
    while (this.#growing !== undefined) await this.#growing
  }

  /**
   * Adds a row, or replaces the row with the same id and the same first key. Writing an unchanged row again does
   * nothing.
   * @throws GateError ERR_LEDGER_FULL without a `reserve` before, ERR_LEDGER_UNMATCHABLE; then nothing is written.
   */
  upsert(row: RevocationRow): void {
    const entry = this.#entry
    if (!fill(entry, row)) throw unmatchable(row.id)
    readKey(entry.bytes, entry.keysAt, key)
    const { serving } = this
    const fits = serving.hasRoom(1, entry.keys - 1)
    if ((!fits && !this.#replacing) || !this.#nextHasRoom(1, entry.keys - 1)) {
      throw new GateError(
        'ERR_LEDGER_FULL',
        `the revocation ledger is full with ${serving.used} rows`,
      )
    }
    notePeers(this.words, entry)
    if (fits) put(serving, entry, this.#digest)
    if (this.#next !== undefined) put(this.#next, entry, this.#nextDigest)
  }

  /**
   * Removes the row with this id that has the same first key (`filedAlike`); its other keys may differ. Does nothing if
   * there is no such row: a tombstone may come before its row.
   */
  remove(id: number, keys: Uint8Array): void {
    if (!order(this.#entry, keys)) return
    readKey(this.#entry.bytes, this.#entry.keysAt, key)
    take(this.serving, id, this.#digest)
    if (this.#next !== undefined) take(this.#next, id, this.#nextDigest)
  }

  has(id: number, keys: Uint8Array): boolean {
    if (!order(this.#entry, keys)) return false
    readKey(this.#entry.bytes, this.#entry.keysAt, key)
    return this.serving.locate(id, key) !== -1
  }

  /** Returns true if every table that a worker may read has this row, and has it exactly so. */
  holds(row: RevocationRow): boolean {
    const entry = this.#entry
    if (!fill(entry, row)) return false
    readKey(entry.bytes, entry.keysAt, key)
    // A loaded table may hold other rows, and some workers read it already.
    const tables = this.#replacing ? [this.serving, this.#next!] : [this.serving]
    return tables.every((table) => {
      const slot = table.locate(row.id, key)
      return slot !== -1 && table.equals(slot, entry)
    })
  }

  /** Makes every stamp older than the rows that were written before this call. */
  publish(): void {
    Atomics.add(this.words, header.version, 1)
  }

  /** The first full load is complete: look-ups are valid from now on. */
  setLoaded(): void {
    Atomics.store(this.words, header.loaded, 1)
  }

  setBroken(broken: boolean): void {
    Atomics.store(this.words, header.broken, broken ? 1 : 0)
  }

  /**
   * Records a successful tick, which proves that the ledger was complete when the tick was sent.
   * @param sentAtUs Monotonic µs (`process.hrtime`) of the sending; the wall clock of that moment is computed here.
   */
  fresh(sentAtUs: number, serverClockOffsetMs: number): void {
    const sentAgoMs = (monotonicUs() - sentAtUs) / 1000
    Atomics.store(this.wide, header.clockOffsetMs / 2, BigInt(Math.floor(serverClockOffsetMs)))
    Atomics.store(this.wide, header.freshWallMs / 2, BigInt(Math.floor(Date.now() - sentAgoMs)))
    Atomics.store(this.wide, header.freshAtUs / 2, BigInt(Math.floor(sentAtUs)))
  }

  /** Starts a full load into a table of its own. */
  startLoad(rows: number): FullLoad {
    return new FullLoad(Table.create(rows, 0), this.words)
  }

  /** Starts a full load from a table that an earlier run saved. Its sums are computed again, a slice at a time. */
  async restoreLoad({ table: shared, head }: SavedTable): Promise<FullLoad> {
    for (let w = 0; w < prefixWords; w++) {
      Atomics.or(this.words, header.prefixes + w, head[header.prefixes + w]!)
    }
    Atomics.or(this.words, header.peer, head[header.peer]!)
    const table = Table.attach(shared)
    const digest = new Digest()
    const breathe = breather(sliceMs)
    const counts = { used: 0, live: 0, overflow: 0 }
    for (let slot = 0; slot < table.slots; slot++) {
      if (slot % stride === 0) await breathe()
      table.count(slot, counts)
      if (table.keyAt(slot, key)) digest.addRow(table, slot, key)
    }
    table.setCounts(counts)
    return new FullLoad(table, this.words, digest)
  }

  /**
   * Makes a loaded table the serving one.
   * @param replay Writes the changes since the snapshot of the load. No worker reads the new table before they are
   * written.
   */
  async finishLoad(loading: FullLoad, replay: () => Promise<void>): Promise<void> {
    await this.settled()
    this.#next = loading.table
    this.#nextDigest = loading.digest
    this.#replacing = true
    try {
      await replay()
      await this.#switch(loading.table)
      this.#digest = loading.digest
    } finally {
      this.#next = undefined
      this.#nextDigest = undefined
      this.#replacing = false
    }
    this.publish()
  }

  #nextHasRoom(rows: number, overflow: number): boolean {
    const { rows: more, overflow: keys } = this.#promised
    return this.#next === undefined || this.#next.hasRoom(rows + more, overflow + keys)
  }

  async #grow(rows: number, overflow: number): Promise<void> {
    const from = this.serving
    const { live, overflowUsed } = from
    // A small table doubles its rows; a large one grows by 100,000 rows only, to save memory.
    const ahead = Math.min(live, 100_000)
    const next = Table.create(live + ahead + rows, Math.ceil(overflowUsed * 1.25) + overflow)
    this.#promised = { rows: live, overflow: overflowUsed }
    this.#next = next
    const breathe = breather(sliceMs)
    for (let slot = 0; slot < from.slots; slot++) {
      if (slot % stride === 0) await breathe()
      const keys = from.copyTo(next, slot)
      if (keys === 0) continue
      this.#promised.rows--
      this.#promised.overflow -= keys - 1
    }
    this.#promised = { rows: 0, overflow: 0 }
    this.#growths++
    await this.#switch(next)
    this.#next = undefined
  }

  async #switch(next: Table): Promise<void> {
    this.#generation++
    await this.#hand({
      head: this.words.buffer as SharedArrayBuffer,
      table: next.shared,
      generation: this.#generation,
    })
    this.serving = next
  }
}

/** A full load: the rows of one snapshot, each once, go into a table that no worker reads yet. */
export class FullLoad {
  readonly #words: Int32Array
  readonly digest: Digest
  table: Table

  constructor(table: Table, words: Int32Array, digest = new Digest()) {
    this.table = table
    this.#words = words
    this.digest = digest
  }

  /** Makes room for this many rows: the size of the table was only an estimate. */
  async reserve(rows: number): Promise<void> {
    const from = this.table
    if (from.hasRoom(rows, rows * 4)) return
    const next = Table.create(Math.ceil(from.live * 1.25) + rows, from.overflowUsed * 2 + rows * 4)
    const breathe = breather(sliceMs)
    for (let slot = 0; slot < from.slots; slot++) {
      if (slot % stride === 0) await breathe()
      from.copyTo(next, slot)
    }
    this.table = next
  }

  /**
   * Adds a row whose keys are the first `length` bytes of `entry.bytes`.
   * @returns False if this release cannot match the row.
   */
  insert(entry: Entry, length: number, flags: number): boolean {
    if (!identifies(entry.id) || !usable(entry, length)) return false
    entry.packed |= flags
    readKey(entry.bytes, entry.keysAt, key)
    notePeers(this.#words, entry)
    this.digest.add(entry, key)
    this.table.insert(entry, key)
    return true
  }
}

const key = new Int32Array(4)
const knownKinds = new Uint8Array(256)
for (const kind of [...Object.values(kinds), ...Object.values(negatedKinds)]) knownKinds[kind] = 1
const ordered = new DataView(new ArrayBuffer(256 * keyBytes))

export function newEntry(): Entry {
  return { id: 0, bytes: ordered, keysAt: 0, keys: 0, packed: 0, cutoffUs: 0, expiry: 0 }
}

/**
 * Returns true for a valid row id. The identity column creates only such ids, but the table's owner can write others,
 * and two huge ids could round to the same number here.
 */
function identifies(id: number): boolean {
  return Number.isSafeInteger(id) && id > 0
}

/** Fills an entry from a row. @returns False when this release can match no key of the row. */
function fill(entry: Entry, row: RevocationRow): boolean {
  if (!identifies(row.id) || !order(entry, row.keys)) return false
  entry.id = row.id
  entry.cutoffUs = row.cutoffUs ?? 0
  entry.expiry = storedExpiry(row.expiresAtS)
  entry.packed |= flagsOf(row.cutoffUs !== null, row.exact, row.authTime)
  return true
}

export function flagsOf(cutoff: boolean, exact: boolean, authTime: boolean): number {
  return cutoff ? flag.cutoff | (exact ? flag.exact : 0) | (authTime ? flag.authTime : 0) : 0
}

/** Puts the keys of a row into an entry. @returns False when no usable key is left. */
function order(entry: Entry, keys: Uint8Array): boolean {
  entry.bytes = new DataView(keys.buffer, keys.byteOffset, keys.byteLength)
  entry.keysAt = 0
  return usable(entry, keys.length)
}

/**
 * Drops keys of unknown kinds, so that the row matches more tokens rather than none, and sorts negated keys to the
 * end, in case a writer used another order. A single known key, the usual case, is not copied.
 */
function usable(entry: Entry, length: number): boolean {
  const { bytes, keysAt } = entry
  if (length === keyBytes && knownKinds[bytes.getUint8(keysAt)] === 1) {
    entry.keys = 1
    entry.packed = bytes.getUint8(keysAt)
    return entry.packed < negatedBit
  }
  if (length % keyBytes !== 0 || length > ordered.byteLength) return false
  let to = 0
  for (const negated of [0, negatedBit]) {
    for (let at = keysAt; at < keysAt + length; at += keyBytes) {
      const kind = bytes.getUint8(at)
      if (knownKinds[kind] !== 1 || (kind & negatedBit) !== negated) continue
      for (let i = 0; i < keyBytes; i++) ordered.setUint8(to + i, bytes.getUint8(at + i))
      to += keyBytes
    }
    // A row must be filed under a key that is not negated; without one it is unusable.
    if (to === 0) return false
  }
  entry.bytes = ordered
  entry.keysAt = 0
  entry.keys = to / keyBytes
  entry.packed = ordered.getUint8(0) | ((entry.keys - 1) << 8)
  return true
}

/**
 * Returns true if two versions of a row are filed under the same key, so that the newer replaces the older. If they
 * are not, a tombstone of the older version must not remove the newer one.
 */
export function filedAlike(a: Uint8Array, b: Uint8Array): boolean {
  const [atA, atB] = [filedAt(a), filedAt(b)]
  if (atA === -1 || atB === -1) return false
  for (let i = 0; i < keyBytes; i++) if (a[atA + i] !== b[atB + i]) return false
  return true
}

/** Returns the position of the key that `usable` puts first, -1 if there is none. */
function filedAt(keys: Uint8Array): number {
  for (let at = 0; at < keys.length; at += keyBytes) {
    if (knownKinds[keys[at]!] === 1 && (keys[at]! & negatedBit) === 0) return at
  }
  return -1
}

function readKey(bytes: DataView, at: number, into: Int32Array): void {
  for (let w = 0; w < 4; w++) into[w] = bytes.getInt32(at + 1 + w * 4, true)
}

/** Writes an entry whose first key is in `key`: the new slot is written before the old one is killed. */
function put(table: Table, entry: Entry, digest: Digest | undefined): void {
  const previous = table.locate(entry.id, key)
  if (previous !== -1 && table.equals(previous, entry)) return
  table.insert(entry, key)
  digest?.add(entry, key)
  if (previous === -1) return
  digest?.subtract(table, previous, key)
  table.kill(previous)
}

function take(table: Table, id: number, digest: Digest | undefined): void {
  const slot = table.locate(id, key)
  if (slot === -1) return
  digest?.subtract(table, slot, key)
  table.kill(slot)
}

/**
 * Notes kinds of exchange-level rows in the header. Readers skip the look-up of kinds that are not noted, so this
 * must happen before the row is written.
 */
function notePeers(words: Int32Array, entry: Entry): void {
  const { bytes, keysAt, keys } = entry
  for (let at = keysAt; at < keysAt + keys * keyBytes; at += keyBytes) {
    const kind = bytes.getUint8(at)
    if (!peerKinds.has(kind)) continue
    const network = kind === kinds.network
    const code = bytes.getUint8(at + keyBytes - 1)
    if (network) Atomics.or(words, header.prefixes + (code >>> 5), 1 << (code & 31))
    Atomics.or(words, header.peer, network ? peerBit.network : peerBit.certificate)
  }
}

export function storedExpiry(expiresAtS: number | null): number {
  if (expiresAtS === null) return 0
  const since = Math.max(1, expiresAtS - expiryEpochS)
  return since >= 2 ** 32 ? 0 : since
}

export function unmatchable(id: number): GateError {
  if (!identifies(id)) {
    return new GateError(
      'ERR_LEDGER_UNMATCHABLE',
      `revocation ${id} has an id outside the range 1 to 2^53-1`,
      {
        hint: 'delete the row and insert it again without an id; the database assigns one',
      },
    )
  }
  return new GateError(
    'ERR_LEDGER_UNMATCHABLE',
    `revocation ${id} has no target column that this release of the gate can match`,
    { hint: 'upgrade the gates before you insert rows of a new kind' },
  )
}
