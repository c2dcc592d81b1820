/** Decides whether the gate is ready, and lists what is missing: for `/readyz`, `status` and a takeover. */
import { monotonicUs } from '../domain/clock.ts'
import type { PolicyPackage } from '../policy/package.ts'
import type { GateRooms, ReadyAnswer } from './rooms.ts'

export interface Readiness {
  readonly draining: boolean
  /** Every route needs a token. */
  readonly tokensOnly: boolean
  /** The policy that every worker should use. */
  readonly active: PolicyPackage | undefined
  readonly maxStalenessMs: number
}

type Rooms = Pick<GateRooms, 'workers' | 'ledger' | 'feed' | 'fleet' | 'keys'>

/** Ready means: each worker is listening, `missingParts` finds nothing missing, and some request can be let in. */
export function readinessOf(rooms: Rooms, state: Readiness): ReadyAnswer {
  const reasons = missingParts(rooms, state)
  const warnings = warningsOf(rooms.feed)
  const { workers } = rooms
  // One issuer that is away must not take every gate out of a load balancer: the tokens of the others are still let in.
  const { names, all } = keylessIssuers(rooms.keys)
  const serves = !workers.waiting && !(all && state.tokensOnly)
  const target = serves ? warnings : reasons
  target.push(...names)
  if (workers.waiting)
    reasons.push('waiting to take over the port until the gate is otherwise ready')
  else if (!workers.allListening) reasons.push('not every worker is listening')
  return { ready: reasons.length === 0, reasons, warnings }
}

/**
 * Comparisons are a second net: the first one, ticks, is proved by freshness. So a gate without them stays ready, or a
 * fault of comparisons would take every gate away at once.
 */
function warningsOf(feed: Rooms['feed']): string[] {
  return feed.status().comparisons_overdue
    ? ['comparisons of the revocations with the database do not happen, see the log']
    : []
}

interface Keyless {
  /** One text for each issuer without keys. */
  readonly names: readonly string[]
  /** There are issuers, and none has keys. */
  readonly all: boolean
}

export function keylessIssuers(keys: Pick<Rooms['keys'], 'status'>): Keyless {
  const issuers = keys.status()
  const names = issuers
    .filter((each) => each.keys === 0)
    .map(({ issuer, code }) => `no keys of the issuer ${issuer}${withCode(code)}`)
  return { names, all: names.length > 0 && names.length === issuers.length }
}

/** Everything that is missing, except keys of issuers and that the workers listen. */
export function missingParts(rooms: Rooms, state: Readiness): string[] {
  const { workers, ledger, feed, fleet } = rooms
  const reasons: string[] = []
  const { draining, active, maxStalenessMs } = state
  if (draining) reasons.push('the gate is draining')
  if (active === undefined) reasons.push('no policy bundle is active')
  else if (!workers.allActive(active.generation))
    reasons.push('not every worker has the active policy')
  const why = withCode(feed.status().code)
  if (!ledger.loaded) reasons.push(`the revocations are not loaded${why}`)
  else if (ledger.broken) reasons.push('the ledger cannot hold every revocation')
  else if (ledger.ageMs(monotonicUs(), Date.now()) > maxStalenessMs)
    reasons.push(`the revocation feed is stale${why}`)
  else if (fleet.missesCanary)
    reasons.push('a revocation that was written to measure (a canary) is not in force')
  return reasons
}

/** Only the error code: the message may name a host, a login or a database, and `/readyz` is open to everyone. */
function withCode(code: string | null): string {
  return code === null ? '' : ` (${code})`
}
