/**
 * Room: feed. In: a PostgreSQL with the revocations. Out: a ledger that equals the table, and a proof of how fresh it
 * is. Never does: decide on requests, end a denial because of a notification, claim more than a tick has shown.
 *
 * state.ts has the states, the effect of each event in each state, and the invariants. This file has the loop that
 * finds the events, and the acts that the table names. Read it from the top: a session (`#follow`), a tick (`#ask`,
 * `#take`), the acts.
 *
 * The cursor is a snapshot and not a number. A tick asks for exactly what was not visible in it, so a row is found even
 * if its transaction has a low id and commits late; `cursorOf` decides how far the cursor may move. Only a tick proves
 * freshness, counted from the moment it was *sent*. See PostgreSQL documentation, "System Information Functions",
 * pg_snapshot.
 */

import { monotonicUs } from '../domain/clock.ts'
import type { Log } from '../domain/log.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import { WakeableSleep } from '../domain/wakeable-sleep.ts'
import type { GateError } from '../errors.ts'
import type { Ledger } from '../revocation/ledger.ts'
import { plainName, toDatabaseError } from '../store/connect.ts'
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
import { Triggers } from './triggers.ts'
import { Verification } from './verify.ts'

export interface FeedOptions {
  readonly connect: { readonly url: string; readonly schema: string }
  readonly tickMs: number
  readonly ledger: Ledger
  /** Room in the ledger for this many rows beyond those that a full load finds. */
  readonly spareRows: number
  /** File that lets a restarted gate read only what has changed; see snapshot-file.ts. */
  readonly snapshotFile?: string | undefined
  /** Time between two comparisons of the whole ledger with the table; 0 for never. */
  readonly verifyMs: number
  /** Makes the workers look up these claims in tokens. @returns whether one of them is new */
  readonly learnPointers: (pointers: readonly string[]) => boolean
  /**
   * Called when rows are in the ledger and published: the open exchanges that they concern must be cut. A row may come
   * twice, from a notification and from the tick that confirms it. Undefined: too many rows to list.
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
  /** Time since the newest tick that proved freshness was sent; null before the first. */
  readonly age_ms: number | null
  readonly ticks: number
  readonly loads: number
  readonly bulks: number
  readonly reconnects: number
  /** Number of comparisons of the whole ledger with the table, and of those that found a difference. */
  readonly comparisons: number
  readonly differences: number
  /** Number of rows that a notification brought and no tick has shown yet. */
  readonly provisional_rows: number
  readonly unmatchable_rows: number
  /** Names of the triggers of the table that do not fire for all the sessions that they are for; see triggers.ts. */
  readonly wrong_triggers: readonly string[]
  /** Progress of a load or catch-up that is under way. */
  readonly progress: { readonly rows: number; readonly of: number | null } | null
  readonly code: string | null
  readonly message: string | null
  readonly hint: string | null
}

/** A tick that was answered, and the state when it was sent. */
interface Tick extends TickAnswer {
  readonly number: number
  readonly from: Cursor
  /** The second session had finished before the tick was sent: then the tick covers everything after that session. */
  readonly meetsBulk: boolean
}

