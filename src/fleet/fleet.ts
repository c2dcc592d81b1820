/**
 * Room: fleet. In: what this gate has in force. Out: this gate's row in `gates`, receipts for rows whose writer waits,
 * and a purge from time to time. Never does: decide, delay the feed (it has its own session), claim more than the
 * feed's cursor shows.
 *
 * A receipt says *when* a row came into force on this gate, so the times of the newest rows are kept here. PostgreSQL
 * decides whether a receipt may be given: the writer's transaction must be visible in the cursor that a tick has
 * proved.
 */
import type pg from 'pg'
import { monotonicUs } from '../domain/clock.ts'
import type { Log } from '../domain/log.ts'
import { WakeableSleep } from '../domain/wakeable-sleep.ts'
import { closeClient, connect, patiently, plainName } from '../store/connect.ts'
import { toDatabaseError } from '../store/database-error.ts'

/** What a gate reports of itself, see `beat()` in store/sql. */
export interface Beat {
  readonly host: string
  readonly pid: number
  readonly version: string
  readonly started_at: string
  readonly ready: boolean
  /** `pg_snapshot` as text, null before the first load. */
  readonly cursor: string | null
  /** Time since the tick that proved this cursor was sent. */
  readonly age_ms: number | null
  readonly rows: number
  /** How long the gate may allow requests without a newer proof, on its most tolerant route. */
  readonly allows_ms: number
  /** Issuer -> columns of rows that the gate can match; '' stands for requests without a token. */
  readonly matches: Readonly<Record<string, readonly string[]>>
  readonly peppers: readonly string[]
  readonly token_lifetime_ms: number
}

export interface FleetOptions {
  readonly connect: { readonly url: string; readonly schema: string }
  readonly id: string
  readonly describe: () => Beat
  /** The cursor up to which the feed has everything in force, see `Beat.cursor`. */
  readonly cursor: () => string | null
  /** A nonce when an anchor should be written with it, see feed/history.ts. */
  readonly wantedAnchor: () => string | undefined
  /** Mean time between two attempts to purge; 0 for never. */
  readonly purgeMs: number
  readonly log: Pick<Log, 'info' | 'warn'>
}

export interface FleetStatus {
  /** Number of gates that have reported lately, this one included. */
  readonly gates: number
  /** Number of rows that no gate could match when they were inserted, since the tables were made. */
  readonly unmatched_rows: number
  readonly message: string | null
}

const beatMs = 500
/** Shortest time between two queries for waiting writers. */
const lookMs = 50
/** How long a gate that is closing waits for an answer. */
const closingMs = 500
const retryMs = 1000
const maxRemembered = 8192
const purgeBatch = 2000
const purgePauseMs = 100

interface InForce {
  readonly sinceUs: number
  cuts: number
}

export class Fleet {
  readonly #options: FleetOptions
  readonly #schema: string
  /** When the newest rows came into force here, oldest first. */
  readonly #inForce = new Map<number, InForce>()
  /** Rows whose receipt was sent and whose number of cuts has grown since. */
  readonly #late = new Set<number>()
  #client: pg.Client | undefined
  #gates = 0
  #unmatched = 0
  #problem: string | undefined
  #closed = false
  readonly #sleep = new WakeableSleep()
  #purgeAt: number
  #running: Promise<void> | undefined

  constructor(options: FleetOptions) {
    this.#options = options
    this.#schema = plainName(options.connect.schema, 'database.schema')
    this.#purgeAt = this.#nextPurge()
  }

  /** Starts to report; an unreachable database is tried again until the gate closes. */
  open(): void {
    this.#running = this.#run()
  }

