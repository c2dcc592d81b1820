/**
 * READ SECOND. Decides again whether open exchanges may stay open; pipeline.ts decided only that they may begin.
 *
 *   rows came             exchanges under the rows' keys -> ledger               cut: revoked
 *   everything reloaded   all exchanges -> ledger                                cut: revoked
 *   the policy is new     all exchanges, spread over time -> policy              cut: denied
 *   every `sweepMs`       token expired, feed stale, over a limit                cut: expired stale idle age
 *   the drain is over     all exchanges                                          cut: drain
 *
 * A row is in the ledger before this is told of it, and an exchange is registered before it looks into the ledger
 * (design law 3): so the later of the two always finds the earlier. Exchanges that no change concerns are not touched
 * (law 7).
 */
import { monotonicUs } from '../domain/clock.ts'
import type { CutReason } from '../domain/exchange.ts'
import type { LiveEntry } from '../domain/live-entry.ts'
import { asGateError } from '../errors.ts'
import type { WorkerAnswer, WorkerQuestion } from '../messages.ts'
import { askAgain, callerOf, findDenial } from './authorize.ts'
import type { ExchangeContext } from './context.ts'
import type { OpenExchange } from './stages.ts'

export const sweepMs = 50

interface Pace {
  /** Longest time in one turn of the event loop. */
  readonly sliceMs: number
  readonly pauseMs: number
}

/** For revocations, which are urgent: new requests wait for a few ms. */
const atOnce: Pace = { sliceMs: 5, pauseMs: 0 }
/** For a new policy, which is less urgent: a fifth of the time, so that new requests are hardly delayed. */
const spread: Pace = { sliceMs: 1, pauseMs: 4 }

const limitsEveryMs = 250

export class Reevaluator {
  /** Called anew each time, since a reload replaces the context. */
  readonly #current: () => ExchangeContext
  /** Number of policy changes: a newer policy stops the visits that an older one started. */
  #policies = 0
  /** The visits after a change of the policy's data; `again`: since when (µs) another change waits for its own. */
  #dataRound: { again: number | undefined } | undefined
  #limitsAtMs = 0
  /** Since when (by `performance.now()`) the ledger has been unable to hold every row. */
  #brokenAtMs: number | undefined

  constructor(current: () => ExchangeContext) {
    this.#current = current
  }

  /**
   * Rows are in force: cuts the open exchanges that they concern. Resolves once all of these are cut.
   * @param keys See revocation/affected; undefined: look at all open exchanges.
   */
  async rows(keys: Uint8Array | undefined, sinceUs: number): Promise<void> {
    const { live } = this.#current()
    const concerned = keys === undefined ? live.all() : live.concerned(keys)
    await inSlices(concerned, atOnce, (exchange) => {
      this.#recall(exchange, sinceUs)
      return true
    })
  }

  /** Another policy is active: asks it about all open exchanges. */
  policy(sinceUs: number): void {
    const round = ++this.#policies
    void inSlices(this.#current().live.all(), spread, (exchange) => {
      if (round === this.#policies) this.#redecide(exchange, sinceUs)
      return round === this.#policies
    })
  }