/** While the notification queue is filling up, notifications may soon fail: ticks are sent this often. */
const crowdedTickMs = 50
/** A connection that falls silent is given up within a second: after the wait for the next tick, this much is left. */
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
  readonly #triggers: Triggers
  readonly #file: SnapshotFile | undefined
  readonly #sleep = new WakeableSleep()
  readonly #counts = { sent: 0, ticks: 0, loads: 0, bulks: 0, reconnects: 0 }
  readonly #machine: StateMachine
  #session: Session | undefined
  /** Only `resume`, `startLoad`, `moveCursor` and `finishBacklog` change the cursor. */
  #cursor: Cursor | undefined
  #backlog: Backlog | undefined
  #problem: GateError | undefined
  /** True once a session of this process has passed the test of `hearsOthers`. */
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
    this.#triggers = new Triggers(log)
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

  /**
   * Starts to follow the database. Resolves after the first attempt; an unreachable database is shown in `status` and
   * tried again.
   */
  async open(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#running = this.#run(resolve)
    })
  }

  status(): FeedStatus {
    const backlog = this.#backlog
    const problem = this.#problem ?? this.#triggers.problem
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
      wrong_triggers: this.#triggers.wrong,
      progress: backlog === undefined ? null : { rows: backlog.rows, of: backlog.expected },
      code: problem?.code ?? null,
      message: problem?.message ?? null,
      hint: problem?.hint ?? null,
    }
  }

  async close(): Promise<void> {
    await this.#machine.on('closed', undefined)
    await this.#running
    await this.#file?.close()
  }

  /** Opens one session after another. @param attempted Called when the first session follows the table or is lost. */
  async #run(attempted: () => void): Promise<void> {
    const { metrics, tickMs } = this.#options
    const promptMs = Math.max(minSilenceMs, noticeMs - tickMs)
    // A slow database gets more time at each attempt; otherwise no tick would ever succeed.
    let silenceMs = promptMs
    for (let attempt = 0; !this.#machine.closed; attempt++) {
      const ticksBefore = this.#counts.ticks
      try {
        await this.#follow(silenceMs, attempted)
      } catch (thrown) {
        if (!this.#machine.closed) this.#noteInterruption(toDatabaseError(thrown))
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

  /** Logs the same failure once, not at every attempt. */
  #noteInterruption(error: GateError): void {
    if (error.message !== this.#problem?.message) {
      const { code, hint } = error
      this.#options.log.error(
        { code, hint },
        `the connection of the revocation feed is lost: ${error.message}`,
      )
    }
    this.#problem = error
  }

  /** Runs one session from its connection to its loss. */
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
    const { connect: to } = this.#options
    const session = await Session.open(to.url, this.#schema, silenceMs)
    this.#session = session
    if (this.#machine.closed) return session
    session.onEvents(
      (message) => this.#notifications.receive(message, this.#shownSoFar, this.#counts.sent),
      () => this.#sleep.wake(),
    )
    const { ident, mac } = await session.greet()
    checkIdent(ident)
    this.#notifications.mac = mac
    // LISTEN is committed before anything is read, so that a row which commits after the read sends us a notification.
    await session.listen(ident.channel)
    if (!this.#listenTested) {
      await session.hearsOthers(to.url, ident.channel)
      this.#listenTested = true
    }
    await this.#machine.on('session opened', ident)
    return session
  }

  /**
   * The cursor from which ticks ask. During a load or catch-up it is the position that ticks have reached beside the
   * second session.
   */
  get #shownSoFar(): Cursor | undefined {
    return this.#backlog?.cursor ?? this.#cursor
  }

  /** Sends a tick. @param source The session that answers it. */
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

  /** Puts the answer of a tick in force. @returns whether the ledger now holds everything that the answer showed */
  async #take(tick: Tick): Promise<boolean> {
    const { changes, from, gap, number, sentAtUs, clockOffsetMs } = tick
    const machine = this.#machine
    this.#triggers.note(changes.ident)
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
      // The answer is incomplete: nothing of it is applied, the cursor does not move, and it proves nothing.
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
    this.#options.log.info({}, 'the revocation feed follows the database again')
    this.#problem = undefined
  }

  /**
   * Writes the snapshot file, unless the ledger holds rows that no tick has shown, or there are rows that this release
   * cannot match: those must not get into the file.
   */
  #keepFile(): void {
    if (this.#inForce.provisionalRows > 0 || this.#inForce.unmatchableRows > 0) return
    this.#file?.keep(this.#ledger, this.#cursor!, this.#notifications.mac!)
  }

  /** Brings the ledger to the snapshot of a comparison's session; that session then computes the sums. */
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
      // Provisional rows are in no snapshot; the comparison waits for a moment without them.
      if (equal && this.#inForce.provisionalRows === 0)
        this.#comparisons.begin(verification, this.#ledger.digest)
      else this.#comparisons.postpone(verification)
    }
  }

  // The acts that state.ts names, in the same order.

  /** A new session is open: ticks go on from the cursor. A second session that is still reading goes on. */
  async #resume(ident: Ident): Promise<void> {
    // The snapshot file may be used only when no revocations are loaded yet: it is older than a loaded ledger, and
    // would let in a caller that a later row names.
    if (this.#shownSoFar === undefined && !this.#ledger.loaded)
      this.#cursor = await this.#file?.restore(ident, this.#notifications.mac!, this.#inForce)
    const at = this.#shownSoFar
    const gap = at === undefined ? 'first load' : gapAfter(at, ident)
    if (gap !== undefined) await this.#machine.on('gap found', gap)
  }

  /**
   * Begins a full load from one snapshot into a new table. The old ledger stays in use, and its age grows, until the
   * load is complete.
   */
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
    log.info({}, 'more has changed than a tick may carry: a second session reads the changes')
    this.#backlog = new Backlog('catching-up', bulk, this.#inForce, cursor)
    this.#backlog.catchUp(cursor.seen, log, () => this.#sleep.wake())
  }

  /** @returns undefined when the feed was closed meanwhile */
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
    if (this.#triggers.off) return
    this.#ledger.fresh(sentAtUs, clockOffsetMs)
    this.#ledger.setLoaded()
    this.#options.metrics.observe('dropgate_feed_tick_seconds', (monotonicUs() - sentAtUs) / 1e6)
  }

  async #finishBacklog(cursor: Cursor): Promise<void> {
    const { log, metrics } = this.#options
    const backlog = this.#backlog!
    const ledger = this.#ledger
    const before = ledger.rows
    // Notifications that arrive meanwhile are compared with what this tick has shown.
    backlog.cursor = cursor
    await backlog.finish()
    if (backlog.kind === 'loading') {
      this.#counts.loads++
      metrics.count('dropgate_feed_loads_total')
      if (ledger.loaded && ledger.rows < before / 2) {
        log.warn(
          { before, after: ledger.rows },
          'more than half of the revocations in the ledger are no longer in the database',
        )
      }
    }
    const ms = Math.round(performance.now() - backlog.startedAt)
    log.info({ rows: ledger.rows, read: backlog.rows, ms }, `${backlog.kind} is complete`)
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
