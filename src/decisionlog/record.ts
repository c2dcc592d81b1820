/**
 * Writes one decision as a line of OPA's decision log (event format v1), with dropgate's own fields under `custom`.
 * The text is concatenated: the JSON of the input exists already, without its secrets (policy/input).
 */
import { quote } from '../domain/json.ts'
import { hideInAddress, hideTokens } from '../domain/secrets.ts'

export interface RecordFields {
  readonly labelsJson: string
  readonly decisionId: string
  readonly timestamp: string
  readonly status: number
  readonly worker: number
  readonly requestedBy: string | undefined
  /** Error code of the refusal; undefined for an allowed request. */
  readonly code: string | undefined
  readonly bundle?: string | undefined
  readonly revision?: string | undefined
  /** Entrypoint of the policy. */
  readonly path?: string | undefined
  readonly inputJson?: string | undefined
  readonly resultJson?: string | undefined
  readonly erased?: readonly string[] | undefined
  readonly masked?: readonly string[] | undefined
  /** Results of non-deterministic builtins, as JSON text. */
  readonly ndBuiltinCache?: string | undefined
  /** The policy's `dynamic_metadata` as JSON text. */
  readonly metadataJson?: string | undefined
  /** The target that was sent to the upstream, if the policy changed the query. */
  readonly sentTarget?: string | undefined
  /** The reason that the policy gave. */
  readonly reason?: string | undefined
  readonly route?: string | undefined
  readonly feedAgeMs?: number | undefined
  readonly ledgerVersion?: number | undefined
  /** Id of the revocation that denied the request. */
  readonly revocation?: number | undefined
  readonly issuer?: string | undefined
  readonly subject?: string | undefined
  readonly evaluationNs?: number | undefined
  readonly decisionNs?: number | undefined
  readonly cause?: unknown
  /** Set if this record is written at the end of an allowed exchange; `cutAfterMs` is set if it was cut. */
  readonly end?:
    | {
        readonly reason: string
        readonly cutAfterMs: number | undefined
        readonly protocol: string
        readonly bytesIn: number
        readonly bytesOut: number
        readonly openMs: number
      }
    | undefined
}

const maxCause = 300

/** Returns JSON text without a newline. Any text that looks like a token is hidden, whichever field it came from. */
export function writeRecord(record: RecordFields): string {
  const { labelsJson, decisionId, timestamp, inputJson, resultJson, erased, masked, code } = record
  let out = `{"labels":${labelsJson},"decision_id":"${decisionId}","type":"openpolicyagent.org/decision_logs"`
  out += policyText(record)
  if (inputJson !== undefined) out += `,"input":${inputJson}`
  if (resultJson !== undefined) out += `,"result":${resultJson}`
  if (erased !== undefined && erased.length > 0) out += `,"erased":${erasedText(erased)}`
  if (masked !== undefined && masked.length > 0) out += `,"masked":${JSON.stringify(masked)}`
  if (record.ndBuiltinCache !== undefined) out += `,"nd_builtin_cache":${record.ndBuiltinCache}`
  out += `,"requested_by":${quote(record.requestedBy ?? '')},"timestamp":"${timestamp}"`
  if (record.decisionNs !== undefined) {
    out += `,"metrics":{"timer_rego_query_eval_ns":${record.evaluationNs ?? 0},"timer_server_handler_ns":${record.decisionNs}}`
  }
  const { end } = record
  out += `,"custom":{"decision":"${end !== undefined ? (end.cutAfterMs === undefined ? 'end' : 'cut') : code === undefined ? 'allow' : 'deny'}"`
  if (end !== undefined) {
    out += `,"ended":"${end.reason}","protocol":"${end.protocol}","bytes_in":${end.bytesIn},"bytes_out":${end.bytesOut},"open_ms":${Math.round(end.openMs)}`
    if (end.cutAfterMs !== undefined) out += `,"cut_after_ms":${end.cutAfterMs.toFixed(3)}`
  }
  if (code !== undefined) out += `,"code":"${code}","status":${record.status}`
  if (record.reason !== undefined) out += `,"reason":${quote(record.reason)}`
  if (record.sentTarget !== undefined)
    out += `,"sent_target":${quote(hideInAddress(record.sentTarget))}`
  if (record.metadataJson !== undefined) out += `,"dynamic_metadata":${record.metadataJson}`
  if (record.route !== undefined && record.route !== '') out += `,"route":${quote(record.route)}`
  out += `,"worker":${record.worker}`
  const { feedAgeMs = -1, ledgerVersion = -1 } = record
  if (feedAgeMs >= 0 && Number.isFinite(feedAgeMs)) out += `,"feed_age_ms":${Math.round(feedAgeMs)}`
  if (ledgerVersion >= 0) out += `,"ledger_version":${ledgerVersion}`
  if (record.revocation !== undefined) out += `,"revocation":${record.revocation}`
  if (record.issuer !== undefined) out += `,"issuer":${quote(record.issuer)}`
  if (record.subject !== undefined) out += `,"subject":${quote(record.subject)}`
  if (record.cause !== undefined) out += `,"cause":${quote(causeText(record.cause))}`
  return hideTokens(`${out}}}`)
}

/** Cache of the last policy text: the next record nearly always has the same policy. */
let policy = { bundle: '', revision: '', path: '', text: '' }

function policyText({ bundle, revision = '', path = '' }: RecordFields): string {
  if (bundle === undefined) return path === '' ? '' : `,"path":${quote(path)}`
  if (policy.bundle !== bundle || policy.revision !== revision || policy.path !== path) {
    let text = `,"bundles":{${quote(bundle)}:{"revision":${quote(revision)}}}`
    if (path !== '') text += `,"path":${quote(path)}`
    policy = { bundle, revision, path, text }
  }
  return policy.text
}

let erasure: { readonly erased: readonly string[]; readonly text: string } = {
  erased: [],
  text: '[]',
}

function erasedText(erased: readonly string[]): string {
  if (erasure.erased !== erased) erasure = { erased, text: JSON.stringify(erased) }
  return erasure.text
}

function causeText(cause: unknown): string {
  return (cause instanceof Error ? cause.message : String(cause)).slice(0, maxCause)
}
