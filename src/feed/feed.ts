/**
 * Room: feed. In: a PostgreSQL that holds the revocations. Out: a ledger that equals the table, and the proof of how
 * fresh that is. Never does: decide, trust a notification for more than "look now".
 *
 * The cursor is a snapshot, not a number: a tick asks for exactly what was not visible in it, so a transaction
 * that commits late, with a low id, is found like any other. Only a tick proves freshness, dated from when it
 * was *sent*. See reference: PostgreSQL documentation, "System Information Functions", pg_snapshot.
 */
import { monotonicUs } from '../domain/clock.ts'
import type { RevocationRow } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import type { Ledger } from '../revocation/ledger.ts'
import { connect, plainName, refused } from '../store/connect.ts'
import { apply, readChanges } from './catchup.ts'
import { Session } from './listen.ts'
import { loadAll } from './snapshot.ts'
import { backoffMs, type Cursor, checkIdent, gapAfter, type Ident } from './state.ts'

export interface FeedOptions {
  readonly connect: { readonly url: string; readonly schema: string }
  readonly tickMs: number
  /** Makes an empty ledger with room for this many rows and some to spare. */
  readonly ledgerFor: (rows: number) => Ledger
  /** A ledger that holds everything: hand it to the workers. Called again after each full load. */
  readonly onLedger: (ledger: Ledger) => void
  /** Makes claims known to the workers. @returns whether one is new */
  readonly learnPointers: (pointers: readonly string[]) => boolean
  /** These rows are in that ledger and published: what is open and concerned is to be cut. */
  readonly onRows: (rows: readonly RevocationRow[]) => void
  readonly log: {
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
    error(fields: object, message: string): void
  }
  readonly metrics: {
    count(
      name:
        | 'dropgate_feed_reconnects_total'
        | 'dropgate_feed_loads_total'
        | 'dropgate_feed_ticks_total',
    ): void
    observe(name: 'dropgate_feed_tick_seconds', seconds: number): void
  }
}

export interface FeedStatus {
  readonly state: 'connecting' | 'loading' | 'following' | 'closed'
  readonly cursor: string | null
  readonly ticks: number
  readonly loads: number
  readonly reconnects: number
  readonly unmatchable_rows: number
  readonly code: string | null
  readonly message: string | null
  readonly hint: string | null
}

export class Feed {
  readonly #options: FeedOptions
  readonly #schema: string
  #state: FeedStatus['state'] = 'connecting'
  #session: Session | undefined
  #ledger: Ledger | undefined
  #cursor: Cursor | undefined
  #problem: GateError | undefined
  readonly #unmatchable = new Set<number>()
  #ticks = 0
  #loads = 0
  #reconnects = 0
  #closed = false
  #wake: () => void = () => {}
  #woken = false
  #running: Promise<void> | undefined

  constructor(options: FeedOptions) {
    this.#options = options
    this.#schema = plainName(options.connect.schema, 'database.schema')
  }