  /** These rows are now in force on every worker. A row may come twice. */
  applied(rows: readonly { readonly id: number }[]): void {
    const sinceUs = monotonicUs()
    for (const { id } of rows.slice(-maxRemembered)) {
      // A row comes first with a notification, then with the tick that confirms it: the first time counts.
      if (!this.#inForce.has(id)) this.#inForce.set(id, { sinceUs, cuts: 0 })
    }
    for (const id of this.#inForce.keys()) {
      if (this.#inForce.size <= maxRemembered) break
      this.#inForce.delete(id)
    }
    this.#sleep.wake()
  }

  /** A worker has ended open exchanges because of this row. */
  cut(id: number, exchanges: number): void {
    const row = this.#inForce.get(id)
    if (row === undefined) return
    row.cuts += exchanges
    this.#late.add(id)
    this.#sleep.wake()
  }

  status(): FleetStatus {
    return {
      gates: this.#gates,
      unmatched_rows: this.#unmatched,
      message: this.#problem ?? null,
    }
  }

  /** Removes this gate from the table of gates if the database can be reached. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#sleep.close()
    await this.#running
  }

  async #run(): Promise<void> {
    const { connect: to, id, log } = this.#options
    while (!this.#closed) {
      try {
        this.#client = await connect({ url: to.url, kind: 'fleet' })
        // Losing a heartbeat does no harm, since the next one replaces it; a receipt is useful only while its writer
        // waits.
        await this.#ask('SET synchronous_commit = off', [])
        await this.#serve()
        await this.#ask(`SELECT ${this.#schema}.leave($1)`, [id])
      } catch (thrown) {
        const { message, code, hint } = toDatabaseError(thrown)
        if (message !== this.#problem && !this.#closed) {
          log.warn({ code, hint }, `this gate cannot report to the fleet: ${message}`)
        }
        this.#problem = message
        await this.#sleep.sleep(retryMs)
      } finally {
        if (this.#client !== undefined) void closeClient(this.#client)
        this.#client = undefined
      }
    }
  }

  /** Reports until the gate closes. @throws when the session is lost */
  async #serve(): Promise<void> {
    for (let beatAt = 0; !this.#closed; ) {
      const now = performance.now()
      this.#sleep.reset()
      if (now >= beatAt) {
        beatAt = now + beatMs
        await this.#beat()
        await this.#writeAnchor()
      }
      await this.#giveReceipts()
      if (now >= this.#purgeAt) await this.#purge()
      await new Promise((resolve) => setTimeout(resolve, lookMs))
      if (!this.#sleep.woken) await this.#sleep.sleep(beatAt - performance.now())
    }
  }

  async #beat(): Promise<void> {
    const { id, describe, log } = this.#options
    const [row] = await this.#ask(`SELECT gates, unmatched FROM ${this.#schema}.beat($1, $2)`, [
      id,
      JSON.stringify(describe()),
    ])
    this.#gates = Number(row!.gates)
    this.#unmatched = Number(row!.unmatched)
    if (this.#problem !== undefined) log.info({}, 'this gate reports to the fleet again')
    this.#problem = undefined
  }

  /** Here and not on the session of the feed: a slow disk must not delay its ticks. */
  async #writeAnchor(): Promise<void> {
    const nonce = this.#options.wantedAnchor()
    if (nonce !== undefined) await this.#ask(`SELECT ${this.#schema}.anchor($1)`, [nonce])
  }

  async #giveReceipts(): Promise<void> {
    const { id } = this.#options
    const cursor = this.#options.cursor()
    if (cursor === null) return
    const wanted = await this.#ask(`SELECT * FROM ${this.#schema}.wanted($1, $2) AS row_id`, [
      id,
      cursor,
    ])
    const rows = new Set(wanted.map((row) => Number(row.row_id)))
    for (const row of this.#late) rows.add(row)
    this.#late.clear()
    if (rows.size === 0) return
    const ids = [...rows]
    const known = ids.map((row) => this.#inForce.get(row))
    const nowUs = monotonicUs()
    await this.#ask(`SELECT ${this.#schema}.confirm($1, $2, $3, $4)`, [
      id,
      ids,
      // A row that came with a full load has no time of its own: it is in force now at the latest.
      known.map((row) => (row === undefined ? 0 : (nowUs - row.sinceUs) / 1000)),
      known.map((row) => row?.cuts ?? 0),
    ])
  }

  /** The first gate that is due purges; others find that a purge is running, or nothing to purge. */
  async #purge(): Promise<void> {
    this.#purgeAt = this.#nextPurge()
    let revocations = 0
    for (;;) {
      const [row] = await this.#ask(`SELECT revocations, tombs FROM ${this.#schema}.purge($1)`, [
        purgeBatch,
      ])
      revocations += Number(row!.revocations)
      const full = Number(row!.revocations) === purgeBatch || Number(row!.tombs) === purgeBatch
      if (!full || this.#closed) break
      await this.#beat()
      await this.#sleep.sleep(purgePauseMs)
    }
    if (revocations > 0)
      this.#options.log.info(
        { revocations },
        'deleted revocations that no valid token can match any more',
      )
  }

  /** A random time, so that gates which start together do not all purge at once. */
  #nextPurge(): number {
    const { purgeMs } = this.#options
    return purgeMs === 0
      ? Number.POSITIVE_INFINITY
      : performance.now() + purgeMs * (0.5 + Math.random())
  }

  async #ask(text: string, values: unknown[]): Promise<Record<string, unknown>[]> {
    const client = this.#client!
    const ask = async (): Promise<Record<string, unknown>[]> =>
      (await client.query(text, values)).rows
    return await (this.#closed ? patiently(client, closingMs, ask) : ask())
  }
}
