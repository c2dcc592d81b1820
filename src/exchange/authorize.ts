/**
 * Decides whether an exchange may begin and whether it may stay open: revocations first, then the policy. The pipeline
 * calls this once, `reevaluate` calls it again. Nothing here awaits, sends, or knows how an answer is given, so an
 * entrance that only decides can use it too.
 *
 * Only an explicit allow lets an exchange in (design law 1): any error that is thrown on the way becomes the refusal.
 */
import { addressCaller, type Caller } from '../domain/caller.ts'
import { monotonicUs, rfc3339 } from '../domain/clock.ts'
import type { Answer } from '../domain/decision.ts'
import { asGateError, type Code, GateError } from '../errors.ts'
import { headerValue } from '../listener/headers.ts'
import { parseBody } from '../policy/body.ts'
import type { ActivePolicy } from '../policy/engine.ts'
import {
  type BodyTexts,
  buildInput,
  type InputParts,
  type InputState,
  type PolicyInput,
} from '../policy/input.ts'
import type { LedgerView } from '../revocation/ledger.ts'
import { findBlock, findRevocation } from '../revocation/match.ts'
import { type Target, withQuery } from '../route/target.ts'
import type { ExchangeContext } from './context.ts'
import type { Arrived, Authorization, Evaluation, Identified } from './stages.ts'

/** A row that denies, and the error code of the refusal. */
export interface RowDenial {
  /** `revocations.id`. */
  readonly id: number
  readonly code: Code
  /** True for a cutoff: a token that is issued from now on would be accepted, so the caller may retry. */
  readonly retry?: boolean
}

/** Returns the row that denies this caller now, if there is one. */
export function findDenial(
  ledger: LedgerView,
  { principal, arrived: { peer } }: Identified,
  nowMs: number,
): RowDenial | undefined {
  if (principal === undefined) {
    const block = findBlock(ledger, peer, nowMs)
    if (block === undefined) return undefined
    const code = block.on === 'everyone' ? 'ERR_EVERYONE_REVOKED' : 'ERR_PEER_REVOKED'
    return { id: block.id, code }
  }
  const match = findRevocation(ledger, principal, peer, nowMs)
  return match === undefined ? undefined : { ...match, code: 'ERR_REVOKED' }
}

/** The caller of an evaluation: when the evaluation does not end, it counts against this caller. */
export function callerOf({ principal, arrived }: Identified): Caller {
  return principal?.caller ?? addressCaller(arrived.peer.address)
}

/**
 * @param id The decision id, which the policy may read.
 * @param atMs Wall clock time at which the request came.
 */
export function authorize(
  context: ExchangeContext,
  id: string,
  identified: Identified,
  atMs: number,
): Authorization {
  const decision = new Decision(context, id, identified)
  try {
    const stale = decision.checkRevocations()
    decision.askPolicy(atMs, stale)
    decision.chooseTarget()
  } catch (error) {
    decision.refusal = asGateError(error)
  }
  return decision.made()
}

/**
 * Evaluates the active policy for an exchange that an earlier policy allowed. In the input only clock and feed are new.
 */
export function askAgain(
  context: ExchangeContext,
  id: string,
  identified: Identified,
): Authorization {
  const { ledger, config } = context
  const decision = new Decision(context, id, identified)
  decision.feedAgeMs = ledger?.ageMs(monotonicUs(), Date.now()) ?? Number.POSITIVE_INFINITY
  try {
    decision.askPolicy(Date.now(), decision.feedAgeMs > config.revocation.max_staleness)
  } catch (error) {
    decision.refusal = asGateError(error)
  }
  return decision.made()
}

/** One decision while it is made. When a step throws, the record shows what was known until then. */
class Decision {
  readonly #context: ExchangeContext
  readonly #id: string
  readonly #identified: Identified
  refusal: GateError | undefined
  feedAgeMs = -1
  #ledgerVersion = -1
  #revocation: number | undefined
  #policy: ActivePolicy | undefined
  #input: PolicyInput | undefined
  #evaluation: Evaluation | undefined
  #sentTarget: Target | undefined

  constructor(context: ExchangeContext, id: string, identified: Identified) {
    this.#context = context
    this.#id = id
    this.#identified = identified
  }

  made(): Authorization {
    return {
      decided: {
        refusal: this.refusal,
        feedAgeMs: this.feedAgeMs,
        ledgerVersion: this.#ledgerVersion,
        revocation: this.#revocation,
        policy: this.#policy,
        evaluation: this.#evaluation,
        sentTarget: this.#sentTarget,
      },
      input: this.#input,
    }
  }

