/** Clock: the monotonic clock that all threads of one process share. Not: wall time, `performance.now()` (per thread). */

/** What this thread's `performance.now()` lacks of the process-wide scale, µs; taken once. */
const threadOffsetUs = ((): number => {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1e6 + nanoseconds / 1e3 - performance.now() * 1e3
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
