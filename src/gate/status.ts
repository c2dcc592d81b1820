/** The state of this gate, as operators, metrics and the other gates see it. */
import { hostname } from 'node:os'
import type { GateConfig } from '../config/options.ts'
import { monotonicUs } from '../domain/clock.ts'
import { pepperId } from '../domain/token-hash.ts'
import type { GateError } from '../errors.ts'
import type { Beat } from '../fleet/fleet.ts'
import { matchedColumns } from '../identity/claims.ts'
import { Metrics, renderMetrics } from '../metrics.ts'
import type { GateRooms, ReadyAnswer } from './rooms.ts'

export interface GateFacts {
  readonly id: string
  readonly version: string
  readonly startedAt: Date
  readonly ports: readonly number[]
  readonly config: GateConfig
  /** Number of reloads. */
  readonly configGeneration: number
  readonly configuredAt: Date
  /** Why the newest configuration was refused; undefined when it was not. */
  readonly configProblem: GateError | undefined
  readonly peppers: readonly Uint8Array[]
  readonly readiness: ReadyAnswer
}

export function statusOf(rooms: GateRooms, gate: GateFacts): object {
  const { ledger } = rooms
  const { config, configProblem } = gate
  return {
    id: gate.id,
    version: gate.version,
    started_at: gate.startedAt.toISOString(),
    ...gate.readiness,
    listen: gate.ports,
    config: {
      generation: gate.configGeneration,
      since: gate.configuredAt.toISOString(),
      routes: config.routes.map(({ name }) => name),
      issuers: config.issuers.map(({ issuer }) => issuer),
      code: configProblem?.code ?? null,
      message: configProblem?.message ?? null,
    },
    workers: rooms.workers.status(),
    feed: rooms.feed.status(),
    fleet: rooms.fleet.status(),
    ledger: {
      rows: revocationsIn(rooms),
      used: ledger.table.used,
      capacity: ledger.table.capacity,
      bytes: ledger.bytes,
      growths: ledger.growths,
      version: ledger.version,
    },
    policy: { ...rooms.bundles.status(), data: rooms.changes.status() },
    issuers: rooms.keys.status(),
    decision_log: rooms.decisions.status(),
  }
}

/** Number of revocations that are in force. */
function revocationsIn({ ledger, fleet }: Pick<GateRooms, 'ledger' | 'fleet'>): number {
  return ledger.rows - fleet.canaryRows
}

/** This gate's row in the table of gates, sent with each heartbeat. */
export function beatOf(rooms: GateRooms, gate: GateFacts): Beat {
  const { feed, ledger } = rooms
  const { revocation, routes, issuers, listen } = gate.config
  const ageMs = ledger.ageMs(monotonicUs(), Date.now())
  const certificates = listen.some(
    ({ tls, client_cert_form: form }) => tls?.client_ca !== undefined || form !== 'none',
  )
  const exchange = certificates ? ['network', 'client_cert'] : ['network']
  const { name: bundle, active_revision: revision } = rooms.bundles.status()
  const tolerant = routes.some(({ stale }) => stale === 'allow')
  return {
    host: hostname(),
    pid: process.pid,
    version: gate.version,
    started_at: gate.startedAt.toISOString(),
    ready: gate.readiness.ready,
    cursor: feed.status().cursor,
    age_ms: Number.isFinite(ageMs) ? ageMs : null,
    rows: revocationsIn(rooms),
    allows_ms: tolerant ? revocation.hard_stop : revocation.max_staleness,
    matches: matchedColumns(issuers, gate.peppers.length > 0, exchange),
    peppers: gate.peppers.map(pepperId),
    token_lifetime_ms: Math.max(
      0,
      ...issuers.map((issuer) => issuer.max_token_lifetime + 2 * issuer.clock_skew),
    ),
    policies: bundle === null ? {} : { [bundle]: revision! },
  }
}

/** Metrics as text for Prometheus. */
export function metricsOf(rooms: GateRooms, ready: boolean): string {
  const { ledger, workers, feed, fleet, cells } = rooms
  const { comparison_age_ms: comparisonMs, comparisons_overdue: overdue } = feed.status()
  const { gates, unmatched_rows } = fleet.status()
  return renderMetrics(
    cells.map((each) => new Metrics(each)),
    {
      dropgate_ready: ready ? 1 : 0,
      dropgate_live_exchanges: workers.live,
      dropgate_feed_age_seconds: ledger.ageMs(monotonicUs(), Date.now()) / 1000,
      // Left out where it is never looked at, so that no alert goes off.
      ...(comparisonMs === null
        ? {}
        : { dropgate_feed_comparison_age_seconds: comparisonMs / 1000 }),
      dropgate_feed_comparisons_overdue: overdue ? 1 : 0,
      dropgate_feed_wrong_triggers: feed.status().wrong_triggers.length,
      dropgate_ledger_rows: revocationsIn({ ledger, fleet }),
      dropgate_ledger_used: ledger.table.used,
      dropgate_ledger_capacity: ledger.table.capacity,
      dropgate_ledger_bytes: ledger.bytes,
      dropgate_fleet_gates: gates,
      dropgate_unmatched_revocations: unmatched_rows,
    },
  )
}
