/**
 * Handles notifications: their rows are denied at once, or they only wake the feed to send a tick. Also warns when the
 * server's notification queue is filling up. Never does: end a denial, prove freshness.
 */
import type { Log } from '../domain/log.ts'
import { type Cursor, seenIn } from './cursor.ts'
import type { InForce } from './in-force.ts'
import { type MacKey, parsePayload } from './payload.ts'

/** Delay of the tick after a valid payload: its rows are in force already, so the tick only confirms them. */
const confirmMs = 20
/** Share of the queue from which on it counts as crowded: PostgreSQL refuses NOTIFY when the queue is full. */
const crowdedShare = 0.25

export class Notifications {
  readonly #inForce: InForce
  readonly #wake: () => void
  readonly #log: Log
  readonly #metrics: { count(name: 'dropgate_feed_payloads_total', label: string): void }
  #confirming: NodeJS.Timeout | undefined
  #crowded = false
  /** The key that authenticates payloads; without the key, each notification only wakes the feed. */
  mac: MacKey | undefined

  constructor(
    inForce: InForce,
    options: {
      /** Called when a tick should be sent now. */
      readonly wake: () => void
      readonly log: Log
      readonly metrics: { count(name: 'dropgate_feed_payloads_total', label: string): void }
    },
  ) {
    this.#inForce = inForce
    this.#wake = options.wake
    this.#log = options.log
    this.#metrics = options.metrics
  }

  /**
   * A session does not read its notifications, so the queue may become full and notifications may fail. Until the queue
   * is read, ticks are sent more often.
   */
  get crowded(): boolean {
    return this.#crowded
  }

  /**
   * @param at The cursor that ticks have reached; undefined before the first tick of a session: then rows are denied that
   * may have been lifted since, until that tick.
   * @param lastTick Number of the last tick sent: it may have missed the rows of this message.
   */
  receive(message: string, at: Cursor | undefined, lastTick: number): void {
    const carriesRows = message.startsWith('p')
    const payload =
      carriesRows && this.mac !== undefined ? parsePayload(message, this.mac) : undefined
    if (payload === undefined || !this.#inForce.ledger.loaded) {
      this.#metrics.count('dropgate_feed_payloads_total', carriesRows ? 'refused' : 'wake')
      this.#wake()
      return
    }
    this.#metrics.count('dropgate_feed_payloads_total', 'rows')
    const seen = at === undefined ? () => false : seenIn(at.snapshot)
    this.#inForce.denyProvisionally(payload, seen, lastTick)
    this.#confirming ??= setTimeout(() => {
      this.#confirming = undefined
      this.#wake()
    }, confirmMs)
  }

  /** @param usage Used share of the server's notification queue. */
  noteQueueUsage(usage: number): void {
    const crowded = usage > crowdedShare
    if (crowded && !this.#crowded) {
      this.#log.warn(
        { usage, hint: stuckListenerHint },
        'the notification queue of the database server is filling up',
      )
    }
    this.#crowded = crowded
  }

  close(): void {
    clearTimeout(this.#confirming)
  }
}

const stuckListenerHint =
  'a session on this server (any database) holds LISTEN and does not read; find it with ' +
  "SELECT pid, datname, usename, application_name, state, xact_start FROM pg_stat_activity WHERE state LIKE 'idle in " +
  "transaction%' ORDER BY xact_start, and end it with pg_terminate_backend(pid); see docs/feed.md"
