/** `status`: what the running gate says of itself, and what the database knows of all gates. */
import type { BundleStatus } from '../bundle/watch.ts'
import { asGateError, GateError } from '../errors.ts'
import { listFleet } from '../store/statements.ts'
import { askGate } from './admin.ts'
import { asCommand } from './database.ts'
import { count, print, printFields, printTable } from './output.ts'
import { moment, span } from './times.ts'

/** Why one of the two could not be asked. */
interface Problem {
  readonly code: string
  readonly message: string
  readonly hint: string | undefined
}

/** A gate as the database knows it. */
interface FleetGate {
  readonly id: string
  readonly host: string
  readonly pid: number
  readonly version: string
  /** Name of the bundle -> revision; empty for gates of earlier releases. */
  readonly policies: Readonly<Record<string, string>>
  /** Whether it has reported within the last seconds, and when it did so last. */
  readonly heard: boolean
  readonly seen_ms: number
  /** What it said last, and false where it is silent. */
  readonly ready: boolean
  readonly rows: string
  readonly age_ms: number | null
  readonly revocation_times: { readonly p99_ms: number; readonly missed: number } | null
}

/** `/v1/status` of a gate, see gate/status.ts. */
interface GateStatus {
  readonly id: string
  readonly version: string
  readonly started_at: string
  readonly ready: boolean
  readonly reasons: readonly string[]
  readonly warnings: readonly string[]
  readonly listen: readonly number[]
  readonly config: { readonly code: string | null; readonly message: string | null }
  readonly workers: readonly {
    readonly worker: number
    readonly listening: boolean
    readonly policy_revision: string | null
    readonly live_exchanges: number
    readonly restarts: number
    readonly lost_exchanges: number
    readonly problem: string | null
  }[]
  readonly feed: {
    readonly state: string
    readonly age_ms: number | null
    readonly reconnects: number
    readonly code: string | null
    readonly message: string | null
  }
  readonly fleet: { readonly revocation_ms: number | null; readonly unmatched_rows: number }
  readonly ledger: { readonly rows: number }
  readonly policy: BundleStatus
  readonly issuers: readonly {
    readonly issuer: string
    readonly keys: number
    readonly last_success: string | null
    readonly code: string | null
    readonly message: string | null
  }[]
  readonly decision_log: { readonly lost: number; readonly problem: string | null }
}

type Status = Partial<GateStatus> & {
  readonly ready: boolean
  readonly reasons: readonly string[]
  readonly gates: readonly FleetGate[]
  readonly problems: { readonly gate: Problem | null; readonly database: Problem | null }
}

/** @throws GateError when neither the gate nor the database could be asked */
export async function askStatus(file: string): Promise<Status> {
  const [gate, fleet] = await Promise.all([attempt(askLocal(file)), attempt(askFleet(file))])
  if (gate instanceof GateError && fleet instanceof GateError) throw gate
  const problems = { gate: problemOf(gate), database: problemOf(fleet) }
  const gates = fleet instanceof GateError ? [] : fleet
  if (!(gate instanceof GateError)) return { ...gate, gates, problems }
  return { ready: false, reasons: [gate.message], gates, problems }
}

async function askLocal(file: string): Promise<GateStatus> {
  const { status, document } = await askGate(file, '/v1/status')
  if (status === 200) return document as GateStatus
  throw new GateError('ERR_NOT_FOUND', `the admin port answered ${status}`)
}

async function askFleet(file: string): Promise<readonly FleetGate[]> {
  return (await asCommand(file, listFleet)) as unknown as FleetGate[]
}

async function attempt<T>(asked: Promise<T>): Promise<T | GateError> {
  try {
    return await asked
  } catch (error) {
    const known = asGateError(error)
    if (known.code === 'ERR_INTERNAL') throw error
    return known
  }
}

function problemOf(found: unknown): Problem | null {
  if (!(found instanceof GateError)) return null
  const { code, message, hint } = found
  return { code, message, hint }
}

export function printStatus(status: Status): void {
  const { gate, database } = status.problems
  if (gate === null) printLocal(status as Status & GateStatus)
  else {
    printFields([
      ['this gate', `does not answer: ${gate.message}`],
      ['', gate.hint],
    ])
  }
  print('')
  if (database === null) printFleet(status)
  else {
    printFields([
      ['database', `cannot be asked for the other gates: ${database.message}`],
      ['', database.hint],
    ])
  }
}

