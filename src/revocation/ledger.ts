/**
 * Room: revocation. In: rows from the feed (control thread), a principal (workers). Out: whether any row concerns
 * it. Never does: I/O, awaiting, deciding by being first.
 *
 * The ledger is one open-addressing index in one SharedArrayBuffer, written by the control thread and read by
 * every worker without a lock. The rules that make that right (design section 3):
 *
 *  1. The writer stores a slot's words first and its state last, by `Atomics.store`; a reader loads the state
 *     first, so it never sees half an entry.
 *  2. Entries never move and a dead slot is never reused: a reader's probe sequence cannot skip a live entry.
 *  3. Publish first, then add to the version. A reader loads the version *before* it probes and stamps that
 *     value, so a row that arrives meanwhile makes the stamp old, never wrongly new.
 *  4. An update writes the new entry before it kills the old: the row is never absent in between.
 *  5. Growth is a new table handed to the workers (later release); until then a full ledger throws and the gate
 *     is not ready. It never drops a row.
 *
 * Layout, 32-bit words: header | slots × 12 | overflow keys × 4.
 *   slot: 0 state · 1–4 key · 5–6 row id · 7 kind, extra keys, flags · 8–9 cutoff µs · 10 expiry · 11 overflow index
 */
import { monotonicUs } from '../domain/clock.ts'
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

const magic = 0x64676c31 // 'dgl1'

