/**
 * Waits until something is so; fails with what it was waiting for. As long as a machine may need that is busy with much else.
 * It asks less and less often, 100 times a second in the end: to ask may cost the process under test more than what is awaited.
 */
export async function until(
  what: string | (() => string),
  done: () => boolean | Promise<boolean>,
  ms = 30_000,
): Promise<void> {
  const end = Date.now() + ms
  for (let waitMs = 2; !(await done()); waitMs = Math.min(waitMs * 1.1, 10)) {
    if (Date.now() > end) {
      throw new Error(`waited ${ms} ms for: ${typeof what === 'string' ? what : what()}`)
    }
    await pause(waitMs)
  }
}

/**
 * What a test file starts at its top, before its first test. An error there ends the file before it has told tap anything,
 * so that the file would only have "broken off". So the error gets a name and is told to tap as a test that failed. Within
 * a test tap reports the error itself.
 */
export async function started<T>(what: string, starting: Promise<T>): Promise<T> {
  try {
    return await starting
  } catch (cause) {
    const error = new Error(`${what} did not start: ${(cause as Error).message}`, { cause })
    if (process.env.TAP === '1') {
      const { default: t } = await import('tap')
      if (!t.occupied) t.fail(error.message)
    }
    throw error
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** A small generator with a printed seed (mulberry32), so that a failing run can be repeated. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

export function seedOf(): number {
  return Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
}
