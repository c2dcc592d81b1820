/**
 * How a process that serves is asked to stop: by a signal, or by the end of the npm that started it. npm passes SIGTERM and
 * SIGINT on and waits; it dies of every other signal, and without this the gate would go on, its port held.
 */
import { startedByNpm } from './output.ts'

export interface Asked {
  /** The signal, or what else it was. */
  readonly cause: string
  /** What ends the process without a drain, as a sentence. */
  readonly atOnce: string
}

/** How often it is looked whether npm is there. */
const lookMs = 500

/** Resolves when it is first asked; asked again by a signal, the process ends at once. */
export function untilStopped(
  onAsked: (asked: Asked) => void,
  signals: readonly NodeJS.Signals[] = ['SIGTERM', 'SIGINT'],
): Promise<void> {
  const underNpm = startedByNpm()
  // Ctrl-C, and what stops a whole group of processes, reaches the gate twice under npm: by itself, and passed on.
  const enough = underNpm ? 3 : 2
  const atOnce = `a ${underNpm ? 'third' : 'second'} signal ends it at once`
  return new Promise((resolve) => {
    let asked = false
    let received = 0
    const ask = (cause: string): void => {
      if (asked) return
      asked = true
      onAsked({ cause, atOnce })
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