  /**
   * @returns whether the feed is stale. @throws GateError when a row denies, or when the route does not accept a stale
   * feed
   */
  checkRevocations(): boolean {
    const { ledger, config } = this.#context
    if (ledger === undefined || !ledger.loaded || ledger.broken)
      throw new GateError('ERR_NOT_READY')
    const { max_staleness, hard_stop } = config.revocation
    const nowMs = Date.now()
    const ageMs = ledger.ageMs(monotonicUs(), nowMs)
    this.feedAgeMs = ageMs
    this.#ledgerVersion = ledger.version
    const stale = ageMs > max_staleness
    const { route } = this.#identified.arrived
    if (stale && (route.config.stale === 'deny' || ageMs > hard_stop))
      throw new GateError('ERR_STALE')
    const denial = findDenial(ledger, this.#identified, nowMs)
    if (denial === undefined) return stale
    this.#revocation = denial.id
    throw new GateError(denial.code, undefined, denial.retry ? { retryAfterS: 1 } : {})
  }

  askPolicy(atMs: number, stale: boolean): void {
    const context = this.#context
    const policy = context.engine.current()
    if (policy === undefined) throw new GateError('ERR_POLICY_MISSING')
    this.#policy = policy
    const caller = callerOf(this.#identified)
    if (policy.refuses(caller)) throw new GateError('ERR_CALLER_SUSPENDED')
    const { arrived, principal, body } = this.#identified
    const { decision } = arrived.route.config
    const plan = policy.planOf(decision)
    const state: InputState = {
      timeRfc3339: rfc3339(atMs),
      body:
        body !== undefined && plan.readsBody
          ? bodyTexts(arrived, body, plan.top.has('parsed_body'))
          : undefined,
      feedStale: stale,
      feedAgeMs: Math.round(this.feedAgeMs),
    }
    const input = buildInput(inputPartsOf(this.#id, arrived, principal, body), state, plan)
    this.#input = input
    const evaluation = context.evaluate(policy, caller, decision, input.text)
    this.#evaluation = evaluation
    const { answer } = evaluation
    if (answer.failure !== undefined)
      throw new GateError(answer.failure, undefined, { cause: answer.detail })
    if (!answer.allowed) throw new GateError('ERR_POLICY_DENIED')
  }

  /**
   * Chooses the target to send and applies the policy's changes to its query. The result passes the same checks as the
   * client's query (design law 5).
   */
  chooseTarget(): void {
    const { query } = this.#evaluation!.answer
    const { method, target, sentTarget, peer } = this.#identified.arrived
    this.#sentTarget = sentTarget
    if (query === undefined) return
    try {
      this.#sentTarget = withQuery(method, sentTarget ?? target, query, {
        scheme: peer.scheme,
        maxBytes: this.#context.config.limits.target_bytes,
      })
    } catch (error) {
      throw new GateError('ERR_POLICY_FAILED', undefined, { cause: error })
    }
  }
}

function inputPartsOf(
  id: string,
  arrived: Arrived,
  principal: Identified['principal'],
  body: Buffer | undefined,
): InputParts {
  const { headers, target, peer, route } = arrived
  return {
    requestId: id,
    method: arrived.method,
    path: target.wire,
    host: target.authority,
    scheme: peer.scheme,
    protocol: arrived.protocol,
    headers: arrived.passedHeaders,
    size: body?.length ?? headers.contentLength,
    bodyWithheld: body === undefined && arrived.hasBody,
    sourceAddress: peer.address,
    sourcePort: peer.port,
    destinationAddress: peer.localAddress,
    destinationPort: peer.localPort,
    parsedPath: target.segments,
    query: target.query,
    sentTarget: arrived.sentTarget?.wire,
    routeJson: route.routeJson,
    labelsJson: route.labelsJson,
    principal,
  }
}

function bodyTexts({ headers }: Arrived, body: Buffer, parse: boolean): BodyTexts | undefined {
  const contentType = headerValue(headers, 'content-type')
  const contentEncoding = headerValue(headers, 'content-encoding')
  return parseBody(body, { contentType, contentEncoding }, parse)
}

/** The answer that the policy wrote for its denial. Undefined when the refusal has another reason. */
export function wordsOf({ refusal, evaluation }: Authorization['decided']): Answer | undefined {
  return refusal?.code === 'ERR_POLICY_DENIED' ? evaluation?.answer : undefined
}
