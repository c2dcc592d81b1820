/** Says what the demo is doing: one line for each step, with the seconds that it took. */
import type { Log } from '../../domain/log.ts'

/** How often the seconds of a running step are written anew, on a terminal. */
const tellMs = 1000

export class Steps {
  #what: string | undefined
  #since = 0
  #ticking: NodeJS.Timeout | undefined

  /** Begins a step; the one before has ended. */
  begin(what: string): void {
    this.end()
    this.#what = what
    this.#since = performance.now()
    process.stdout.write(`${what} ... `)
    if (!process.stdout.isTTY) return
    const tell = (): void => {
      process.stdout.write(`\r${what} ... ${Math.floor(this.#ms() / 1000)} s`)
    }
    this.#ticking = setInterval(tell, tellMs).unref()
  }

  /** Ends the step that runs, if there is one. */
  end(): void {
    if (this.#what === undefined) return
    clearInterval(this.#ticking)
    const before = process.stdout.isTTY ? `\r${this.#what} ... ` : ''
    process.stdout.write(`${before}${(this.#ms() / 1000).toFixed(1)} s\n`)
    this.#what = undefined
  }

  /** Prints a message on a line of its own. The step that runs goes on, on the next line. */
  say(message: string): void {
    const what = this.#what
    process.stdout.write(`${what === undefined ? '' : '\n'}${message}\n`)
    if (what !== undefined) process.stdout.write(`${what} ... `)
  }

  #ms(): number {
    return performance.now() - this.#since
  }
}

/**
 * The gate's log in the demo: its terminal is for the steps and the commands to paste, so only steps and problems are
 * printed at first, and changes later.
 */
export class ShortLog implements Log {
  talks = false
  readonly #steps: Steps

  constructor(steps: Steps) {
    this.#steps = steps
  }

  info(details: object, message: string): void {
    if (this.talks) this.#steps.say(message)
    else if ('step' in details) this.#steps.begin(message)
  }

  warn(_details: object, message: string): void {
    this.#steps.say(message)
  }

  error(_details: object, message: string): void {
    this.#steps.say(message)
  }
}
