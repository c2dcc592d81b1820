/**
 * Is a history of one register linearizable: can each operation be given one moment between its call and its return so that,
 * in the order of these moments, every read sees the last write? Search by Wing and Gong, with the memory of Lowe: a set
 * of placed operations is tried once for each value. There is one writer: its writes are placed in the order of their calls.
 */

export interface Operation<V> {
  readonly kind: 'write' | 'read'
  readonly value: V
  /** ms on one clock. */
  readonly call: number
  /** `Infinity` where its effect may come at any later time. */
  readonly return: number
}

/** @returns the operations that no order explains: the longest explained prefix and what could not follow it; else undefined. */
export function unexplained<V>(
  initial: V,
  history: readonly Operation<V>[],
): { readonly placed: number; readonly stuck: readonly Operation<V>[] } | undefined {
  const ops = [...history].sort((a, b) => a.call - b.call)
  const tried = new Set<string>()
  let best = -1
  let stuck: readonly Operation<V>[] = []
  // Placed operations as the first that is not, and those beyond it that are: few, since few overlap.
  const search: { from: number; ahead: readonly number[]; value: V }[] = [
    { from: 0, ahead: [], value: initial },
  ]
  for (let at = search.pop(); at !== undefined; at = search.pop()) {
    let { from } = at
    const ahead = new Set(at.ahead)
    while (ahead.delete(from)) from++
    const key = `${from} ${[...ahead].sort((a, b) => a - b).join()} ${String(at.value)}`
    if (tried.has(key)) continue
    tried.add(key)
    if (from === ops.length) return undefined
    // Whatever is called before the first return among those left may be next.
    const open: number[] = []
    let deadline = Number.POSITIVE_INFINITY
    for (let i = from; i < ops.length && ops[i]!.call <= deadline; i++) {
      if (ahead.has(i)) continue
      open.push(i)
      deadline = Math.min(deadline, ops[i]!.return)
    }
    const next = open.filter((i) => ops[i]!.call <= deadline)
    if (from + ahead.size > best) {
      best = from + ahead.size
      stuck = next.map((i) => ops[i]!)
    }
    for (const i of next.reverse()) {
      const { kind, value } = ops[i]!
      if (kind === 'read' && value !== at.value) continue
      if (kind === 'write' && open.some((j) => j < i && ops[j]!.kind === 'write')) continue
      search.push({ from, ahead: [...ahead, i], value })
    }
  }
  return { placed: best, stuck }
}
