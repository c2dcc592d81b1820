/**
 * Writes the records of the decision log (design law 8): one for each decision that answers a request, one for the end
 * of an exchange that was open long or was cut, one for bytes that were no valid request. decisionlog/record.ts makes
 * the text.
 */
import { type RecordFields, writeRecord } from '../decisionlog/record.ts'
import { monotonicUs, rfc3339 } from '../domain/clock.ts'
import { afterWrites } from '../domain/turn.ts'
import type { GateError } from '../errors.ts'
import { askedInput, type PolicyInput } from '../policy/input.ts'
import type { ExchangeContext } from './context.ts'
import type { Authorization, Decided, Identified, RequestHead, Trace } from './stages.ts'

/** The parts of an exchange that every record shows. */
export interface RecordSubject {
  /** The decision id. */
  readonly id: string
  readonly context: ExchangeContext
  readonly startedAtUs: number
  readonly startedAtMs: number
  readonly req: RequestHead
  readonly trace: Trace
}

/** How far the exchange came before its decision. */
export interface Progress {
  readonly identified?: Identified
  readonly decided?: Decided | undefined
  /** Undefined when no policy was asked, or when an earlier record has shown the input. */
  readonly input?: PolicyInput | undefined
}

/** How an allowed exchange ended. */
export interface End {
  readonly reason: string
  /** Time from the cause of a cut to the cut; undefined when the exchange was not cut. */
  readonly cutAfterMs: number | undefined
  readonly protocol: string
  readonly bytesIn: number
  readonly bytesOut: number
  /** `revocations.id` of the row that ended the exchange. */
  readonly revocation: number | undefined
  /** Why the gate could not decide whether the exchange may stay open. */
  readonly cause: unknown
}

/** @param error The refusal; undefined when the exchange was allowed. */
export function recordDecision(
  exchange: RecordSubject,
  error: GateError | undefined,
  status: number,
  progress: Progress,
): void {
  write(exchange, progress, { error, status, end: undefined })
}

/**
 * Writes the end of an exchange under the decision id that it began with.
 * @param denial The later decision that ended it, if one did.
 */
export function recordEnd(
  exchange: RecordSubject,
  progress: Required<Pick<Progress, 'identified'>> & Progress,
  end: End,
  denial: Authorization | undefined,
): void {
  const { identified } = progress
  const newest = denial === undefined ? progress : { identified, ...denial }
  write(exchange, newest, { error: undefined, status: 0, end, denied: denial !== undefined })
}

interface Outcome {
  readonly error: GateError | undefined
  readonly status: number
  readonly end: End | undefined
  readonly denied?: boolean
}

/**
 * Writes every record about a request. The record of an end shows input and result only when a later decision made the
 * end.
 */
function write(
  { id, context, trace, req, startedAtUs, startedAtMs }: RecordSubject,
  { identified, decided, input }: Progress,
  { error, status, end, denied }: Outcome,
): void {
  const decision = end === undefined
  const evaluation = decision || denied ? decided?.evaluation : undefined
  const answer = evaluation?.answer
  const shown = input ?? (decision ? askedOf(req, trace) : undefined)
  const principal = identified?.principal
  const stamp = decided?.policy?.stamp
  const nowUs = monotonicUs()
  keep(context, decision && error === undefined, {
    labelsJson: context.labelsJson,
    decisionId: id,
    bundle: stamp?.bundle,
    revision: stamp?.revision,
    path: trace.route?.config.decision,
    inputJson: shown?.logged,
    resultJson: answer?.resultJson,
    erased: shown?.erased,
    masked: shown?.masked,
    ndBuiltinCache: evaluation?.ndBuiltinCache,
    metadataJson: answer?.metadataJson,
    sentTarget: decision ? decided?.sentTarget?.wire : undefined,
    timestamp: rfc3339(decision ? startedAtMs : Date.now()),
    requestedBy: trace.peer?.address ?? req.socket.remoteAddress,
    code: error?.code,
    reason: answer?.reason,
    status,
    route: trace.route?.config.name,
    worker: context.worker,
    feedAgeMs: decision ? decided?.feedAgeMs : undefined,
    ledgerVersion: decision ? decided?.ledgerVersion : undefined,
    revocation: decision ? decided?.revocation : end.revocation,
    issuer: principal?.issuer,
    subject: principal?.subject,
    evaluationNs: Math.round((evaluation?.durationUs ?? 0) * 1000),
    decisionNs: decision ? Math.round((nowUs - startedAtUs) * 1000) : undefined,
    end: decision ? undefined : { ...end, openMs: (nowUs - startedAtUs) / 1000 },
    cause: decision ? error?.cause : end.cause,
  })
}

/**
 * Records of allowed requests. Each is made after the writes of its turn: the request goes on its way first, and if the
 * thread is ended before that, it has not gone. All other records are made at once, after those that came before them.
 */
let due: RecordFields[] = []

function keep({ log }: ExchangeContext, afterwards: boolean, fields: RecordFields): void {
  if (afterwards) {
    if (due.length === 0) afterWrites(() => makeDue(log))
    due.push(fields)
    return
  }
  makeDue(log)
  log.push(writeRecord(fields))
}

function makeDue(log: ExchangeContext['log']): void {
  if (due.length === 0) return
  const records = due
  due = []
  for (const fields of records) log.push(writeRecord(fields))
}

/** The logged input of a request for which no policy input was made, or whose input an earlier record has shown. */
function askedOf(
  req: RequestHead,
  { target, peer }: Trace,
): Pick<PolicyInput, 'logged' | 'erased' | 'masked'> {
  return askedInput({
    method: req.method ?? '',
    // What no route has accepted is shown as it came.
    path: (target?.doubt === undefined ? target?.wire : undefined) ?? req.url ?? '',
    host: target?.authority,
    address: peer?.address,
    port: peer?.port,
  })
}

/**
 * Bytes that were no valid request (malformed framing, a refused handshake). The listener has answered them already.
 */
export interface RefusedBytes {
  readonly decisionId: string
  readonly error: GateError
  readonly remoteAddress: string | undefined
}

export function recordUnread(context: ExchangeContext, unread: RefusedBytes): void {
  context.metrics.count('dropgate_requests_total', unread.error.code)
  context.log.push(
    writeRecord({
      labelsJson: context.labelsJson,
      decisionId: unread.decisionId,
      timestamp: rfc3339(Date.now()),
      requestedBy: unread.remoteAddress,
      code: unread.error.code,
      status: unread.error.status,
      worker: context.worker,
      cause: unread.error.cause,
    }),
  )
}
