/**
 * One request on HTTP/1.1 and the answer to it, until it is let in; open-http.ts carries it from there. It knows how far
 * the request came (its trace) and how a refusal is said.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { monotonicUs } from '../domain/clock.ts'
import { asGateError } from '../errors.ts'
import type { Via } from '../listener/peer.ts'
import type { Upgrade } from '../listener/upgrade.ts'
import { deny } from '../response/deny.ts'
import { wordsOf } from './authorize.ts'
import type { ExchangeContext } from './context.ts'
import { type Progress, type Recorded, recordDecision } from './events.ts'
import type { Trace } from './stages.ts'

/** What the listener hands over. */
export interface Arrival {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly via: Via
  /** Set for a WebSocket handshake; `res` is its own then. */
  readonly upgrade: Upgrade | undefined
}

const noHeaders: readonly string[] = []

export class Exchange implements Recorded {
  readonly id = randomUUID()
  readonly startedAtUs = monotonicUs()
  readonly startedAtMs = Date.now()
  readonly context: ExchangeContext
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly via: Via
  readonly upgrade: Upgrade | undefined
  readonly trace: Trace = { peer: undefined, target: undefined, route: undefined, cors: noHeaders }

  constructor(context: ExchangeContext, { req, res, via, upgrade }: Arrival) {
    this.context = context
    this.req = req
    this.res = res
    this.via = via
    this.upgrade = upgrade
  }

  /**
   * Records the refusal and answers with the status of its code, or with the policy's own words where it has any; an
   * answer that is under way is broken off.
   */
  refuse(thrown: unknown, progress: Progress): void {
    const { res, req, trace, id: decisionId } = this
    if (res.destroyed) return
    const error = asGateError(thrown)
    const { decided } = progress
    const own = decided?.refusal === error ? wordsOf(decided) : undefined
    const status = own?.status ?? error.status
    this.context.metrics.count('dropgate_requests_total', error.code)
    recordDecision(this, error, status, progress)
    if (res.headersSent) {
      res.destroy()
      return
    }
    const { cors, route } = trace
    const allow = route?.config.methods
    if (own === undefined) deny(res, error, { decisionId, req, cors, allow })
    else deny(res, error, { decisionId, req, cors, status, headers: own.headers, body: own.body })
  }
}

/** Seconds since a monotonic moment in µs. */
export function sinceS(startedAtUs: number): number {
  return (monotonicUs() - startedAtUs) / 1e6
}
