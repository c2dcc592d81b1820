/**
 * Room: feed. In: a PostgreSQL with the revocations. Out: a ledger that equals the table, and a proof of how fresh it
 * is. Never does: decide on requests, end a denial because of a notification, claim more than a tick has shown.
 *
 * state.ts has the states, the effect of each event in each state, and the invariants. This file has the loop that
 * finds the events, and the acts that the table names. Read it from the top: a session (`#follow`), a tick (`#ask`,
 * `#take`), the acts.
 *
 * The cursor is a snapshot and not a number. A tick asks for exactly what was not visible in it, so a row is found even
 * if its transaction has a low id and commits late; history.ts says where a new session goes on. Only a tick proves
 * freshness, counted from the moment it was *sent*. See PostgreSQL documentation, "System Information Functions",
 * pg_snapshot.
 */

import { monotonicUs } from '../domain/clock.ts'
import type { Log } from '../domain/log.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import { WakeableSleep } from '../domain/wakeable-sleep.ts'
import { GateError } from '../errors.ts'
import type { Ledger } from '../revocation/ledger.ts'
import { plainName } from '../store/connect.ts'
import { toDatabaseError } from '../store/database-error.ts'
import { Backlog } from './backlog.ts'
import { Bulk } from './bulk.ts'
import { Comparisons } from './comparisons.ts'
import { backoffMs, type Cursor, checkIdent, gapAfter, type Ident, seenIn } from './cursor.ts'
import { History, type HistoryRule, type Touched } from './history.ts'
import { InForce } from './in-force.ts'
import { Notifications } from './notifications.ts'
import { otherServer, type Presence } from './presence.ts'
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
  /** The least of what routes tolerate, `revocation.max_staleness`. */
  readonly maxStalenessMs: number
  /** Makes the workers look up these claims in tokens. @returns whether one of them is new */
  readonly learnPointers: (pointers: readonly string[]) => boolean
  /**
   * Called when rows are in the ledger and published: the open exchanges that they concern must be cut. A row may come
   * twice, from a notification and from the tick that confirms it. Undefined: too many rows to list.
   */
  readonly onRows: (rows: readonly RevocationRow[] | undefined) => void
  /** Only tests give this. */
  readonly historyRule?: HistoryRule | undefined
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
  /** From how many points in the past ticks can go on after the session is lost; without one, everything is loaded. */
  readonly anchors: number
  /** Time since the newest tick that proved freshness was sent; null before the first. */
  readonly age_ms: number | null
  readonly ticks: number
  readonly loads: number
  readonly bulks: number
  readonly reconnects: number
  /** Number of comparisons of the whole ledger with the table, and of those that found a difference. */
  readonly comparisons: number
  readonly differences: number
  /** Time since the ledger was last known to equal the table, by a comparison or a full load; null for never. */
  readonly comparison_age_ms: number | null
  /** Comparisons were due several times, and none was completed. */
  readonly comparisons_overdue: boolean
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
  readonly #history: History
  readonly #inForce: InForce
  readonly #notifications: Notifications
  readonly #comparisons: Comparisons
  readonly #triggers: Triggers
  readonly #file: SnapshotFile | undefined
  readonly #sleep = new WakeableSleep()
  readonly #counts = { sent: 0, ticks: 0, loads: 0, bulks: 0, reconnects: 0 }
  readonly #machine: StateMachine
  #session: Session | undefined
  /** Only the acts `resume`, `loseSession`, `startLoad`, `moveCursor` and `finishBacklog` change the cursor. */
  #cursor: Cursor | undefined
  /** Rows that are read again whenever they were written, until a tick or a catch-up has done so. */
  #again: readonly Touched[] = []
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
    this.#history = new History(options.historyRule ?? 'anchors')
    const history = this.#history
    this.#inForce = new InForce({ ledger, history, learnPointers, onRows, onUnmatchable, log })
    this.#triggers = new Triggers(log)
    const wake = (): void => this.#sleep.wake()
    this.#notifications = new Notifications(this.#inForce, { wake, log, metrics })
    const open = (): Promise<Verification> => Verification.open(to.url, this.#schema)
    this.#comparisons = new Comparisons({ verifyMs, open, log, metrics })
    this.#machine = new StateMachine({
      resume: (ident) => this.#resume(ident),
      loseSession: () => this.#loseSession(),
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
      cursor: this.#cursor?.snapshot ?? null,
      anchors: this.#history.nonces.length,
      age_ms: whole(Number.isFinite(ageMs) ? ageMs : null),
      ...{ ticks, loads, bulks, reconnects },
      comparisons: this.#comparisons.done,
      differences: this.#comparisons.differences,
      comparison_age_ms: whole(this.#comparisons.ageMs),
      comparisons_overdue: this.#comparisons.overdue,
      provisional_rows: this.#inForce.provisionalRows,
      unmatchable_rows: this.#inForce.unmatchableRows,
      wrong_triggers: this.#triggers.wrong,
      progress: backlog === undefined ? null : { rows: backlog.rows, of: backlog.expected },
      code: problem?.code ?? null,
      message: problem?.message ?? null,
      hint: problem?.hint ?? null,
    }
  }

  /** @returns a nonce when an anchor should be written with it, see history.ts; to be asked about twice a second */
  wantedAnchor(): string | undefined {
    return this.#history.wanted()
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
      this.#checkRoundTrip(session.roundTripMs)
      this.#listenTested = true
    }
    await this.#machine.on('session opened', ident)
    return session
  }

  /**
   * Freshness is counted from the sending of a tick, so it is as old as a tick and its answer when the next one arrives.
   * @throws GateError ERR_DATABASE_REFUSED where that is more than routes tolerate
   */
  #checkRoundTrip(roundTripMs: number): void {
    const { tickMs, maxStalenessMs } = this.#options
    const neededMs = Math.max(tickMs, roundTripMs) + roundTripMs
    if (neededMs <= maxStalenessMs) return
    throw new GateError(
      'ERR_DATABASE_REFUSED',
      `a round trip to the database takes ${Math.round(roundTripMs)} ms: with revocation.tick ${tickMs}ms freshness would be up to ${Math.round(neededMs)} ms old, and revocation.max_staleness is ${maxStalenessMs}ms`,
      {
        hint: `set revocation.max_staleness to at least ${Math.ceil((1.5 * neededMs) / 1000)}s, or run the gate nearer to its database`,
      },
    )
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
    this.#history.sent(number)
    const again = this.#backlog === undefined ? this.#again : []
    const answer = await askForChanges(source, from, again)
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
    const { ident } = changes
    if (ident.mac_key !== this.#notifications.mac?.id)
      this.#notifications.mac = await this.#session?.macKey()
    this.#notifications.noteQueueUsage(ident.queue_usage)
    this.#options.metrics.count('dropgate_feed_ticks_total')
    this.#counts.ticks++
    if (tick.overCap) {
      // The answer is incomplete: nothing of it is applied, the cursor does not move, and it proves nothing.
      if (tick.meetsBulk) await machine.on('bulk done', { ...ident, ...from })
      await machine.on('tick over the cap', undefined)
      return false
    }
    await this.#inForce.applyTick(
      changes,
      { tick: number, seen: seenIn(from.snapshot) },
      this.#backlog,
    )
    if (tick.meetsBulk) await machine.on('bulk done', ident)
    await machine.on('tick applied', { cursor: ident, number, sentAtUs, clockOffsetMs })
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
    this.#file?.keep(this.#ledger, this.#history, this.#notifications.mac!)
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
      if (tick !== undefined) {
        if (await this.#sharesServer(verification.presence))
          await this.#beginComparison(verification, tick)
        else comparisons.fail(verification, otherServer())
      }
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

  /** A new session is open: a second session that is still reading goes on; else ticks go on from an anchor. */
  async #resume(ident: Ident): Promise<void> {
    if (this.#backlog !== undefined) {
      if (await this.#sharesServer(this.#backlog.presence)) return
      await this.#machine.on('bulk failed', undefined)
      throw otherServer()
    }
    const session = this.#session!
    const history = this.#history
    const held = (nonces: readonly string[]): Promise<Set<string>> => session.held(nonces)
    // The snapshot file may be used only when no revocations are loaded yet: it is older than a loaded ledger, and
    // would let in a caller that a later row names.
    if (!this.#ledger.loaded && history.newest === undefined) {
      const database = { ident, mac: this.#notifications.mac!, held }
      await this.#file?.restore(database, this.#inForce, history)
    }
    const before = history.newest
    const from = history.resume(await held(history.nonces))
    const gap =
      from === undefined ? this.#whyNoAnchor(before !== undefined) : gapAfter(from.cursor, ident)
    if (from === undefined || gap !== undefined) {
      await this.#machine.on('gap found', gap!)
      return
    }
    this.#cursor = from.cursor
    this.#again = from.again
  }

  #whyNoAnchor(had: boolean): string {
    if (!this.#ledger.loaded) return 'first load'
    return had
      ? 'the database has lost changes that this gate has read: it was restored, or promoted without them'
      : 'the last session was lost before an anchor was written'
  }

  /** Does this other session of the gate run on the server of the feed's own, in the same run of it? */
  async #sharesServer(presence: Presence): Promise<boolean> {
    return this.#options.historyRule === 'off' || (await this.#session!.isBeside(presence))
  }

  #loseSession(): void {
    this.#history.loseSession()
    this.#cursor = undefined
    this.#again = []
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
    this.#again = []
    this.#history.clear()
    this.#comparisons.forget()
    const bulk = await this.#openBulk()
    if (bulk === undefined) return
    this.#backlog = new Backlog('loading', bulk, this.#inForce)
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
    this.#backlog = new Backlog('catching-up', bulk, this.#inForce)
    this.#backlog.catchUp({ cursor, again: this.#again }, log, () => this.#sleep.wake())
  }

  /** @returns undefined when the feed was closed meanwhile */
  async #openBulk(): Promise<Bulk | undefined> {
    let bulk: Bulk | undefined
    try {
      bulk = await Bulk.open(this.#options.connect.url, this.#schema)
      if (!(await this.#sharesServer(bulk.presence))) throw otherServer()
    } catch (error) {
      bulk?.close()
      await this.#machine.on('bulk failed', undefined)
      throw error
    }
    if (!this.#machine.closed) return bulk
    bulk.close()
    return undefined
  }

  #moveCursor({ cursor, number }: AppliedTick): void {
    this.#cursor = cursor
    this.#again = []
    this.#history.show(cursor, number)
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

  async #finishBacklog(cursor: Ident): Promise<void> {
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
    this.#again = []
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

function whole(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms)
}
