/**
 * Every counter and histogram with its unit. Each thread writes cells of its own in shared memory, without atomics: one
 * writer each, 64-bit cells; the admin server adds them up. Prometheus text format 0.0.4.
 */
import { cutReasons } from './domain/exchange.ts'
import { codes } from './errors.ts'

interface Counter {
  readonly help: string
  readonly label?: readonly [name: string, values: readonly string[]]
}

interface Histogram {
  readonly help: string
  /** Upper bounds in seconds. */
  readonly buckets: readonly number[]
}

const fast = [
  0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1,
] as const
const slow = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30] as const

const counters = {
  dropgate_requests_total: {
    help: 'Requests by their decision: allowed, preflight, or the code of the refusal.',
    label: ['code', ['allowed', 'preflight', ...Object.keys(codes)]],
  },
  dropgate_upstream_responses_total: {
    help: 'Answers of upstreams by class of status.',
    label: ['class', ['2xx', '3xx', '4xx', '5xx']],
  },
  dropgate_token_cache_total: {
    help: 'Look-ups of verified tokens.',
    label: ['result', ['hit', 'miss']],
  },
  dropgate_unread_answers_total: {
    help: 'Answers given up because the client did not read them.',
  },
  dropgate_connections_refused_total: {
    help: 'Connections closed because their PROXY protocol header was missing, malformed or not to be trusted.',
  },
  dropgate_cuts_total: {
    help: 'Live exchanges that were cut, by reason.',
    label: ['reason', cutReasons],
  },
  dropgate_connections_dropped_total: {
    help: 'Connections closed because limits.connections was reached.',
  },
  dropgate_decision_log_dropped_total: {
    help: 'Decision events dropped because the log could not keep up.',
  },
  dropgate_worker_restarts_total: { help: 'Workers that died or were replaced.' },
  dropgate_policy_activations_total: { help: 'Policies activated.' },
  dropgate_policy_refusals_total: { help: 'Bundles refused; the last good policy goes on.' },
  dropgate_feed_reconnects_total: { help: 'Times the revocation feed was interrupted.' },
  dropgate_feed_loads_total: { help: 'Full loads of the revocations.' },
  dropgate_feed_bulks_total: { help: 'Catch-ups that were too large for a tick.' },
  dropgate_feed_payloads_total: {
    help: 'Notifications: rows in force at once, those whose MAC was wrong, those that only wake.',
    label: ['result', ['rows', 'refused', 'wake']],
  },
  dropgate_feed_comparisons_total: {
    help: 'Comparisons of the whole ledger with the table.',
    label: ['result', ['equal', 'different']],
  },
  dropgate_feed_ticks_total: { help: 'Answered ticks of the revocation feed.' },
} as const satisfies Record<string, Counter>

const histograms = {
  dropgate_decision_duration_seconds: {
    help: 'From the parsed request to its decision, allowed requests.',
    buckets: fast,
  },
  dropgate_policy_evaluation_seconds: { help: 'Evaluation of the policy.', buckets: fast },
  dropgate_request_duration_seconds: {
    help: 'From the parsed request to the last byte of the answer, allowed requests.',
    buckets: slow,
  },
  dropgate_cut_delay_seconds: {
    help: 'From the reason for a cut being known to this gate to the cut.',
    buckets: slow,
  },
  dropgate_feed_tick_seconds: {
    help: 'From the sending of a tick to its rows being in force.',
    buckets: slow,
  },
} as const satisfies Record<string, Histogram>

export type CounterName = keyof typeof counters
export type HistogramName = keyof typeof histograms

const gaugeHelp: Readonly<Record<string, string>> = {
  dropgate_live_exchanges: 'Exchanges that are open.',
  dropgate_feed_age_seconds: 'Time since the last good tick was sent.',
  dropgate_ledger_rows: 'Revocations in the ledger.',
  dropgate_ledger_used: 'Slots of the ledger in use, dead ones included.',
  dropgate_ledger_capacity: 'Slots that may be used before the ledger is full.',
  dropgate_ledger_bytes: 'Shared memory of the ledger, for the whole process.',
  dropgate_fleet_gates:
    'Gates on the same database that have been heard of lately, this one included.',
  dropgate_unmatched_revocations: 'Revocations that no gate could match when they were inserted.',
  dropgate_ready: '1 while the gate is ready.',
}

/** First cell of each series; a histogram has its buckets, +Inf, sum. */
const counterCells = new Map<string, Map<string, number>>()
const histogramCells = new Map<string, number>()
let size = 0
for (const [name, counter] of Object.entries(counters) as [string, Counter][]) {
  const values = new Map<string, number>()
  for (const value of counter.label?.[1] ?? ['']) values.set(value, size++)
  counterCells.set(name, values)
}
for (const [name, { buckets }] of Object.entries(histograms)) {
  histogramCells.set(name, size)
  size += buckets.length + 2
}

export function createMetricCells(): SharedArrayBuffer {
  return new SharedArrayBuffer(size * Float64Array.BYTES_PER_ELEMENT)
}

export class Metrics {
  readonly #cells: Float64Array

  constructor(cells: SharedArrayBuffer) {
    this.#cells = new Float64Array(cells)
  }

  /** A label that is not on the list is not counted: labels are closed lists. */
  count(name: CounterName, label = ''): void {
    const at = counterCells.get(name)!.get(label)
    if (at !== undefined) this.#cells[at]!++
  }

  observe(name: HistogramName, seconds: number): void {
    const { buckets } = histograms[name]
    const at = histogramCells.get(name)!
    let bucket = 0
    while (bucket < buckets.length && seconds > buckets[bucket]!) bucket++
    this.#cells[at + bucket]!++
    this.#cells[at + buckets.length + 1]! += seconds
  }

  read(at: number): number {
    return this.#cells[at]!
  }
}

/** Adds the slices of all threads up. */
export function renderMetrics(
  slices: readonly Metrics[],
  gauges: Readonly<Record<string, number>>,
): string {
  const sum = (at: number): number => slices.reduce((total, slice) => total + slice.read(at), 0)
  const lines: string[] = []
  const head = (name: string, help: string, type: string): void => {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`)
  }
  for (const [name, { help, label }] of Object.entries(counters) as [string, Counter][]) {
    head(name, help, 'counter')
    for (const [value, at] of counterCells.get(name)!) {
      const total = sum(at)
      // A code that never occurred is no series; the unlabelled ones always are.
      if (label === undefined) lines.push(`${name} ${total}`)
      else if (total > 0) lines.push(`${name}{${label[0]}="${value}"} ${total}`)
    }
  }
  for (const [name, { help, buckets }] of Object.entries(histograms)) {
    head(name, help, 'histogram')
    const at = histogramCells.get(name)!
    let total = 0
    for (const [i, bound] of buckets.entries()) {
      total += sum(at + i)
      lines.push(`${name}_bucket{le="${bound}"} ${total}`)
    }
    total += sum(at + buckets.length)
    lines.push(
      `${name}_bucket{le="+Inf"} ${total}`,
      `${name}_sum ${sum(at + buckets.length + 1)}`,
      `${name}_count ${total}`,
    )
  }
  for (const [name, value] of Object.entries(gauges)) {
    head(name, gaugeHelp[name] ?? name, 'gauge')
    lines.push(`${name} ${Number.isFinite(value) ? value : '+Inf'}`)
  }
  return `${lines.join('\n')}\n`
}
