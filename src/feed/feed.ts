/**
 * Room: feed. In: a PostgreSQL that holds the revocations. Out: a ledger that equals the table, and the proof of how
 * fresh that is. Never does: decide, lift by a notification, claim what a tick has not shown.
 *
 * The states, what each event does in each of them, and the invariants are in state.ts; here are the loop that finds the
 * events and the acts that the table names. Top down: a session (`#follow`), a tick (`#ask`, `#take`), the acts.
 *
 * The cursor is a snapshot, not a number: a tick asks for exactly what was not visible in it, so a transaction
 * that commits late, with a low id, is found like any other; `cursorOf` says how far it may go. Only a tick proves
 * freshness, dated from when it was *sent*. See reference: PostgreSQL documentation, "System Information Functions",
 * pg_snapshot.
 */

import { monotonicUs } from '../domain/clock.ts'
import type { Log } from '../domain/log.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import { WakeableSleep } from '../domain/wakeable-sleep.ts'
import type { GateError } from '../errors.ts'
import type { Ledger } from '../revocation/ledger.ts'
import { plainName, refused } from '../store/connect.ts'
import { Backlog } from './backlog.ts'
import { Bulk } from './bulk.ts'
import { Comparisons } from './comparisons.ts'
import {
  backoffMs,
  type Cursor,
  checkIdent,
  cursorOf,
  gapAfter,
  type Ident,
  seenIn,
} from './cursor.ts'
import { InForce } from './in-force.ts'
import { Notifications } from './notifications.ts'
import { Session } from './session.ts'
import { SnapshotFile } from './snapshot-file.ts'
import { type AppliedTick, type State, StateMachine, shownAs } from './state.ts'
import { askForChanges, type TickAnswer, type TickSource } from './tick.ts'
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
   * These rows are in the ledger and published: the open exchanges that they concern must be cut. A row may come more
   * than once, from a payload and from the tick that confirms it. Undefined: too many to say.
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
  readonly state: (typeof shownAs)[State]
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

/** A tick that was answered, and what was known when it was sent. */
interface Tick extends TickAnswer {
  readonly number: number
  readonly from: Cursor
  /** The second session was done before the tick was sent: then the tick covers everything after it. */
  readonly meetsBulk: boolean
}

/** While the queue of notifications fills up, notifications may stop any moment: ticks are sent this often. */
const crowdedTickMs = 50
/** A connection must be given up within a second of falling silent: the wait for a tick, and then this. */
const noticeMs = 950
const minSilenceMs = 300
const maxSilenceMs = 5000

export class Feed {
  readonly #options: FeedOptions
  readonly #ledger: Ledger
  readonly #schema: string
  readonly #inForce: InForce
  readonly #notifications: Notifications
  readonly #comparisons: Comparisons
  readonly #file: SnapshotFile | undefined
  readonly #sleep = new WakeableSleep()
  readonly #counts = { sent: 0, ticks: 0, loads: 0, bulks: 0, reconnects: 0 }
  readonly #machine: StateMachine
  #session: Session | undefined
  /** Only `resume`, `startLoad`, `moveCursor` and `finishBacklog` change it. */
  #cursor: Cursor | undefined
  #backlog: Backlog | undefined
  #problem: GateError | undefined
  /** A session of this process was found to keep its LISTEN. */
  #listenTested = false
  #running: Promise<void> | undefined

