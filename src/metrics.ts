/**
 * All counters and histograms, with their units. Each thread writes its own cells in shared memory, one writer per
 * cell, so it needs no atomics; the admin server adds them up. Output: Prometheus text format 0.0.4.
 */
import { cutReasons } from './domain/exchange.ts'
import { codes } from './errors.ts'

interface Counter {
  readonly help: string
  readonly label?: readonly [name: string, values: readonly string[]]
}

interface Histogram {
  readonly help: string
  /** Upper bounds of the buckets in seconds. */
  readonly buckets: readonly number[]
}

const fast = [
  0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1,
] as const
const slow = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30] as const

const counters = {
  dropgate_requests_total: {
    help: 'Requests by decision: allowed, preflight, or the error code of the refusal.',
    label: ['code', ['allowed', 'preflight', ...Object.keys(codes)]],
  },
  dropgate_upstream_responses_total: {
    help: 'Responses of upstreams by status class.',
    label: ['class', ['2xx', '3xx', '4xx', '5xx']],
  },
  dropgate_token_cache_total: {
    help: 'Tokens by how they were verified: hit, in the cache of the worker; shared, their signature was checked before by a worker of this gate; miss, their signature was checked.',
    label: ['result', ['hit', 'shared', 'miss']],
  },
  dropgate_unread_answers_total: {
    help: 'Responses ended because the client did not read them.',
  },
  dropgate_connections_refused_total: {
    help: 'Connections closed because their PROXY protocol header was missing, malformed or not from a trusted proxy.',
  },
  dropgate_cuts_total: {
    help: 'Open exchanges that were cut, by reason.',
    label: ['reason', cutReasons],
  },
  dropgate_connections_dropped_total: {
    help: 'Connections closed because limits.connections was reached.',
  },
  dropgate_decision_log_dropped_total: {
    help: 'Decision events lost because the decision log could not write them fast enough.',
  },
  dropgate_worker_restarts_total: { help: 'Workers that crashed or were replaced.' },
  dropgate_policy_activations_total: { help: 'Times a policy was activated.' },
  dropgate_policy_timeouts_total: {
    help: 'Evaluations that took longer than policy.evaluation_timeout, or than what is left of it for this caller.',
  },
  dropgate_policy_refusals_total: { help: 'Bundles refused; the last good policy stays active.' },
  dropgate_feed_reconnects_total: { help: 'Times the revocation feed was interrupted.' },
  dropgate_feed_loads_total: { help: 'Full loads of the revocations.' },
  dropgate_feed_bulks_total: {
    help: 'Times so many revocations had changed that the feed fetched them in bulk.',
  },
  dropgate_feed_payloads_total: {
    help: 'Notifications by result: rows applied directly from the notification, notifications refused for a wrong MAC, wake-ups without rows.',
    label: ['result', ['rows', 'refused', 'wake']],
  },
  dropgate_feed_comparisons_total: {
    help: 'Comparisons of all revocations in memory with the database table.',
    label: ['result', ['equal', 'different', 'failed']],
  },
  dropgate_canaries_late_total: {
    help: 'Canaries that were not in force on this gate within revocation.max_staleness after their commit.',
  },
  dropgate_feed_ticks_total: { help: 'Successful polls (ticks) of the revocation feed.' },
} as const satisfies Record<string, Counter>

const histograms = {
  dropgate_decision_duration_seconds: {
    help: 'Time from the parsed request to the decision, for allowed requests.',
    buckets: fast,
  },
  dropgate_policy_evaluation_seconds: { help: 'Time of one policy evaluation.', buckets: fast },
  dropgate_request_duration_seconds: {
    help: 'Time from the parsed request to the last byte of the response, for allowed requests.',
    buckets: slow,
  },
  dropgate_cut_delay_seconds: {
    help: 'Time from the moment this gate learned the reason for a cut to the cut.',
    buckets: slow,
  },
  dropgate_revocation_seconds: {
    help: 'Time from the commit of a canary until it is in force on every worker of this gate, an upper bound.',
    buckets: slow,
  },
  dropgate_feed_tick_seconds: {
    help: 'Time from sending a tick until its rows are applied.',
    buckets: slow,
  },
} as const satisfies Record<string, Histogram>

export type CounterName = keyof typeof counters
export type HistogramName = keyof typeof histograms

const gaugeHelp: Readonly<Record<string, string>> = {
  dropgate_live_exchanges: 'Exchanges that are open now.',
  dropgate_feed_age_seconds: 'Time since the last successful tick of the revocation feed was sent.',
  dropgate_feed_comparison_age_seconds:
    'Time since the revocations in memory were last known to equal the database table, by a comparison or a full load.',
  dropgate_feed_comparisons_overdue:
    '1 while comparisons were due several times and none was completed, else 0.',
  dropgate_feed_wrong_triggers:
    'Triggers of the table of revocations that are off, or do not fire for replicated changes.',
  dropgate_ledger_rows: 'Revocations in memory (the ledger).',
  dropgate_ledger_used: 'Used slots of the ledger, including slots of deleted rows.',
  dropgate_ledger_capacity: 'Slots of the ledger that may be used before it is full.',
  dropgate_ledger_bytes: 'Shared memory of the ledger in bytes, once per process.',
  dropgate_fleet_gates: 'Gates on the same database that reported recently, including this one.',
  dropgate_unmatched_revocations: 'Revocations that no gate could match when they were inserted.',
  dropgate_ready: '1 while the gate is ready, else 0.',
}

/** Index of the first cell of each series. A histogram has cells for its buckets, +Inf and the sum. */
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

  /** Counts an event. A label value that is not on the list is ignored: labels are closed lists. */
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

/** Adds up the cells of all threads and returns the Prometheus text. */
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
      // A labelled series without events is left out; series without a label are always written.
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
