/** One tick's question and what its answer says. Never does: apply anything, decide what follows; that is feed.ts. */
import { monotonicUs } from '../domain/clock.ts'
import { type Changes, parseChanges } from './apply.ts'
import { type Cursor, checkIdent, gapAfter } from './cursor.ts'
import type { Session } from './session.ts'

/** A session that can be asked: that of the ticks, or that of a comparison. */
export type TickSource = Pick<Session, 'changes'>

export interface TickAnswer {
  readonly changes: Changes
  readonly sentAtUs: number
  readonly clockOffsetMs: number
  /** Why the answer does not tell all rows since the cursor; undefined where it does. */
  readonly gap: string | undefined
  /** The answer is a part and not the whole: nothing of it may be applied. */
  readonly overCap: boolean
}

/** @throws GateError ERR_DATABASE_SCHEMA when this release cannot follow the database that answers */
export async function askForChanges(source: TickSource, from: Cursor): Promise<TickAnswer> {
  const sentAtUs = monotonicUs()
  const result = await source.changes(from.seen)
  const receivedAtMs = Date.now()
  const changes = parseChanges(result)
  const { ident } = changes
  checkIdent(ident)
  return {
    changes,
    sentAtUs,
    // PostgreSQL read its clock before the answer came, so this offset is too early rather than too late.
    clockOffsetMs: ident.clock_ms - receivedAtMs,
    gap: gapAfter(from, ident),
    overCap: changes.partial,
  }
}
