/**
 * One request on HTTP/1.1 and its answer until the request is let in; from there open-http.ts takes over. It keeps how
 * far the request came (its trace) and knows how to answer with a refusal.
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
import { type Progress, type RecordSubject, recordDecision } from './events.ts'
import type { Trace } from './stages.ts'

/** What the listener passes to the pipeline for one request. */
export interface Arrival {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly via: Via
  /** Set for a WebSocket handshake; then `res` was made for it and is not Node's. */
  readonly upgrade: Upgrade | undefined
}

const noHeaders: readonly string[] = []

export class Exchange implements RecordSubject {
  readonly id = randomUUID()
  readonly startedAtUs = monotonicUs()
  readonly startedAtMs = Date.now()
  readonly context: ExchangeContext
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly via: Via
  readonly upgrade: Upgrade | undefined
  readonly trace: Trace = {
    peer: undefined,
    target: undefined,
    route: undefined,
    cors: noHeaders,
    scheme: 'Bearer',
    nonce: undefined,
  }

  constructor(context: ExchangeContext, { req, res, via, upgrade }: Arrival) {
    this.context = context
    this.req = req
    this.res = res
    this.via = via
    this.upgrade = upgrade
  }

  /**
   * Records the refusal and answers with the status of its code, or with the answer that the policy wrote. When the
   * answer has begun already, the connection is closed.
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
    const { cors, route, scheme, nonce } = trace
    const denial = { decisionId, req, cors, scheme, nonce, allow: route?.config.methods }
    if (own === undefined) deny(res, error, denial)
    else {
      const { headers, body } = own
      const anonymous = progress.identified?.arrived.credential === undefined
      deny(res, error, { ...denial, status, headers, body, anonymous })
    }
  }
}

/** Seconds since a moment in monotonic µs. */
export function sinceS(startedAtUs: number): number {
  return (monotonicUs() - startedAtUs) / 1e6
}