  /** Starts following. Resolves after the first attempt; a database that is away is in `status` and tried again. */
  async open(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#running = this.#run(resolve)
    })
  }

  status(): FeedStatus {
    return {
      state: this.#state,
      cursor: this.#cursor?.snapshot ?? null,
      ticks: this.#ticks,
      loads: this.#loads,
      reconnects: this.#reconnects,
      unmatchable_rows: this.#unmatchable.size,
      code: this.#problem?.code ?? null,
      message: this.#problem?.message ?? null,
      hint: this.#problem?.hint ?? null,
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#session?.close()
    this.#wake()
    await this.#running
    this.#state = 'closed'
  }

  async #run(attempted: () => void): Promise<void> {
    const { log, metrics } = this.#options
    for (let attempt = 0; !this.#closed; attempt++) {
      const ticksBefore = this.#ticks
      try {
        await this.#follow(attempted)
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
      if (this.#ticks !== ticksBefore) attempt = 0
      this.#state = 'connecting'
      this.#reconnects++
      metrics.count('dropgate_feed_reconnects_total')
      await this.#sleep(backoffMs(attempt, Math.random()))
    }
  }

  /** One session from connecting to its loss. */
  async #follow(attempted: () => void): Promise<void> {
    const { connect: to, tickMs, log } = this.#options
    const session = await Session.open(to.url, this.#schema)
    this.#session = session
    if (this.#closed) return
    session.onWake = () => {
      this.#woken = true
      this.#wake()
    }
    const ident = await session.ident()
    checkIdent(ident)
    // LISTEN is committed before anything is read: what commits later than the read has notified us.
    await session.listen(ident.channel)
    const gap = this.#cursor === undefined ? 'first load' : gapAfter(this.#cursor, ident)
    if (gap !== undefined) await this.#load(gap)
    while (!this.#closed) {
      this.#woken = false
      const sentAt = performance.now()
      await this.#tick(session)
      if (this.#problem !== undefined && this.#unmatchable.size === 0) {
        log.info({}, 'the feed follows again')
        this.#problem = undefined
      }
      this.#state = 'following'
      attempted()
      if (session.lost !== undefined) throw session.lost
      if (!this.#woken) await this.#sleep(tickMs - (performance.now() - sentAt))
      if (session.lost !== undefined) throw session.lost
    }
  }

  /** Everything from one snapshot into a new ledger; the old one serves, and ages, until it is complete. */
  async #load(why: string): Promise<void> {
    const { connect: to, ledgerFor, log, metrics } = this.#options
    this.#state = 'loading'
    const startedAt = performance.now()
    const client = await connect({ url: to.url, name: 'dropgate load' })
    try {
      let ledger: Ledger | undefined
      this.#unmatchable.clear()
      const ident: Ident = await loadAll(
        client,
        this.#schema,
        (_ident, rows) => {
          ledger = ledgerFor(rows)
        },
        (row) => {
          try {
            ledger!.upsert(row)
          } catch (error) {
            this.#noteUnmatchable(row, error)
          }
        },
      )
      checkIdent(ident)
      this.#ledger = ledger!
      this.#cursor = ident
      this.#loads++
      metrics.count('dropgate_feed_loads_total')
      const { rows } = ledger!
      log.info({ rows, ms: Math.round(performance.now() - startedAt), why }, 'revocations loaded')
    } finally {
      client.end().catch(() => {})
    }
  }

  async #tick(session: Session): Promise<void> {
    const { metrics, onLedger } = this.#options
    const ledger = this.#ledger!
    const sentAtUs = monotonicUs()
    const result = await session.changes(this.#cursor!.snapshot)
    const receivedAtMs = Date.now()
    const changes = readChanges(result)
    checkIdent(changes.ident)
    const gap = gapAfter(this.#cursor!, changes.ident)
    if (gap !== undefined) {
      this.#cursor = undefined
      throw new GateError('ERR_DATABASE_REFUSED', `everything is loaded anew: ${gap}`)
    }
    // Before the rows that need them, and published on their own: the invariant is at `heldKeys`.
    if (this.#options.learnPointers(changes.ident.pointers)) ledger.publish()
    if (changes.rows.length > 0 || changes.tombs.length > 0) {
      for (const { id } of changes.tombs) this.#unmatchable.delete(id)
      try {
        await apply(ledger, changes, (row, error) => this.#noteUnmatchable(row, error))
      } catch (error) {
        // Full: not ready from this moment; the next load makes a larger table.
        ledger.setBroken(true)
        this.#cursor = undefined
        throw error
      }
      // Publish after the rows, before freshness is claimed for them.
      ledger.publish()
      if (changes.rows.length > 0) this.#options.onRows(changes.rows)
    }
    ledger.setBroken(this.#unmatchable.size > 0)
    this.#cursor = changes.ident
    // Postgres read its clock before the answer came, so this offset is too early rather than too late.
    ledger.fresh(sentAtUs, changes.ident.clock_ms - receivedAtMs)
    this.#ticks++
    metrics.count('dropgate_feed_ticks_total')
    metrics.observe('dropgate_feed_tick_seconds', (monotonicUs() - sentAtUs) / 1e6)
    if (!ledger.loaded) {
      ledger.setLoaded()
      onLedger(ledger)
    }
  }

  /** A row that nothing here can match makes the gate not ready: skipping it would let somebody through. */
  #noteUnmatchable(row: RevocationRow, error: unknown): void {
    if (!(error instanceof GateError) || error.code !== 'ERR_LEDGER_UNMATCHABLE') throw error
    this.#unmatchable.add(row.id)
    this.#problem = error
    this.#options.log.error({ code: error.code, hint: error.hint }, error.message)
  }

  #sleep(ms: number): Promise<void> {
    if (ms <= 0 || this.#closed) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = setTimeout(done, ms)
      function done(): void {
        clearTimeout(timer)
        resolve()
      }
      this.#wake = done
    })
  }
}
