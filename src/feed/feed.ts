/**
 * Room: feed. In: a PostgreSQL that holds the revocations. Out: a ledger that equals the table, and the proof of how
 * fresh that is. Never does: decide, lift by a notification, claim what a tick has not shown.
 *
 * The cursor is a snapshot, not a number: a tick asks for exactly what was not visible in it, so a transaction
 * that commits late, with a low id, is found like any other; `cursorOf` says how far it may go. Only a tick proves
 * freshness, dated from when it was *sent*. See reference: PostgreSQL documentation, "System Information Functions",
 * pg_snapshot.
 *
 *   connecting   no session. Entered at the start and whenever one is lost; what is held serves on, and ages.
 *   loading      everything is read on a second session (bulk.ts). Ticks go on, from that session's snapshot; what they
 *                bring denies at once; nothing is fresh before both have met.
 *   catching-up  the same for what the cursor has not seen, when that is more than a tick may carry.
 *   following    ticks from the cursor: every `tick`, and at once when a notification says that there is something.
 *   closed
 */

import { monotonicUs } from '../domain/clock.ts'
import type { Log } from '../domain/log.ts'
import { Pacer } from '../domain/pacer.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import { asGateError, type GateError } from '../errors.ts'
import { type Ledger, type Loading, unmatchable } from '../revocation/ledger.ts'
import { plainName, refused } from '../store/connect.ts'
import { apply, type Changes, Deferred, parseChanges } from './apply.ts'
import { Bulk } from './bulk.ts'
import { Comparisons } from './comparisons.ts'
import {
  backoffMs,
  type Cursor,
  changesCap,
  checkIdent,
  cursorOf,
  gapAfter,
  type Ident,
  seenIn,
} from './cursor.ts'
import { Overlay } from './overlay.ts'
import { type MacKey, parsePayload } from './payload.ts'
import { Session } from './session.ts'
import { type Restored, SnapshotFile } from './snapshot-file.ts'
import { Verification } from './verify.ts'

export interface FeedOptions {
  readonly connect: { readonly url: string; readonly schema: string }
  readonly tickMs: number
  readonly ledger: Ledger
  /** Room for this many rows beyond those that a full load finds. */
  readonly spareRows: number
  /** A file that makes a restart cheap. */
  readonly snapshotFile?: string | undefined
  /** How often the whole ledger is compared with the table; 0 for never. */
  readonly verifyMs: number
  /** Makes claims known to the workers. @returns whether one is new */
  readonly learnPointers: (pointers: readonly string[]) => boolean
  /**
   * These rows are in the ledger and published: what is open and concerned is to be cut. One may come more than once,
   * from a payload and from the tick that confirms it. Undefined: too many to say.
   */
  readonly onRows: (rows: readonly RevocationRow[] | undefined) => void
  readonly log: Log
  readonly metrics: {
    count(
      name:
        | 'dropgate_feed_reconnects_total'
        | 'dropgate_feed_loads_total'
        | 'dropgate_feed_bulks_total'
        | 'dropgate_feed_ticks_total'
        | 'dropgate_feed_comparisons_total'
        | 'dropgate_feed_payloads_total',
      label?: string,
    ): void
    observe(name: 'dropgate_feed_tick_seconds', seconds: number): void
  }
}

export interface FeedStatus {
  readonly state: 'connecting' | 'loading' | 'catching-up' | 'following' | 'closed'
  readonly cursor: string | null
  /** Time since the last tick was sent that proved freshness; null before the first. */
  readonly age_ms: number | null
  readonly ticks: number
  readonly loads: number
  readonly bulks: number
  readonly reconnects: number
  /** Comparisons of the whole ledger with the table, and how many found a difference. */
  readonly comparisons: number
  readonly differences: number
  /** Rows that a notification brought and no tick has shown yet. */
  readonly provisional_rows: number
  readonly unmatchable_rows: number
  /** Of a load or a catch-up under way. */
  readonly progress: { readonly rows: number; readonly of: number | null } | null
  readonly code: string | null
  readonly message: string | null
  readonly hint: string | null
}

/** A second session at work, and what ticks bring meanwhile. */
interface Reading {
  readonly kind: 'loading' | 'catching-up'
  readonly bulk: Bulk
  loading: Loading | undefined
  readonly deferred: Deferred
  readonly startedAt: number
  /** What has been seen since by ticks; begins with the bulk's snapshot. */
  cursor: Cursor
  outcome: 'reading' | 'done' | Error
  unmatchable: readonly RevocationRow[]
}

