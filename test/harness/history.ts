/**
 * Is what callers saw explained by some order of what writers did? Each subject is a register of its own that is revoked or
 * not; writes to one subject follow one another. A request may see any state that was current at some moment from `boundMs`
 * before it began until it ended, and nothing else; a 503 claims nothing.
 */
export interface Write {
  readonly kind: 'revoke' | 'lift'
  readonly subject: string
  readonly beganMs: number
  /** When its commit was acknowledged. */
  readonly endedMs: number
}

export interface Read {
  readonly subject: string
  readonly gate: string
  readonly beganMs: number
  readonly endedMs: number
  readonly saw: 'allowed' | 'revoked' | 'unavailable'
}

/** @returns a sentence for each read that no order explains */
export function unexplained(
  writes: readonly Write[],
  reads: readonly Read[],
  boundMs: number,
): string[] {
  const bySubject = Map.groupBy(writes, ({ subject }) => subject)
  const found: string[] = []
  for (const read of reads) {
    if (read.saw === 'unavailable') continue
    const history = bySubject.get(read.subject) ?? []
    const wanted = read.saw === 'revoked' ? 'revoke' : 'lift'
    if (!possible(history, wanted, read.beganMs - boundMs, read.endedMs)) {
      found.push(
        `${read.gate}: ${read.subject} ${read.saw} by a request of ${read.beganMs.toFixed(1)} to ${read.endedMs.toFixed(1)}`,
      )
    }
  }
  return found
}

/** Whether the state that `wanted` leaves may have been current at some moment of the interval. */
function possible(
  history: readonly Write[],
  wanted: Write['kind'],
  fromMs: number,
  toMs: number,
): boolean {
  // Before the first write no subject is revoked.
  if (wanted === 'lift' && (history[0]?.endedMs ?? Infinity) >= fromMs) return true
  return history.some(({ kind, beganMs }, i) => {
    if (kind !== wanted || beganMs > toMs) return false
    const next = history[i + 1]
    // Current from some moment after it began to some moment before the next one was acknowledged.
    return next === undefined || next.endedMs >= fromMs
  })
}