function printLocal(status: Status & GateStatus): void {
  const { ready, reasons, id, version, started_at, listen, ledger, feed, fleet, policy } = status
  const now = new Date()
  const age =
    feed.age_ms === null ? 'nothing is proved yet' : `proved ${Math.round(feed.age_ms)} ms ago`
  const measured =
    fleet.revocation_ms === null ? '' : `; a revocation took ${Math.round(fleet.revocation_ms)} ms`
  printFields([
    ['this gate', ready ? 'ready' : `NOT READY: ${reasons.join('; ')}`],
    ['', `${id}, dropgate ${version}, port ${listen.join(', ') || 'none'}`],
    ['', `started ${moment(new Date(started_at), now)}`],
    ['revocations', `${count(ledger.rows, 'row')} in force, feed ${feed.state}, ${age}${measured}`],
    ['policy', policyLine(policy, now)],
    ...status.workers.map(workerLine),
    ...status.issuers.map((each) => issuerLine(each, now)),
    ...warningsOf(status).map((warning): Field => ['warning', warning]),
  ])
}

type Field = readonly [name: string, value: string | undefined]

function policyLine(
  { name, active_revision, last_successful_activation }: BundleStatus,
  now: Date,
): string {
  if (active_revision === null) return 'none is active'
  return `${name} ${active_revision}, active since ${moment(new Date(last_successful_activation!), now)}`
}

function workerLine(worker: GateStatus['workers'][number]): Field {
  const {
    worker: index,
    listening,
    policy_revision,
    live_exchanges,
    restarts,
    lost_exchanges,
  } = worker
  const parts = [
    listening ? 'listening' : 'not listening',
    policy_revision === null ? 'no policy' : `policy ${policy_revision}`,
    `${live_exchanges} open`,
    ...(restarts === 0
      ? []
      : [`replaced ${count(restarts, 'time')}, ${lost_exchanges} exchanges lost`]),
    ...(worker.problem === null ? [] : [worker.problem]),
  ]
  return [`worker ${index}`, parts.join(', ')]
}

function issuerLine(
  { issuer, keys, last_success, code, message }: GateStatus['issuers'][number],
  now: Date,
): Field {
  const fetched =
    last_success === null ? 'never fetched' : `fetched ${moment(new Date(last_success), now)}`
  const problem = code === null ? '' : `; the last attempt failed: ${code} ${message}`
  return ['issuer', `${issuer}: ${count(keys, 'key')}, ${fetched}${problem}`]
}

function warningsOf({ warnings, config, feed, fleet, policy, decision_log }: GateStatus): string[] {
  const { lost, problem } = decision_log
  return [
    ...warnings,
    ...(config.code === null
      ? []
      : [`the newest configuration is refused: ${config.code} ${config.message}`]),
    ...(feed.code === null ? [] : [`the feed: ${feed.code} ${feed.message}`]),
    ...(policy.code === null
      ? []
      : [`the newest bundle is refused: ${policy.code} ${policy.message}`]),
    ...policy.warnings,
    ...(fleet.unmatched_rows === 0
      ? []
      : [
          `${count(fleet.unmatched_rows, 'row')} could be matched by no gate when inserted: \`dropgate list --unmatched\``,
        ]),
    ...(lost === 0 ? [] : [`${count(lost, 'line')} of the decision log are lost`]),
    ...(problem === null ? [] : [`the decision log: ${problem}`]),
  ]
}

function printFleet({ gates, id }: Status): void {
  if (gates.length === 0) {
    print('The database knows no gate that may be serving.')
    return
  }
  const silent = gates.filter(({ heard }) => !heard).length
  const ready = gates.filter((gate) => gate.ready).length
  print(
    `${count(gates.length, 'gate')} of this database, ${ready} ready${silent === 0 ? '' : `, ${silent} silent`}:`,
  )
  printTable(
    gates.map((gate) => ({
      gate: `${gate.id.slice(0, 8)}${gate.id === id ? ' *' : ''}`,
      ready: gate.ready ? 'yes' : gate.heard ? 'no' : `no, silent for ${span(gate.seen_ms)}`,
      host: gate.host,
      pid: gate.pid,
      version: gate.version,
      policy: policiesOf(gate),
      rows: gate.rows,
      'feed ms': gate.age_ms,
      'p99 ms': gate.revocation_times?.p99_ms ?? null,
      missed: gate.revocation_times?.missed ?? null,
    })),
    { spare: ['missed', 'p99 ms', 'rows', 'pid', 'feed ms'] },
  )
}

function policiesOf({ policies }: FleetGate): string | null {
  const each = Object.entries(policies).map(([name, revision]) => `${name} ${revision}`)
  return each.length === 0 ? null : each.join(', ')
}