/** A tick follows a notification that was understood at this distance: what it says is in force already. */
const confirmMs = 20
/** While the queue of notifications fills up because of somebody who does not read it, they may stop any moment. */
const crowdedMs = 50
const crowded = 0.25
/** How often, during a catch-up, everything that is open is asked whether a row concerns it. */
const cutEveryMs = 250
/** A connection must be given up within a second of falling silent: the wait for a tick, and then this. */
const noticeMs = 950
const patientMs = 5000

export class Feed {
  readonly #options: FeedOptions
  readonly #ledger: Ledger
  readonly #schema: string
  #state: FeedStatus['state'] = 'connecting'
  #session: Session | undefined
  #cursor: Cursor | undefined
  #reading: Reading | undefined
  readonly #overlay = new Overlay()
  #mac: MacKey | undefined
  #problem: GateError | undefined
  readonly #unmatchable = new Set<number>()
  #tested = false
  #crowded = false
  readonly #file: SnapshotFile | undefined
  readonly #comparisons: Comparisons
  #sent = 0
  #ticks = 0
  #loads = 0
  #bulks = 0
  #reconnects = 0
  #closed = false
  readonly #pacer = new Pacer()
  #confirming: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined

  constructor(options: FeedOptions) {
    this.#options = options
    this.#ledger = options.ledger
    this.#file =
      options.snapshotFile === undefined ? undefined : new SnapshotFile(options.snapshotFile)
    this.#schema = plainName(options.connect.schema, 'database.schema')
    this.#comparisons = new Comparisons(options, () =>
      Verification.open(options.connect.url, this.#schema),
    )
  }

