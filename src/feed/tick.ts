/** Sends the query of one tick and reads its answer. Never does: apply anything, decide what follows (feed.ts does). */
import { monotonicUs } from '../domain/clock.ts'
import { type Changes, parseChanges } from './apply.ts'
import { type Cursor, checkIdent, gapAfter } from './cursor.ts'
import type { Touched } from './history.ts'
import type { Session } from './session.ts'

/** A session that can answer a tick: the feed's own, or that of a comparison. */
export type TickSource = Pick<Session, 'changes'>

export interface TickAnswer {
  readonly changes: Changes
  readonly sentAtUs: number
  readonly clockOffsetMs: number
  /** Why the answer cannot contain all changes since the cursor; undefined when it does. */
  readonly gap: string | undefined
  /** The answer is incomplete: nothing of it may be applied. */
  readonly overCap: boolean
}

/**
 * @param again Rows to be read whenever they were written.
 * @throws GateError ERR_DATABASE_SCHEMA when this release cannot follow the database that answers
 */
export async function askForChanges(
  source: TickSource,
  from: Cursor,
  again: readonly Touched[],
): Promise<TickAnswer> {
  const sentAtUs = monotonicUs()
  const result = await source.changes(from.snapshot, again)
  const receivedAtMs = Date.now()
  const changes = parseChanges(result, again)
  const { ident } = changes
  checkIdent(ident)
  return {
    changes,
    sentAtUs,
    // PostgreSQL read its clock before the answer arrived, so this offset is too low rather than too high.
    clockOffsetMs: ident.clock_ms - receivedAtMs,
    gap: gapAfter(from, ident),
    overCap: changes.partial,
  }
}
