/** Clock: the monotonic clock that all threads of one process share. Not: wall time, `performance.now()` (per thread). */

/** Monotonic µs since an arbitrary moment, the same scale on every thread of the process. */
export function monotonicUs(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1e6 + nanoseconds / 1e3
}
