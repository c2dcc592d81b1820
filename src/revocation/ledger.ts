/**
 * Room: revocation. In: rows from the feed (control thread), a principal (workers). Out: whether any row concerns
 * it. Never does: I/O, awaiting, deciding by being first.
 *
 * The ledger is one head, for the life of the gate, and one table (table.ts), both in shared memory: once for the whole
 * process, written by the control thread and read by every worker without a lock. What makes that right (the
 * tests and docs/architecture.md call these the ledger rules):
 *
 *  1. The writer stores a slot's words first and its tag last; a reader who sees the tag sees all of the row.
 *  2. Entries never move and a dead slot is never reused: a reader's probe cannot skip a live entry.
 *  3. Publish first, then add to the version. A reader loads the version *before* it probes and stamps that
 *     value, so a row that arrives meanwhile makes the stamp old, never wrongly new.
 *  4. An update writes the new entry before it kills the old: the row is never absent in between.
 *  5. Growth fills a new table in slices while the old one serves. From its beginning until every worker has said that
 *     it reads the new one, both are written; so a reader of either misses nothing, and one version counts for both.
 *  6. A full load fills a new table that nobody reads. Only when every worker reads it is the version added to and
 *     freshness claimed anew: no stamp made over the old rows is believed over the new ones.
 *
 * Expired rows stay until their deletion arrives; a look-up sees that they have expired, so nothing has to sweep.
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

/** Header words. The 64-bit words are read through a BigInt64Array: index = word / 2. */
export const header = {
  version: 1,
  /** 1 once the first full load is in. */
  loaded: 7,
  /** Monotonic µs at which the last good tick was sent. */
  freshAtUs: 8,
  /** The same moment by the wall clock, ms: a paused machine shows as a difference between the two. */
  freshWallMs: 10,
  /** Postgres clock minus ours, ms; errs towards an earlier server clock, so rows expire late. */
  clockOffsetMs: 12,
  /** 1 while the feed says that the ledger cannot hold every row (unmatchable row). */
  broken: 14,
  /** Bits: rows filed under a network, under a client certificate. Set before the first such row, never cleared. */
  peer: 15,
  /** One bit for each `prefixCode` that a row's network has. */
  prefixes: 16,
} as const

/** Words of `header.prefixes`. */
export const prefixWords = Math.ceil(prefixCodes / 32)

export const peerBit = { network: 1, certificate: 2 } as const

const headerWords = 32

/** What a worker reads: where the ledger is. */
export interface LedgerShared {
  readonly head: SharedArrayBuffer
  readonly table: SharedArrayBuffer
  /** Counts tables; a worker reports it back once it reads this one. */
  readonly generation: number
}

/** A table and a head as an earlier run has left them. */
export interface Given {
  readonly table: SharedArrayBuffer
  readonly head: Int32Array
}

/** Views over the ledger. Workers make theirs with `LedgerView.attach`, anew for each table. */
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

  /** Which kinds of rows on the exchange there are (`peerBit`); 0 costs a request nothing more. */
  get peer(): number {
    return Atomics.load(this.words, header.peer)
  }

  /**
   * Age in ms of what the gate knows: time since the last good tick was sent, by the monotonic clock, or by
   * the wall clock where that has run more than a second ahead of it (a paused machine). Infinity before the first.
   */
  ageMs(nowUs: number, nowWallMs: number): number {
    const freshAtUs = Number(Atomics.load(this.wide, header.freshAtUs / 2))
    if (freshAtUs === 0) return Number.POSITIVE_INFINITY
    const monotonicMs = (nowUs - freshAtUs) / 1000
    const wallMs = nowWallMs - Number(Atomics.load(this.wide, header.freshWallMs / 2))
    return wallMs > monotonicMs + 1000 ? wallMs : monotonicMs
  }

  /** Postgres' clock as last learned, ms since 1970. */
  serverNowMs(nowWallMs: number): number {
    return nowWallMs + Number(Atomics.load(this.wide, header.clockOffsetMs / 2))
  }

  /** Every live row, for comparison with the table. Control thread and tests only. */
  *entries(): Generator<RevocationRow> {
    const { serving } = this
    for (let slot = 0; slot < serving.slots; slot++) {
      const row = serving.rowAt(slot)
      if (row !== undefined) yield row
    }
  }
}