  /**
   * The data of the policy has changed: asks about all open exchanges again. A round that is under way comes to its end
   * first: changes that follow each other closely would otherwise begin it anew each time, and never reach the last
   * exchange.
   */
  data(sinceUs: number): void {
    if (this.#dataRound !== undefined) {
      this.#dataRound.again ??= sinceUs
      return
    }
    const round: { again: number | undefined } = { again: undefined }
    this.#dataRound = round
    void inSlices(this.#current().live.all(), spread, (exchange) => {
      this.#redecide(exchange, sinceUs, true)
      return true
    }).then(() => {
      this.#dataRound = undefined
      if (round.again !== undefined) this.data(round.again)
    })
  }

  sweep(): void {
    const { live } = this.#current()
    const nowUs = monotonicUs()
    const nowMs = Date.now()
    live.settle(nowUs - sweepMs * 1000)
    for (const exchange of live.expired(nowMs)) {
      const sinceUs = nowUs - (nowMs - exchange.expiresAtMs) * 1000
      exchange.cut({ reason: 'expired', sinceUs, code: 'ERR_TOKEN_EXPIRED' })
    }
    if (nowMs - this.#limitsAtMs >= limitsEveryMs || nowMs < this.#limitsAtMs) {
      this.#limitsAtMs = nowMs
      this.#cutStale(nowUs)
      for (const exchange of live.all()) checkLimits(exchange, nowUs)
    }
  }

  /** Answers an operator's question about open exchanges, or ends one of them. */
  answer(question: WorkerQuestion): WorkerAnswer {
    const { live, worker } = this.#current()
    if (question.type === 'cut-live') {
      const exchange = live.find(question.id)
      if (exchange?.open !== true) return { entries: [], last: undefined }
      const entry = entryOf(exchange, worker)
      exchange.cut({ reason: 'operator', sinceUs: monotonicUs() })
      return { entries: [entry], last: undefined }
    }
    const { filter, after, limit } = question
    const { found, last } = live.list(
      (exchange) => {
        const { route, protocol, principal } = exchange
        return (
          (filter.route ?? route) === route &&
          (filter.protocol ?? protocol) === protocol &&
          (filter.issuer ?? principal?.issuer) === principal?.issuer &&
          (filter.subject ?? principal?.subject) === principal?.subject &&
          (filter.client_id ?? principal?.clientId) === principal?.clientId
        )
      },
      after,
      limit,
    )
    return { entries: found.map((each) => entryOf(each, worker)), last }
  }

  drain(): void {
    const sinceUs = monotonicUs()
    for (const exchange of this.#current().live.all())
      exchange.cut({ reason: 'drain', sinceUs, code: 'ERR_NOT_READY' })
  }

  #recall(exchange: OpenExchange, sinceUs: number): void {
    const { ledger } = this.#current()
    if (!exchange.open || ledger === undefined) return
    try {
      const denial = findDenial(ledger, exchange.identified, Date.now())
      if (denial === undefined) return
      exchange.cut({ reason: 'revoked', sinceUs, revocation: denial.id, code: denial.code })
    } catch (error) {
      // The gate cannot tell whether the row concerns this exchange: end this one and go on with the others.
      const { code, cause } = asGateError(error)
      exchange.cut({ reason: 'stale', sinceUs, code, cause })
    }
  }

  /** Asks the policy with the input that the exchange was admitted with; only clock and feed are new. */
  #redecide(exchange: OpenExchange, sinceUs: number, dataChanged = false): void {
    const context = this.#current()
    const policy = context.engine.current()
    if (policy === undefined || !exchange.open) return
    // Admitted by this policy already, unless its data is what has changed.
    if (exchange.decided?.policy === policy && !dataChanged) return
    // The policy is not evaluated for this caller; exchanges that an earlier policy allowed go on.
    if (policy.refuses(callerOf(exchange.identified))) return
    const again = askAgain(context, exchange.id, exchange.identified)
    const { refusal } = again.decided
    if (refusal === undefined) exchange.decided = { ...again.decided, evaluation: undefined }
    else {
      const { code, cause } = refusal
      exchange.cut({ reason: 'denied', sinceUs, code, cause }, again)
    }
  }

  #cutStale(nowUs: number): void {
    const { ledger, live, config } = this.#current()
    if (ledger === undefined) return
    const nowMs = performance.now()
    this.#brokenAtMs = ledger.broken ? (this.#brokenAtMs ?? nowMs) : undefined
    const unfitMs = this.#brokenAtMs === undefined ? 0 : nowMs - this.#brokenAtMs
    const ageMs = Math.max(unfitMs, ledger.ageMs(nowUs, Date.now()))
    const { cut_after, hard_stop } = config.revocation
    if (ageMs <= Math.min(cut_after, hard_stop)) return
    for (const exchange of live.all()) {
      const limitMs =
        exchange.identified.arrived.route.config.stale === 'deny' ? cut_after : hard_stop
      const sinceUs = nowUs - (ageMs - limitMs) * 1000
      if (ageMs > limitMs) exchange.cut({ reason: 'stale', sinceUs, code: 'ERR_STALE' })
    }
  }
}

function entryOf(exchange: OpenExchange, worker: number): LiveEntry {
  const { id, route, protocol, principal, address, bytesIn, bytesOut } = exchange
  return {
    id,
    worker,
    route,
    protocol,
    issuer: principal?.issuer ?? null,
    subject: principal?.subject ?? null,
    client_id: principal?.clientId ?? null,
    session_id: principal?.sessionId ?? null,
    address: address ?? null,
    age_ms: Math.round((monotonicUs() - exchange.startedAtUs) / 1000),
    bytes_in: bytesIn,
    bytes_out: bytesOut,
  }
}

function checkLimits(exchange: OpenExchange, nowUs: number): void {
  const { idle, age } = exchange.identified.arrived.route.config.limits
  const over = (reason: CutReason, limitMs: number, sinceUs: number): void => {
    const dueUs = sinceUs + limitMs * 1000
    if (limitMs > 0 && nowUs > dueUs) exchange.cut({ reason, sinceUs: dueUs })
  }
  over('age', age, exchange.startedAtUs)
  const bytes = exchange.bytesIn + exchange.bytesOut
  if (bytes !== exchange.idleBytes) {
    exchange.idleBytes = bytes
    exchange.idleSinceUs = nowUs
  } else over('idle', idle, exchange.idleSinceUs)
}

/**
 * Visits the elements one after the other and gives way to the event loop at this pace. The first slice runs in this
 * turn.
 * @param visit Returns whether to go on.
 */
async function inSlices<E>(
  items: readonly E[],
  { sliceMs, pauseMs }: Pace,
  visit: (item: E) => boolean,
): Promise<void> {
  let until = performance.now() + sliceMs
  for (const item of items) {
    if (performance.now() > until) {
      await new Promise((resolve) =>
        pauseMs === 0 ? setImmediate(resolve) : setTimeout(resolve, pauseMs),
      )
      until = performance.now() + sliceMs
    }
    if (!visit(item)) return
  }
}
