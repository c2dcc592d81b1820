/**
 * Waits for the request to stop: a signal, or the end of the npm that started this process, as `npm run` or as `npx`. npm
 * does not pass every signal on, and passes some only to a shell between the two; without this check the gate would go
 * on and hold its port.
 */
import { readFileSync } from 'node:fs'

export interface StopRequest {
  /** Name of the signal, or a sentence about another cause. */
  readonly cause: string
  /** A sentence that tells how to end the process without a drain. */
  readonly atOnce: string
}

/** How often the check for npm runs. */
const lookMs = 1000

/** Resolves at the first request to stop; a further signal ends the process at once. */
export function untilStopped(
  onRequest: (request: StopRequest) => void,
  signals: readonly NodeJS.Signals[] = ['SIGTERM', 'SIGINT'],
): Promise<void> {
  const underNpm = process.env.npm_command !== undefined
  // Below npm itself, Ctrl-C and a signal to the process group reach the gate twice: directly, and passed on by npm. A
  // shell in between gets what npm passes on.
  const twice = underNpm && parentOfShell() === undefined
  const enough = twice ? 3 : 2
  const atOnce = `a ${twice ? 'third' : 'second'} signal ends it at once`
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
    const before = parents()
    const look = (): void => {
      if (parents() === before) return
      clearInterval(looking)
      ask('npm has ended')
    }
    const looking = setInterval(look, lookMs).unref()
  })
}

/** The processes from this one's parent up to npm, as a text to compare. */
function parents(): string {
  return `${process.ppid} ${parentOfShell()}`
}

/**
 * npm runs a command by a shell. Some shells stay between npm and the command.
 * @returns the process of npm where a shell is the parent of this process; known only where there is a `/proc`
 */
function parentOfShell(): string | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${process.ppid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  return /^\d+ \(sh\) \S (\d+)/.exec(stat)?.[1]
}
