/**
 * Clock: the monotonic clock that all threads of a process share. Not: wall time, `performance.now()` (which differs
 * per thread).
 */

const tries = 100

/**
 * Microseconds to add to `performance.now()` of this thread to get the process-wide clock; measured once. The thread
 * may lose the CPU between two readings, which would make it wrong for ever, so the fastest of many measurements is
 * used.
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

/** Returns a function for long loops: after `sliceMs` of work it lets other events of this thread run. */
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

/** Returns monotonic µs since an arbitrary moment, the same on every thread of the process. Allocates nothing. */
export function monotonicUs(): number {
  return performance.now() * 1e3 + threadOffsetUs
}

let isoMs = -1
let iso = ''

/**
 * Formats a time as RFC 3339 in UTC with ms. The last text is cached: many requests share one ms, and formatting is
 * costly.
 */
export function rfc3339(wallMs: number): string {
  if (wallMs !== isoMs) {
    isoMs = wallMs
    iso = new Date(wallMs).toISOString()
  }
  return iso
}