/** Header words. The 64-bit words are read through a BigInt64Array: index = word / 2. */
export const header = {
  magic: 0,
  version: 1,
  slots: 2,
  overflow: 3,
  live: 4,
  used: 5,
  overflowUsed: 6,
  /** 1 once the first full load is in. */
  loaded: 7,
  /** Monotonic µs at which the last good tick was sent. */
  freshAtUs: 8,
  /** The same moment by the wall clock, ms: a paused machine shows as a difference between the two. */
  freshWallMs: 10,
  /** Postgres clock minus ours, ms; errs towards an earlier server clock, so rows expire late. */
  clockOffsetMs: 12,
  /** 1 while the feed says that the ledger cannot hold every row (full, unmatchable row). */
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
export const slotWords = 12
const overflowKeyWords = 4

export const slotState = { empty: 0, live: 1, dead: 2 } as const

/**
 * Word 7 of a slot: bits 0–7 kind, 8–15 number of overflow keys, 16 has cutoff, 17 exact (`event_time` given),
 * 18 the cutoff is on the sign-in, 24–31 how many of the overflow keys, the last ones, must not be held.
 */
export const flag = { cutoff: 1 << 16, exact: 1 << 17, authTime: 1 << 18 } as const

/** Expiry is stored as seconds since 2000-01-01 UTC in 32 bits; what does not fit never expires (late, not early). */
export const expiryEpochS = 946_684_800

const knownKinds = new Set<number>([...Object.values(kinds), ...Object.values(negatedKinds)])

/** Views over one ledger. Workers make theirs with `LedgerView.attach`. */
export class LedgerView {
  readonly shared: SharedArrayBuffer
  readonly words: Int32Array
  readonly wide: BigInt64Array
  /** Slots − 1; the number of slots is a power of two. */
  readonly mask: number
  /** First word of the overflow keys. */
  readonly overflowAt: number

  protected constructor(shared: SharedArrayBuffer) {
    this.shared = shared
    this.words = new Int32Array(shared)
    this.wide = new BigInt64Array(shared)
    const slots = this.words[header.slots]!
    if (this.words[header.magic] !== magic || slots < 2 || (slots & (slots - 1)) !== 0) {
      throw new GateError('ERR_INTERNAL', 'not a ledger')
    }
    this.mask = slots - 1
    this.overflowAt = headerWords + slots * slotWords
  }

  static attach(shared: SharedArrayBuffer): LedgerView {
    return new LedgerView(shared)
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
    return Atomics.load(this.words, header.live)
  }

  /** Rows that can be written before the ledger is full; dead slots count as used. */
  get capacity(): number {
    return capacityOf(this.mask + 1)
  }

  get used(): number {
    return Atomics.load(this.words, header.used)
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

  slotAt(index: number): number {
    return headerWords + index * slotWords
  }

  /** Which kinds of rows on the exchange there are (`peerBit`); 0 costs a request nothing more. */
  get peer(): number {
    return Atomics.load(this.words, header.peer)
  }

  /** Every live row, for comparison with the table. Control thread and tests only. */
  *entries(): Generator<RevocationRow> {
    const { words } = this
    for (let index = 0; index <= this.mask; index++) {
      const at = this.slotAt(index)
      if (Atomics.load(words, at) !== slotState.live) continue
      const packed = words[at + 7]!
      const extra = (packed >>> 8) & 0xff
      const keys = Buffer.alloc((1 + extra) * keyBytes)
      keys[0] = packed & 0xff
      for (let w = 0; w < 4; w++) keys.writeInt32LE(words[at + 1 + w]!, 1 + w * 4)
      for (let k = 0; k < extra; k++) {
        const from = this.overflowAt + (words[at + 11]! + k) * overflowKeyWords
        // The kind of an overflow key is part of its digest; of it only the negation is stored.
        if (k >= extra - (packed >>> 24)) keys[(k + 1) * keyBytes] = negatedBit
        for (let w = 0; w < 4; w++)
          keys.writeInt32LE(words[from + w]!, (k + 1) * keyBytes + 1 + w * 4)
      }
      const expiry = words[at + 10]! >>> 0
      yield {
        id: (words[at + 6]! >>> 0) * 2 ** 32 + (words[at + 5]! >>> 0),
        keys,
        cutoffUs:
          packed & flag.cutoff ? (words[at + 9]! >>> 0) * 2 ** 32 + (words[at + 8]! >>> 0) : null,
        exact: (packed & flag.exact) !== 0,
        authTime: (packed & flag.authTime) !== 0,
        expiresAtS: expiry === 0 ? null : expiry + expiryEpochS,
      }
    }
  }
}

/** The only writer; lives on the control thread. */
export class Ledger extends LedgerView {
  /** @param rows Rows to hold without growing; the table is sized so that probes stay short at that load. */
  static create(rows: number): Ledger {
    let slots = 1024
    while (capacityOf(slots) < rows) slots *= 2
    const overflow = Math.max(4096, slots >>> 3)
    const words = headerWords + slots * slotWords + overflow * overflowKeyWords
    const shared = new SharedArrayBuffer(words * 4)
    const view = new Int32Array(shared)
    view[header.magic] = magic
    view[header.slots] = slots
    view[header.overflow] = overflow
    return new Ledger(shared)
  }

  /**
   * Adds a row or replaces the row of the same id under the same keys.
   * @throws GateError ERR_LEDGER_FULL, ERR_LEDGER_UNMATCHABLE; nothing is written then.
   */
  upsert(row: RevocationRow): void {
    const keys = knownKeys(row.keys)
    const first = keys[0]
    if (first === undefined || isNegated(row.keys[first]!)) {
      throw new GateError(
        'ERR_LEDGER_UNMATCHABLE',
        `revocation ${row.id} has no predicate this release knows`,
        {
          hint: 'upgrade the gates before rows of a new kind are inserted',
        },
      )
    }
    const { words } = this
    if (words[header.used]! >= this.capacity) {
      throw new GateError('ERR_LEDGER_FULL', `the ledger holds ${this.capacity} rows and is full`, {
        hint: 'raise revocation.spare or restart the gate, which sizes the ledger anew',
      })
    }
    const extra = keys.length - 1
    const overflowUsed = words[header.overflowUsed]!
    if (overflowUsed + extra > words[header.overflow]!) {
      throw new GateError(
        'ERR_LEDGER_FULL',
        'the ledger has no room for another row of several predicates',
        {
          hint: 'restart the gate, which sizes the ledger anew',
        },
      )
    }
    const key = wordsOf(row.keys, first)
    const previous = this.#find(row.id, key)
    let index = key[0]! & this.mask
    while (Atomics.load(words, this.slotAt(index)) !== slotState.empty)
      index = (index + 1) & this.mask
    const at = this.slotAt(index)
    for (let w = 0; w < 4; w++) words[at + 1 + w] = key[w]!
    words[at + 5] = (row.id % 2 ** 32) | 0
    words[at + 6] = Math.floor(row.id / 2 ** 32)
    const negated = keys.filter((at) => isNegated(row.keys[at]!)).length
    let packed = row.keys[first]! | (extra << 8) | (negated << 24)
    if (row.cutoffUs !== null) {
      packed |= flag.cutoff | (row.exact ? flag.exact : 0) | (row.authTime ? flag.authTime : 0)
      words[at + 8] = (row.cutoffUs % 2 ** 32) | 0
      words[at + 9] = Math.floor(row.cutoffUs / 2 ** 32)
    }
    words[at + 7] = packed
    words[at + 10] = storedExpiry(row.expiresAtS)
    words[at + 11] = overflowUsed
    for (let k = 0; k < extra; k++) {
      const more = wordsOf(row.keys, keys[k + 1]!)
      const to = this.overflowAt + (overflowUsed + k) * overflowKeyWords
      for (let w = 0; w < 4; w++) words[to + w] = more[w]!
    }
    this.#notePeer(row.keys, keys)
    words[header.overflowUsed] = overflowUsed + extra
    words[header.used] = words[header.used]! + 1
    Atomics.store(words, at, slotState.live)
    if (previous === -1) Atomics.add(words, header.live, 1)
    else Atomics.store(words, previous, slotState.dead)
  }

  /** Readers skip what belongs to the exchange while there are no such rows: said before the row can be found. */
  #notePeer(keys: Uint8Array, offsets: readonly number[]): void {
    for (const at of offsets) {
      if (!peerKinds.has(keys[at]!)) continue
      const network = keys[at] === kinds.network
      const code = keys[at + keyBytes - 1]!
      if (network) Atomics.or(this.words, header.prefixes + (code >>> 5), 1 << (code & 31))
      Atomics.or(this.words, header.peer, network ? peerBit.network : peerBit.certificate)
    }
  }

  /** Removes the row of this id filed under these keys; absent is fine (a tombstone may come before its row). */
  remove(id: number, keys: Uint8Array): void {
    const first = knownKeys(keys)[0]
    if (first === undefined) return
    const at = this.#find(id, wordsOf(keys, first))
    if (at === -1) return
    Atomics.store(this.words, at, slotState.dead)
    Atomics.sub(this.words, header.live, 1)
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

  /** Word offset of the live slot of this id under this key, or −1. */
  #find(id: number, key: Int32Array): number {
    const { words } = this
    const low = (id % 2 ** 32) | 0
    const high = Math.floor(id / 2 ** 32)
    for (let index = key[0]! & this.mask; ; index = (index + 1) & this.mask) {
      const at = this.slotAt(index)
      const state = words[at]!
      if (state === slotState.empty) return -1
      if (
        state === slotState.live &&
        words[at + 5] === low &&
        words[at + 6] === high &&
        sameKey(words, at + 1, key, 0)
      )
        return at
    }
  }
}

export function sameKey(
  a: Int32Array | Uint32Array,
  at: number,
  b: Int32Array,
  bt: number,
): boolean {
  return (
    (a[at]! | 0) === b[bt]! &&
    (a[at + 1]! | 0) === b[bt + 1]! &&
    (a[at + 2]! | 0) === b[bt + 2]! &&
    (a[at + 3]! | 0) === b[bt + 3]!
  )
}

/** At three quarters a miss looks at 8.5 slots on average at worst, one cache line or two. */
function capacityOf(slots: number): number {
  return slots - (slots >>> 2)
}

/** Offsets of the keys whose kind this release knows: dropping a predicate widens the row, it never skips it. */
function knownKeys(keys: Uint8Array): number[] {
  if (keys.length % keyBytes !== 0) {
    throw new GateError('ERR_LEDGER_UNMATCHABLE', `a revocation has ${keys.length} bytes of keys`)
  }
  const offsets: number[] = []
  for (let at = 0; at < keys.length; at += keyBytes) if (knownKinds.has(keys[at]!)) offsets.push(at)
  // Whoever wrote them in another order: what must not be held is never what the row is filed under.
  return offsets.length === 1
    ? offsets
    : [
        ...offsets.filter((at) => !isNegated(keys[at]!)),
        ...offsets.filter((at) => isNegated(keys[at]!)),
      ]
}

function isNegated(kind: number): boolean {
  return (kind & negatedBit) !== 0
}

function wordsOf(keys: Uint8Array, at: number): Int32Array {
  const view = new DataView(keys.buffer, keys.byteOffset + at + 1, 16)
  return Int32Array.of(
    view.getInt32(0, true),
    view.getInt32(4, true),
    view.getInt32(8, true),
    view.getInt32(12, true),
  )
}

function storedExpiry(expiresAtS: number | null): number {
  if (expiresAtS === null) return 0
  const since = Math.max(1, expiresAtS - expiryEpochS)
  return since >= 2 ** 32 ? 0 : since | 0
}