/** Longest turn of the control thread that growth takes. */
const sliceMs = 4
const stride = 512

/** The only writer; lives on the control thread. */
export class Ledger extends LedgerView {
  readonly #hand: (shared: LedgerShared) => Promise<void>
  readonly #entry: Entry = newEntry()
  #generation = 1
  /** Being filled; written beside the serving one. */
  #next: Table | undefined
  /** Rows and further keys that the next table must take besides those written from now on. */
  #promised = { rows: 0, overflow: 0 }
  #growing: Promise<void> | undefined
  /** The next table is a full load, so the serving one need not hold what has no room in it any more. */
  #replacing = false
  #digest = new Digest()
  /** Of the next table, where that holds other rows than the serving one: a full load. */
  #nextDigest: Digest | undefined
  #growths = 0

  /**
   * @param rows Rows to hold without growing. @param hand Gives a new table to every worker; resolves once they all
   * read it.
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

  /** Of all tables there are now. */
  get bytes(): number {
    return this.serving.shared.byteLength + (this.#next?.shared.byteLength ?? 0)
  }

  /** Sums over all rows, for comparison with the same sums over the table in Postgres. */
  get digest(): Digest {
    return this.#digest
  }

  /**
   * Makes sure that this many rows, with this many further keys, can be written. Growth begins before it is needed and
   * goes on in the background; only where it was outrun is there something to wait for.
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

  /** Whether a row can be written now, for writers that cannot wait. */
  hasRoom(rows: number): boolean {
    return this.serving.hasRoom(rows, rows) && this.#nextHasRoom(rows, rows)
  }

  /** Resolves when no growth is under way. */
  async settled(): Promise<void> {
    while (this.#growing !== undefined) await this.#growing
  }

  /**
   * Adds a row or replaces the row of the same id under the same keys; the same row again changes nothing.
   * @throws GateError ERR_LEDGER_FULL where there was no `reserve`, ERR_LEDGER_UNMATCHABLE; nothing is written then.
   */
  upsert(row: RevocationRow): void {
    const entry = this.#entry
    if (!fill(entry, row)) throw unmatchable(row.id)
    readKey(entry.bytes, entry.keysAt, key)
    const { serving } = this
    const fits = serving.hasRoom(1, entry.keys - 1)
    if ((!fits && !this.#replacing) || !this.#nextHasRoom(1, entry.keys - 1)) {
      throw new GateError('ERR_LEDGER_FULL', `the ledger holds ${serving.used} rows and is full`)
    }
    notePeers(this.words, entry)
    if (fits) put(serving, entry, this.#digest)
    if (this.#next !== undefined) put(this.#next, entry, this.#nextDigest)
  }

  /**
   * Removes the row of this id that is filed as these keys are (`filedAlike`), whatever its other keys; absent is fine (a
   * tombstone may come before its row).
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

  /** Makes every stamp older than the rows written before this call. */
  publish(): void {
    Atomics.add(this.words, header.version, 1)
  }

  /** The first full load is in: look-ups may be believed. */
  setLoaded(): void {
    Atomics.store(this.words, header.loaded, 1)
  }

  setBroken(broken: boolean): void {
    Atomics.store(this.words, header.broken, broken ? 1 : 0)
  }

  /**
   * A good tick proves that the ledger was complete when the tick was sent.
   * @param sentAtUs Monotonic µs (`process.hrtime`) of the sending; the wall clock of that moment is derived here.
   */
  fresh(sentAtUs: number, serverClockOffsetMs: number): void {
    const sentAgoMs = (monotonicUs() - sentAtUs) / 1000
    Atomics.store(this.wide, header.clockOffsetMs / 2, BigInt(Math.floor(serverClockOffsetMs)))
    Atomics.store(this.wide, header.freshWallMs / 2, BigInt(Math.floor(Date.now() - sentAgoMs)))
    Atomics.store(this.wide, header.freshAtUs / 2, BigInt(Math.floor(sentAtUs)))
  }

  /** A table of its own for a full load. */
  startLoad(rows: number): Loading {
    return new Loading(Table.create(rows, 0), this.words)
  }

  /** A full load from a table that an earlier run has left. Its sums are made anew, a slice at a time. */
  async restoreLoad({ table: shared, head }: Given): Promise<Loading> {
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
    return new Loading(table, this.words, digest)
  }

  /**
   * Puts a loaded table in the place of the serving one.
   * @param replay Writes what has changed since the load's snapshot; no reader sees the new table without it.
   */
  async finishLoad(loading: Loading, replay: () => Promise<void>): Promise<void> {
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
    // A small table doubles; for a large one the room that `load` leaves is enough, since every row pays for it.
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

/** A full load: rows of one snapshot, each once, into a table that nobody reads yet. */
export class Loading {
  readonly #words: Int32Array
  readonly digest: Digest
  table: Table

  constructor(table: Table, words: Int32Array, digest = new Digest()) {
    this.table = table
    this.#words = words
    this.digest = digest
  }

  /** Makes room for this many rows; the table was sized by an estimate. */
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
   * Takes a row whose keys are `length` bytes of `entry.bytes`.
   * @returns false for one that this release cannot match
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

/** The table's identity column gives no others; an owner can write them, and two of them could be one number here. */
function identifies(id: number): boolean {
  return Number.isSafeInteger(id) && id > 0
}

/** A row as an entry. @returns false when nothing of it can be matched. */
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

/** The keys of a row as an entry has them. @returns false when nothing is left of them. */
function order(entry: Entry, keys: Uint8Array): boolean {
  entry.bytes = new DataView(keys.buffer, keys.byteOffset, keys.byteLength)
  entry.keysAt = 0
  return usable(entry, keys.length)
}

/**
 * Drops keys of a kind that this release does not know, which widens the row and never skips it; and whoever wrote them
 * in another order, what must not be held comes last. One known key, the usual case, is left where it is.
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
    // Filed under a key that must be held, or not at all.
    if (to === 0) return false
  }
  entry.bytes = ordered
  entry.keysAt = 0
  entry.keys = to / keyBytes
  entry.packed = ordered.getUint8(0) | ((entry.keys - 1) << 8)
  return true
}

/**
 * Whether two versions of a row are filed under the same key, so that one has taken the place of the other: the
 * tombstone of the older must not remove the newer, in which another key may be another.
 */
export function filedAlike(a: Uint8Array, b: Uint8Array): boolean {
  const [atA, atB] = [filedAt(a), filedAt(b)]
  if (atA === -1 || atB === -1) return false
  for (let i = 0; i < keyBytes; i++) if (a[atA + i] !== b[atB + i]) return false
  return true
}

/** Where the key is that `usable` puts first; -1 where there is none. */
function filedAt(keys: Uint8Array): number {
  for (let at = 0; at < keys.length; at += keyBytes) {
    if (knownKinds[keys[at]!] === 1 && (keys[at]! & negatedBit) === 0) return at
  }
  return -1
}

function readKey(bytes: DataView, at: number, into: Int32Array): void {
  for (let w = 0; w < 4; w++) into[w] = bytes.getInt32(at + 1 + w * 4, true)
}

/** Writes an entry whose key is in `key`: the new slot before the old one dies. */
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

/** Readers skip what belongs to the exchange while there are no such rows: said before the row can be found. */
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
      `revocation ${id} has an id outside 1 to 2^53-1`,
      {
        hint: 'delete it, and insert it without an id',
      },
    )
  }
  return new GateError(
    'ERR_LEDGER_UNMATCHABLE',
    `revocation ${id} has no predicate this release knows`,
    { hint: 'upgrade the gates before rows of a new kind are inserted' },
  )
}
