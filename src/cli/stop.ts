/**
 * Waits for the request to stop: a signal, or the end of the npm that started this process. npm passes SIGTERM and
 * SIGINT on and waits; every other signal ends npm alone, and without this check the gate would go on and hold its
 * port.
 */
import { startedByNpm } from './output.ts'

export interface StopRequest {
  /** Name of the signal, or a sentence about another cause. */
  readonly cause: string
  /** A sentence that tells how to end the process without a drain. */
  readonly atOnce: string
}

/** How often the parent process is checked. */
const lookMs = 500

/** Resolves at the first request to stop; a further signal ends the process at once. */
export function untilStopped(
  onRequest: (request: StopRequest) => void,
  signals: readonly NodeJS.Signals[] = ['SIGTERM', 'SIGINT'],
): Promise<void> {
  const underNpm = startedByNpm()
  // Under npm, Ctrl-C and a signal to the process group reach the gate twice: directly, and passed on by npm.
  const enough = underNpm ? 3 : 2
  const atOnce = `a ${underNpm ? 'third' : 'second'} signal ends it at once`
  return new Promise((resolve) => {
    let asked = false
    let received = 0
    const ask = (cause: string): void => {
      if (asked) return
      asked = true
      onRequest({ cause, atOnce })
      resolve()
    }
    for (const signal of signals) {
      process.on(signal, () => {
        received++
        if (received >= enough) process.exit(1)
        ask(signal)
      })
    }
    if (!underNpm) return
    const npm = process.ppid
    const look = (): void => {
      if (process.ppid === npm) return
      clearInterval(looking)
      ask('npm has ended')
    }
    const looking = setInterval(look, lookMs).unref()
  })
}
