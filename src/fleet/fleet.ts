/**
 * Room: fleet. In: what this gate has in force. Out: this gate's row in `gates`, receipts for rows whose writer waits,
 * a canary and a purge from time to time. Never does: decide, delay the feed (it has its own session), confirm a row that
 * is not in the ledger (receipts.ts).
 */
import type pg from 'pg'
import { monotonicUs } from '../domain/clock.ts'
import type { Log } from '../domain/log.ts'
import { fromStored, type RevocationRow, type StoredRow } from '../domain/revocation.ts'
import { WakeableSleep } from '../domain/wakeable-sleep.ts'
import { closeClient, connect, patiently, plainName } from '../store/connect.ts'
import { toDatabaseError } from '../store/database-error.ts'
import { Canaries, type CanaryOptions, type Waiting } from './canaries.ts'
import { type Receipt, Receipts, type ReceiptsOptions } from './receipts.ts'

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
  /** The policy that the gate decides by: name of the bundle -> revision; empty before the first one. */
  readonly policies: Readonly<Record<string, string>>
}

export interface FleetOptions {
  readonly connect: { readonly url: string; readonly schema: string }
  readonly id: string
  readonly describe: () => Beat
  readonly holds: ReceiptsOptions['holds']
  readonly look: ReceiptsOptions['look']
  /** A nonce when an anchor should be written with it, see feed/history.ts. */
  readonly wantedAnchor: () => string | undefined
  /** Mean time between two attempts to purge; 0 for never. */
  readonly purgeMs: number
  /** Time between two canaries of all gates; 0: this gate writes none. */
  readonly canaryMs: number
  readonly canaries: Omit<CanaryOptions, 'log'>
  readonly log: Pick<Log, 'info' | 'warn' | 'error'>
}

export interface FleetStatus {
  /** Number of gates that have reported lately, this one included. */
  readonly gates: number
  /** Number of rows that no gate could match when they were inserted, since the tables were made. */
  readonly unmatched_rows: number
  /** From just before the commit of the newest canary to in force on every worker, an upper bound; null before any. */
  readonly revocation_ms: number | null
  /** Number of canaries that came into force late on this gate, or never. */
  readonly late_canaries: number
  readonly message: string | null
}

const beatMs = 500
/** Shortest time between two queries for waiting writers. */
const lookMs = 50
/** How long a gate that is closing waits for an answer. */
const closingMs = 500
const retryMs = 1000
const purgeBatch = 2000
const purgePauseMs = 100

export class Fleet {
  readonly #options: FleetOptions
  readonly #schema: string
  readonly #receipts: Receipts
  readonly #canaries: Canaries
  #client: pg.Client | undefined
  #gates = 0
  #unmatched = 0
  #problem: string | undefined
  #closed = false
  readonly #sleep = new WakeableSleep()
  #purgeAt: number
  #canaryAt: number
  #canaryProblem: string | undefined
  #running: Promise<void> | undefined

  constructor(options: FleetOptions) {
    this.#options = options
    this.#schema = plainName(options.connect.schema, 'database.schema')
    const { holds, look } = options
    this.#receipts = new Receipts({ holds, look, wake: () => this.#sleep.wake() })
    this.#canaries = new Canaries({ ...options.canaries, log: options.log })
    this.#purgeAt = this.#nextPurge()
    this.#canaryAt = options.canaryMs === 0 ? Number.POSITIVE_INFINITY : 0
  }

  /** Starts to report; an unreachable database is tried again until the gate closes. */
  open(): void {
    this.#running = this.#run()
  }

  /** These rows are now in force on every worker. A row may come twice. */
  applied(rows: readonly RevocationRow[]): void {
    this.#receipts.applied(rows)
    this.#sleep.wake()
  }

  /** A worker has ended open exchanges because of this row. */
  cut(id: number, exchanges: number): void {
    this.#receipts.cut(id, exchanges)
  }

  status(): FleetStatus {
    return {
      gates: this.#gates,
      unmatched_rows: this.#unmatched,
      revocation_ms: this.#canaries.lastMs,
      late_canaries: this.#canaries.late,
      message: this.#problem ?? null,
    }
  }

  /** True while a canary that should be in force on this gate is not. */
  get missesCanary(): boolean {
    return this.#canaries.missing
  }

  /** Number of rows in the ledger that are canaries: no users wrote them. */
  get canaryRows(): number {
    const { row } = this.#canaries
    return row !== undefined && this.#options.holds(row) ? 1 : 0
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
      if (now >= this.#canaryAt) await this.#writeCanary()
      if (now >= this.#purgeAt) await this.#purge()
      await new Promise((resolve) => setTimeout(resolve, lookMs))
      const until = Math.min(beatAt, this.#canaryAt)
      if (!this.#sleep.woken) await this.#sleep.sleep(until - performance.now())
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
    const askedUs = monotonicUs()
    const wanted = await this.#ask(`SELECT * FROM ${this.#schema}.wanted($1)`, [id])
    const waiting = this.#canaries.concerning((wanted as unknown as WantedRow[]).map(waitingOf))
    const receipts = await this.#receipts.given(waiting.flatMap(({ row }) => row ?? []))
    if (receipts.length > 0) {
      const xids = new Map(waiting.map(({ id: row, xid }) => [row, xid]))
      await this.#confirm(receipts, xids)
    }
    this.#canaries.note(waiting, receipts, askedUs)
  }

  async #confirm(receipts: readonly Receipt[], xids: ReadonlyMap<number, string>): Promise<void> {
    const nowUs = monotonicUs()
    await this.#ask(`SELECT ${this.#schema}.confirm($1, $2, $3, $4, $5)`, [
      this.#options.id,
      receipts.map(({ row }) => row.id),
      receipts.map(({ row }) => xids.get(row.id)),
      receipts.map(({ sinceUs }) => (nowUs - sinceUs) / 1000),
      receipts.map(({ cuts }) => cuts),
    ])
  }

  /** Writes a canary if none of the gates has written one lately. Heartbeats and receipts go on where that fails. */
  async #writeCanary(): Promise<void> {
    const { canaryMs, log } = this.#options
    let dueMs = canaryMs
    try {
      const statement = `SELECT due_ms FROM ${this.#schema}.canary($1)`
      const [row] = await this.#ask(statement, [canaryMs])
      dueMs = Number(row!.due_ms)
      this.#canaryProblem = undefined
    } catch (thrown) {
      const { message, code, hint } = toDatabaseError(thrown)
      if (message !== this.#canaryProblem && !this.#closed)
        log.warn({ code, hint }, `this gate cannot write a canary: ${message}`)
      this.#canaryProblem = message
    }
    this.#canaryAt = performance.now() + dueMs
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

/** A row as `wanted()` returns it; without keys where the table has none. */
type WantedRow = Omit<StoredRow, 'id' | 'keys'> & {
  readonly row_id: string
  readonly keys: Uint8Array | null
  readonly canary: boolean
  readonly age_us: string
  readonly xid: string
}

function waitingOf({ row_id: id, keys, canary, age_us: ageUs, xid, ...rest }: WantedRow): Waiting {
  return {
    id: Number(id),
    row: keys === null ? undefined : fromStored({ ...rest, id, keys }),
    canary,
    ageUs: Number(ageUs),
    xid,
  }
}