  constructor(options: FeedOptions) {
    const { ledger, log, metrics, connect: to, snapshotFile, verifyMs } = options
    this.#options = options
    this.#ledger = ledger
    this.#schema = plainName(to.schema, 'database.schema')
    this.#file = snapshotFile === undefined ? undefined : new SnapshotFile(snapshotFile, log)
    const { learnPointers, onRows } = options
    const onUnmatchable = (error: GateError): void => {
      this.#problem = error
    }
    this.#inForce = new InForce({ ledger, learnPointers, onRows, onUnmatchable, log })
    const wake = (): void => this.#sleep.wake()
    this.#notifications = new Notifications(this.#inForce, { wake, log, metrics })
    const open = (): Promise<Verification> => Verification.open(to.url, this.#schema)
    this.#comparisons = new Comparisons({ verifyMs, open, log, metrics })
    this.#machine = new StateMachine({
      resume: (ident) => this.#resume(ident),
      startLoad: (why) => this.#startLoad(why),
      startCatchUp: () => this.#startCatchUp(),
      moveCursor: (tick) => this.#moveCursor(tick),
      moveBacklog: (tick) => this.#moveBacklog(tick),
      proveFreshness: (tick) => this.#proveFreshness(tick),
      finishBacklog: (cursor) => this.#finishBacklog(cursor),
      dropBacklog: () => this.#dropBacklog(),
      release: () => this.#release(),
    })
  }

  /** Starts following. Resolves after the first attempt; a database that is away is in `status` and tried again. */
  async open(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#running = this.#run(resolve)
    })
  }

  status(): FeedStatus {
    const backlog = this.#backlog
    const { ticks, loads, bulks, reconnects } = this.#counts
    const ageMs = this.#ledger.ageMs(monotonicUs(), Date.now())
    return {
      state: shownAs[this.#machine.state],
      cursor: this.#cursor?.seen ?? null,
      age_ms: Number.isFinite(ageMs) ? Math.round(ageMs) : null,
      ...{ ticks, loads, bulks, reconnects },
      comparisons: this.#comparisons.done,
      differences: this.#comparisons.differences,
      provisional_rows: this.#inForce.provisionalRows,
      unmatchable_rows: this.#inForce.unmatchableRows,
      progress: backlog === undefined ? null : { rows: backlog.rows, of: backlog.expected },
      code: this.#problem?.code ?? null,
      message: this.#problem?.message ?? null,
      hint: this.#problem?.hint ?? null,
    }
  }

  async close(): Promise<void> {
    await this.#machine.on('closed', undefined)
    await this.#running
    await this.#file?.close()
  }

  /** One session after the other. @param attempted Called when the first of them follows or is lost. */
  async #run(attempted: () => void): Promise<void> {
    const { metrics, tickMs } = this.#options
    const promptMs = Math.max(minSilenceMs, noticeMs - tickMs)
    // A database that is only slow gets more time at each attempt, or no tick would ever end.
    let silenceMs = promptMs
    for (let attempt = 0; !this.#machine.closed; attempt++) {
      const ticksBefore = this.#counts.ticks
      try {
        await this.#follow(silenceMs, attempted)
      } catch (thrown) {
        if (!this.#machine.closed) this.#noteInterruption(refused(thrown))
      } finally {
        this.#session?.close()
        this.#session = undefined
      }
      await this.#machine.on('session lost', undefined)
      attempted()
      if (this.#machine.closed) break
      if (this.#counts.ticks !== ticksBefore) {
        attempt = 0
        silenceMs = promptMs
      } else silenceMs = Math.min(maxSilenceMs, silenceMs * 2)
      this.#counts.reconnects++
      metrics.count('dropgate_feed_reconnects_total')
      await this.#sleep.sleep(backoffMs(attempt, Math.random()))
    }
  }

  /** The same failure again and again is one line, not twenty a minute. */
  #noteInterruption(error: GateError): void {
    if (error.message !== this.#problem?.message) {
      const { code, hint } = error
      this.#options.log.error({ code, hint }, `the feed is interrupted: ${error.message}`)
    }
    this.#problem = error
  }

  /** One session from connecting to its loss. */
  async #follow(silenceMs: number, attempted: () => void): Promise<void> {
    const { tickMs } = this.#options
    const session = await this.#openSession(silenceMs)
    while (!this.#machine.closed) {
      this.#sleep.reset()
      const sentAt = performance.now()
      await this.#take(await this.#ask(session))
      if (this.#machine.state === 'following') {
        this.#noteFollowing()
        attempted()
        this.#keepFile()
        await this.#compare()
      }
      if (session.lost !== undefined) throw session.lost
      const pauseMs = this.#notifications.crowded ? Math.min(tickMs, crowdedTickMs) : tickMs
      if (!this.#sleep.woken) await this.#sleep.sleep(pauseMs - (performance.now() - sentAt))
      if (session.lost !== undefined) throw session.lost
    }
  }

  async #openSession(silenceMs: number): Promise<Session> {
    const { connect: to, log } = this.#options
    const session = await Session.open(to.url, this.#schema, silenceMs)
    this.#session = session
    if (this.#machine.closed) return session
    session.onEvents(
      (message) => this.#notifications.receive(message, this.#shownSoFar, this.#counts.sent),
      () => this.#sleep.wake(),
    )
    const { ident, mac, missingTriggers } = await session.greet()
    checkIdent(ident)
    this.#notifications.mac = mac
    if (missingTriggers.length > 0) {
      log.error(
        { triggers: missingTriggers },
        'triggers of the revocations are switched off: rows may be missed until the next comparison',
      )
    }
    // LISTEN is committed before anything is read: a row that commits later than the read has notified us.
    await session.listen(ident.channel)
    if (!this.#listenTested) {
      await session.hearsOthers(to.url, ident.channel)
      this.#listenTested = true
    }
    await this.#machine.on('session opened', ident)
    return session
  }

  /** What ticks ask from: the cursor, or beside a second session where the ticks since its snapshot have come to. */
  get #shownSoFar(): Cursor | undefined {
    return this.#backlog?.cursor ?? this.#cursor
  }

  /** Sends a tick. @param source The session that answers. */
  async #ask(source: TickSource): Promise<Tick> {
    const from = this.#shownSoFar!
    const number = ++this.#counts.sent
    const outcome = this.#backlog?.outcome
    if (outcome instanceof Error) {
      await this.#machine.on('bulk failed', undefined)
      throw outcome
    }
    const answer = await askForChanges(source, from)
    return { ...answer, number, from, meetsBulk: outcome === 'done' }
  }

  /** Puts a tick's answer in force. @returns whether the ledger is now all that the answer saw */
  async #take(tick: Tick): Promise<boolean> {
    const { changes, from, gap, number, sentAtUs, clockOffsetMs } = tick
    const machine = this.#machine
    if (gap !== undefined) {
      await machine.on('gap found', gap)
      return false
    }
    const { ident, transactions } = changes
    if (ident.mac_key !== this.#notifications.mac?.id)
      this.#notifications.mac = await this.#session?.macKey()
    this.#notifications.noteQueueUsage(ident.queue_usage)
    this.#options.metrics.count('dropgate_feed_ticks_total')
    this.#counts.ticks++
    if (tick.overCap) {
      // A part is not the whole: nothing is applied, the cursor stays, nothing is proved.
      if (tick.meetsBulk) await machine.on('bulk done', from)
      await machine.on('tick over the cap', undefined)
      return false
    }
    await this.#inForce.applyTick(changes, { tick: number, seen: seenIn(from.seen) }, this.#backlog)
    const cursor = cursorOf(ident, transactions, from)
    if (tick.meetsBulk) await machine.on('bulk done', cursor)
    await machine.on('tick applied', { cursor, sentAtUs, clockOffsetMs })
    return machine.state === 'following'
  }

  #noteFollowing(): void {
    if (this.#problem === undefined || this.#inForce.unmatchableRows > 0) return
    this.#options.log.info({}, 'the feed follows again')
    this.#problem = undefined
  }

  /** A row that no tick has shown, or that this release cannot match, must not get into the file. */
  #keepFile(): void {
    if (this.#inForce.provisionalRows > 0 || this.#inForce.unmatchableRows > 0) return
    this.#file?.keep(this.#ledger, this.#cursor!, this.#notifications.mac!)
  }

  /** Brings the ledger to what the session of a comparison sees, and leaves the rest to that session. */
  async #compare(): Promise<void> {
    const comparisons = this.#comparisons
    comparisons.prepare()
    const verification = comparisons.take()
    if (verification !== undefined) {
      const tick = await this.#ask(verification).catch((error: unknown) => {
        comparisons.fail(verification, error)
      })
      if (tick !== undefined) await this.#beginComparison(verification, tick)
    }
    if (comparisons.differs)
      await this.#machine.on('difference found', 'the ledger differs from the table')
  }

  async #beginComparison(verification: Verification, tick: Tick): Promise<void> {
    let equal = false
    try {
      equal = await this.#take(tick)
    } finally {
      // Provisional rows are in no snapshot; a moment without them comes soon.
      if (equal && this.#inForce.provisionalRows === 0)
        this.#comparisons.begin(verification, this.#ledger.digest)
      else this.#comparisons.postpone(verification)
    }
  }

  // The acts of state.ts, in the order in which they are listed there.

  /** A second session that is still at work goes on; ticks resume from where they were. */
  async #resume(ident: Ident): Promise<void> {
    // The file is older than a ledger that was loaded: in its place it would let a caller in whom a later row names.
    if (this.#shownSoFar === undefined && !this.#ledger.loaded)
      this.#cursor = await this.#file?.restore(ident, this.#notifications.mac!, this.#inForce)
    const at = this.#shownSoFar
    const gap = at === undefined ? 'first load' : gapAfter(at, ident)
    if (gap !== undefined) await this.#machine.on('gap found', gap)
  }

  /** Everything from one snapshot into a table of its own; what is held serves, and ages, until that is complete. */
  async #startLoad(why: string): Promise<void> {
    const { log, spareRows } = this.#options
    log.info({ why }, 'loading all revocations')
    this.#dropBacklog()
    this.#cursor = undefined
    this.#comparisons.forget()
    const bulk = await this.#openBulk()
    if (bulk === undefined) return
    this.#backlog = new Backlog('loading', bulk, this.#inForce, undefined)
    this.#backlog.load(spareRows, log, () => this.#sleep.wake())
  }

  async #startCatchUp(): Promise<void> {
    const { log, metrics } = this.#options
    const cursor = this.#cursor!
    const bulk = await this.#openBulk()
    if (bulk === undefined) return
    const gap = gapAfter(cursor, bulk.ident)
    if (gap !== undefined) {
      bulk.close()
      await this.#machine.on('gap found', gap)
      return
    }
    this.#counts.bulks++
    metrics.count('dropgate_feed_bulks_total')
    log.info({}, 'more has changed than a tick may carry: it is read on a second session')
    this.#backlog = new Backlog('catching-up', bulk, this.#inForce, cursor)
    this.#backlog.catchUp(cursor.seen, log, () => this.#sleep.wake())
  }

  /** @returns undefined where the feed was closed meanwhile */
  async #openBulk(): Promise<Bulk | undefined> {
    let bulk: Bulk
    try {
      bulk = await Bulk.open(this.#options.connect.url, this.#schema)
    } catch (error) {
      await this.#machine.on('bulk failed', undefined)
      throw error
    }
    if (!this.#machine.closed) return bulk
    bulk.close()
    return undefined
  }

  #moveCursor({ cursor }: AppliedTick): void {
    this.#cursor = cursor
  }

  #moveBacklog({ cursor }: AppliedTick): void {
    this.#backlog!.cursor = cursor
  }

  #proveFreshness({ sentAtUs, clockOffsetMs }: AppliedTick): void {
    this.#ledger.fresh(sentAtUs, clockOffsetMs)
    this.#ledger.setLoaded()
    this.#options.metrics.observe('dropgate_feed_tick_seconds', (monotonicUs() - sentAtUs) / 1e6)
  }

  async #finishBacklog(cursor: Cursor): Promise<void> {
    const { log, metrics } = this.#options
    const backlog = this.#backlog!
    const ledger = this.#ledger
    const before = ledger.rows
    // Notifications that come meanwhile are held against what this tick has shown.
    backlog.cursor = cursor
    await backlog.finish()
    if (backlog.kind === 'loading') {
      this.#counts.loads++
      metrics.count('dropgate_feed_loads_total')
      if (ledger.loaded && ledger.rows < before / 2) {
        log.warn(
          { before, after: ledger.rows },
          'more than half of the revocations that were held are not in the database any more',
        )
      }
    }
    const ms = Math.round(performance.now() - backlog.startedAt)
    log.info({ rows: ledger.rows, read: backlog.rows, ms }, `${backlog.kind} is over`)
    this.#cursor = cursor
    this.#backlog = undefined
  }

  #dropBacklog(): void {
    this.#backlog?.close()
    this.#backlog = undefined
  }

  #release(): void {
    this.#notifications.close()
    this.#session?.close()
    this.#backlog?.close()
    this.#comparisons.close()
    this.#sleep.close()
  }
}