  /** Starts following. Resolves after the first attempt; a database that is away is in `status` and tried again. */
  async open(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#running = this.#run(resolve)
    })
  }

  status(): FeedStatus {
    const reading = this.#reading
    const ageMs = this.#ledger.ageMs(monotonicUs(), Date.now())
    return {
      state: this.#state,
      cursor: this.#cursor?.seen ?? null,
      age_ms: Number.isFinite(ageMs) ? Math.round(ageMs) : null,
      ticks: this.#ticks,
      loads: this.#loads,
      bulks: this.#bulks,
      reconnects: this.#reconnects,
      comparisons: this.#comparisons.done,
      differences: this.#comparisons.differences,
      provisional_rows: this.#overlay.size,
      unmatchable_rows: this.#unmatchable.size,
      progress:
        reading === undefined
          ? null
          : {
              rows: reading.bulk.rows,
              of: reading.bulk.expected,
            },
      code: this.#problem?.code ?? null,
      message: this.#problem?.message ?? null,
      hint: this.#problem?.hint ?? null,
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#confirming)
    this.#session?.close()
    this.#reading?.bulk.close()
    this.#comparisons.close()
    this.#pacer.close()
    await this.#running
    await this.#file?.close()
    this.#state = 'closed'
  }

  async #run(attempted: () => void): Promise<void> {
    const { log, metrics, tickMs } = this.#options
    // Somebody who is only slow gets more time at each attempt, or no tick would ever end.
    let silenceMs = Math.max(300, noticeMs - tickMs)
    for (let attempt = 0; !this.#closed; attempt++) {
      const ticksBefore = this.#ticks
      try {
        await this.#follow(silenceMs, attempted)
      } catch (thrown) {
        if (this.#closed) break
        const error = refused(thrown)
        // The same failure again and again is one line, not twenty a minute.
        if (error.message !== this.#problem?.message) {
          log.error(
            { code: error.code, hint: error.hint },
            `the feed is interrupted: ${error.message}`,
          )
        }
        this.#problem = error
      } finally {
        this.#session?.close()
        this.#session = undefined
      }
      attempted()
      if (this.#closed) break
      if (this.#ticks !== ticksBefore) {
        attempt = 0
        silenceMs = Math.max(300, noticeMs - tickMs)
      } else silenceMs = Math.min(patientMs, silenceMs * 2)
      this.#state = 'connecting'
      this.#reconnects++
      metrics.count('dropgate_feed_reconnects_total')
      await this.#pacer.pause(backoffMs(attempt, Math.random()))
    }
  }

  /** One session from connecting to its loss. */
  async #follow(silenceMs: number, attempted: () => void): Promise<void> {
    const { connect: to, tickMs, log } = this.#options
    const session = await Session.open(to.url, this.#schema, silenceMs)
    this.#session = session
    if (this.#closed) return
    session.onEvents(
      (message) => this.#onNotification(message),
      () => this.#pacer.wake(),
    )
    const { ident, mac, missingTriggers } = await session.greet()
    checkIdent(ident)
    this.#mac = mac
    if (missingTriggers.length > 0) {
      log.error(
        { triggers: missingTriggers },
        'triggers of the revocations are switched off: rows may be missed until the next comparison',
      )
    }
    // LISTEN is committed before anything is read: what commits later than the read has notified us.
    await session.listen(ident.channel)
    if (!this.#tested) {
      await session.hearsOthers(to.url, ident.channel)
      this.#tested = true
    }
    // A second session that is still at work goes on; ticks resume from where they were.
    // The file is older than what is held: in its place it would let in whom a later row names, after a load that failed.
    const first = this.#cursor === undefined && this.#reading === undefined
    if (first && !this.#ledger.loaded) await this.#restore(ident)
    const at = this.#reading?.cursor ?? this.#cursor
    const gap = at === undefined ? 'first load' : gapAfter(at, ident)
    if (gap !== undefined) await this.#startLoad(gap)
    while (!this.#closed) {
      this.#pacer.begin()
      const sentAt = performance.now()
      await this.#tick(session)
      this.#state = this.#reading?.kind ?? 'following'
      if (this.#state === 'following') {
        if (this.#problem !== undefined && this.#unmatchable.size === 0) {
          log.info({}, 'the feed follows again')
          this.#problem = undefined
        }
        attempted()
        this.#keepFile()
        this.#comparisons.prepare()
        await this.#compare()
        if (this.#comparisons.differs) await this.#startLoad('the ledger differs from the table')
      }
      if (session.lost !== undefined) throw session.lost
      const pauseMs = this.#crowded ? Math.min(tickMs, crowdedMs) : tickMs
      await this.#pacer.untilWoken(pauseMs - (performance.now() - sentAt))
      if (session.lost !== undefined) throw session.lost
    }
  }

  /** A notification: rows to deny at once, or a reason to look. */
  #onNotification(message: string): void {
    const { metrics } = this.#options
    const at = this.#reading?.cursor ?? this.#cursor
    const payload =
      message.startsWith('p') && this.#mac !== undefined
        ? parsePayload(message, this.#mac)
        : undefined
    if (payload === undefined || at === undefined || !this.#ledger.loaded) {
      metrics.count('dropgate_feed_payloads_total', message.startsWith('p') ? 'refused' : 'wake')
      this.#pacer.wake()
      return
    }
    metrics.count('dropgate_feed_payloads_total', 'rows')
    if (this.#overlay.add(this.#ledger, payload, seenIn(at.seen), this.#sent) > 0) {
      this.#ledger.publish()
      this.#options.onRows(payload.rows)
    }
    this.#confirming ??= setTimeout(() => {
      this.#confirming = undefined
      this.#pacer.wake()
    }, confirmMs)
  }

  /** @param source The session that answers. @returns whether the ledger is now all that its answer saw. */
  async #tick(source: Pick<Session, 'changes'>): Promise<boolean> {
    const { metrics } = this.#options
    const from = this.#reading?.cursor ?? this.#cursor!
    const tick = ++this.#sent
    const sentAtUs = monotonicUs()
    // Whether the second session was done before this was asked: then this covers everything after it.
    const outcome = this.#reading?.outcome
    if (outcome instanceof Error) {
      this.#stopReading()
      throw outcome
    }
    const result = await source.changes(from.seen)
    const receivedAtMs = Date.now()
    const changes = parseChanges(result)
    const { ident } = changes
    checkIdent(ident)
    const gap = gapAfter(from, ident)
    if (gap !== undefined) {
      await this.#startLoad(gap)
      return false
    }
    if (ident.mac_key !== this.#mac?.id) this.#mac = await this.#session?.macKey()
    this.#noteCrowd(ident.queue_usage)
    metrics.count('dropgate_feed_ticks_total')
    this.#ticks++
    if (changes.rows.length > changesCap || changes.tombs.length > changesCap) {
      // A part is not a whole: nothing is applied, the cursor stays, nothing is proved.
      if (outcome === 'done') await this.#finishReading(from)
      if (this.#reading === undefined) await this.#startCatchUp()
      return false
    }
    await this.#apply(changes, tick, from)
    const cursor = cursorOf(ident, changes.transactions, from)
    if (this.#reading === undefined) this.#cursor = cursor
    else {
      this.#reading.cursor = cursor
      if (outcome !== 'done') return false
      await this.#finishReading(cursor)
    }
    // Postgres read its clock before the answer came, so this offset is too early rather than too late.
    this.#ledger.fresh(sentAtUs, ident.clock_ms - receivedAtMs)
    this.#ledger.setLoaded()
    metrics.observe('dropgate_feed_tick_seconds', (monotonicUs() - sentAtUs) / 1e6)
    return true
  }

  /** What a tick brought, in force; beside a second session it is kept as well, since that reads what is older. */
  async #apply(changes: Changes, tick: number, from: Cursor): Promise<void> {
    const ledger = this.#ledger
    const reading = this.#reading
    // Before the rows that need them, and published on their own: the invariant is at `heldKeys`.
    if (this.#options.learnPointers(changes.ident.pointers)) ledger.publish()
    reading?.deferred.note(changes)
    for (const { id } of changes.tombs) {
      this.#unmatchable.delete(id)
      this.#overlay.confirm(id)
    }
    for (const { id } of changes.rows) this.#overlay.confirm(id)
    const provisional = this.#overlay.size
    if (ledger.loaded || reading?.kind !== 'loading') {
      await apply(ledger, changes, {
        onUnmatchable: (row, error) => this.#noteUnmatchable(row, error),
      })
    }
    // What a second session is to show is not for this tick to judge.
    const judges = seenIn(from.seen)
    const unheardOf = this.#overlay.settle(
      ledger,
      tick,
      (xid) => reading === undefined || !judges(xid),
      seenIn(changes.ident.snapshot),
    )
    if (unheardOf.length > 0) {
      this.#options.log.warn(
        { ids: unheardOf.slice(0, 10), rows: unheardOf.length },
        'notified rows are in no snapshot and were dropped',
      )
    }
    if (changes.rows.length + changes.tombs.length > 0 || this.#overlay.size !== provisional) {
      ledger.publish()
      if (changes.rows.length > 0) this.#options.onRows(changes.rows)
    }
    ledger.setBroken(this.#unmatchable.size > 0)
  }

  /** What an earlier run has left on this machine; what is missing since is a matter of ticks. */
  async #restore(ident: Ident): Promise<void> {
    const { log, learnPointers } = this.#options
    const startedAt = performance.now()
    let restored: Restored | undefined
    try {
      restored = await this.#file?.restore(ident, this.#mac!)
      if (restored === undefined) return
      const loading = await this.#ledger.restoreLoad(restored.given)
      learnPointers(restored.cursor.pointers)
      await this.#ledger.finishLoad(loading, async () => {})
    } catch (error) {
      const { code, message } = asGateError(error, 'ERR_SNAPSHOT_FILE')
      log.warn({ code }, `${message}; everything is loaded from the table`)
      return
    }
    this.#cursor = restored.cursor
    const ms = Math.round(performance.now() - startedAt)
    log.info({ rows: this.#ledger.rows, ms }, 'revocations are restored from the snapshot file')
  }

  #keepFile(): void {
    // A row that no tick has shown must not outlive this run.
    if (this.#file === undefined || this.#overlay.size > 0 || this.#unmatchable.size > 0) return
    this.#file.keep(this.#ledger, this.#cursor!, this.#mac!, (result) => {
      if (result instanceof Error) {
        this.#options.log.error({ err: result }, 'the snapshot file cannot be written')
      } else this.#options.log.info(result, 'the snapshot file is written')
    })
  }

  /** Brings the ledger to what a session for a comparison sees, and leaves the rest to that. */
  async #compare(): Promise<void> {
    const comparisons = this.#comparisons
    const verification = comparisons.take()
    if (verification === undefined) return
    try {
      // Provisional rows are in no snapshot; a moment without them comes soon.
      if ((await this.#tick(verification)) && this.#overlay.size === 0)
        comparisons.begin(verification, this.#ledger.digest)
      else comparisons.postpone(verification)
    } catch (error) {
      comparisons.fail(verification, error)
    }
  }

  /** Everything from one snapshot into a table of its own; what is held serves, and ages, until it is complete. */
  async #startLoad(why: string): Promise<void> {
    const { connect: to, log, spareRows } = this.#options
    this.#state = 'loading'
    log.info({ why }, 'loading all revocations')
    this.#stopReading()
    this.#cursor = undefined
    this.#comparisons.forget()
    const reading = this.#startReading('loading', await Bulk.open(to.url, this.#schema))
    const { bulk, deferred } = reading
    this.#watch(reading, async () => {
      reading.loading = this.#ledger.startLoad((await bulk.count()) + spareRows)
      reading.unmatchable = await bulk.load(reading.loading, deferred)
    })
  }

  async #startCatchUp(): Promise<void> {
    const { connect: to, log, metrics } = this.#options
    const cursor = this.#cursor!
    const bulk = await Bulk.open(to.url, this.#schema)
    const gap = gapAfter(cursor, bulk.ident)
    if (gap !== undefined) {
      bulk.close()
      await this.#startLoad(gap)
      return
    }
    this.#bulks++
    metrics.count('dropgate_feed_bulks_total')
    log.info({}, 'more has changed than a tick may carry: it is read on a second session')
    const reading = this.#startReading('catching-up', bulk)
    let cutNext = 0
    this.#watch(reading, () =>
      bulk.catchUp(this.#ledger, cursor.seen, reading.deferred, this.#overlay, {
        unmatchable: (row, error) => this.#noteUnmatchable(row, error),
        written: () => {
          if (performance.now() < cutNext) return
          cutNext = performance.now() + cutEveryMs
          this.#options.onRows(undefined)
        },
      }),
    )
  }

  #startReading(kind: Reading['kind'], bulk: Bulk): Reading {
    if (this.#options.learnPointers(bulk.ident.pointers)) this.#ledger.publish()
    const reading: Reading = {
      kind,
      bulk,
      loading: undefined,
      deferred: new Deferred(),
      startedAt: performance.now(),
      cursor: bulk.cursorAfter(this.#cursor),
      outcome: 'reading',
      unmatchable: [],
    }
    this.#reading = reading
    return reading
  }

  #watch(reading: Reading, read: () => Promise<void>): void {
    const { log } = this.#options
    const said = setInterval(() => {
      const { rows, expected } = reading.bulk
      log.info({ rows, of: expected }, `${reading.kind}: ${rows} rows so far`)
    }, 2000)
    read()
      .then(() => {
        reading.outcome = 'done'
      })
      .catch((error: unknown) => {
        reading.outcome = error instanceof Error ? error : new Error(String(error))
      })
      .finally(() => {
        clearInterval(said)
        reading.bulk.close()
        this.#pacer.wake()
      })
  }

  /** Both have met: what the second session read and what ticks brought since is everything visible at `cursor`. */
  async #finishReading(cursor: Cursor): Promise<void> {
    const { log, metrics } = this.#options
    const reading = this.#reading!
    const ledger = this.#ledger
    const before = ledger.rows
    // Whatever the second session was to show it has shown.
    const seen = seenIn(reading.bulk.ident.snapshot)
    if (reading.loading !== undefined) {
      this.#overlay.forget(seen)
      this.#unmatchable.clear()
      for (const row of reading.unmatchable) this.#noteUnmatchable(row)
      const changes = reading.deferred.changes()
      await reading.loading.reserve(2 * (changes.rows.length + this.#overlay.size) + 1000)
      await ledger.finishLoad(reading.loading, async () => {
        await apply(ledger, changes, { onUnmatchable: (row) => this.#noteUnmatchable(row) })
        for (const row of this.#overlay.rows()) ledger.upsert(row)
      })
      // Not before it is published: what is open would be believed clean by its stamp.
      this.#options.onRows(undefined)
      ledger.setBroken(this.#unmatchable.size > 0)
      this.#loads++
      metrics.count('dropgate_feed_loads_total')
      if (ledger.loaded && ledger.rows < before / 2) {
        log.warn(
          { before, after: ledger.rows },
          'more than half of the revocations that were held are not in the database any more',
        )
      }
    } else {
      this.#overlay.settle(ledger, Number.POSITIVE_INFINITY, seen, seen)
      ledger.publish()
      this.#options.onRows(undefined)
    }
    const ms = Math.round(performance.now() - reading.startedAt)
    log.info({ rows: ledger.rows, read: reading.bulk.rows, ms }, `${reading.kind} is over`)
    this.#cursor = cursor
    this.#reading = undefined
  }

  #stopReading(): void {
    this.#reading?.bulk.close()
    this.#reading = undefined
  }

  /** A row that nothing here can match makes the gate not ready: skipping it would let somebody through. */
  #noteUnmatchable(row: RevocationRow, error?: GateError): void {
    if (this.#unmatchable.has(row.id)) return
    this.#unmatchable.add(row.id)
    const said = error ?? unmatchable(row.id)
    this.#problem = said
    this.#options.log.error({ code: said.code, hint: said.hint }, said.message)
  }

  #noteCrowd(usage: number): void {
    const now = usage > crowded
    if (now && !this.#crowded) {
      this.#options.log.warn(
        {
          usage,
          hint: 'some session listens, in any database of this server, and does not read: see docs/feed.md',
        },
        'the queue of notifications fills up',
      )
    }
    this.#crowded = now
  }
}
