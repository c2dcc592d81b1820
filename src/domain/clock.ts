/** Clock: the monotonic clock that all threads of one process share. Not: wall time, `performance.now()` (per thread). */

const tries = 100

/**
 * What this thread's `performance.now()` lacks of the process-wide scale, µs; taken once. A thread may lose the CPU
 * between two readings, and would be late by as much for ever: of many tries the tightest counts.
 */
const threadOffsetUs = ((): number => {
  let offsetUs = 0
  let tightestMs = Number.POSITIVE_INFINITY
  for (let i = 0; i < tries; i++) {
    const before = performance.now()
    const [seconds, nanoseconds] = process.hrtime()
    const after = performance.now()
    if (after - before >= tightestMs) continue
    tightestMs = after - before
    offsetUs = seconds * 1e6 + nanoseconds / 1e3 - ((before + after) / 2) * 1e3
  }
  return offsetUs
})()

/** Lets the event loop turn when the caller has worked for a slice; nothing else is waited for. */
export function breather(sliceMs: number): () => Promise<void> | undefined {
  let since = performance.now()
  return () => {
    if (performance.now() - since < sliceMs) return undefined
    return new Promise((resolve) =>
      setImmediate(() => {
        since = performance.now()
        resolve()
      }),
    )
  }
}

/** Monotonic µs since an arbitrary moment, the same scale on every thread of the process. Allocates nothing. */
export function monotonicUs(): number {
  return performance.now() * 1e3 + threadOffsetUs
}

let isoMs = -1
let iso = ''

/** RFC 3339 in UTC, to the ms. Many requests share one ms, and the text is dear. */
export function rfc3339(wallMs: number): string {
  if (wallMs !== isoMs) {
    isoMs = wallMs
    iso = new Date(wallMs).toISOString()
  }
  return iso
}
