/**
 * Collects the problems of a configuration while it is read, so that all can be reported together. A command that
 * uses one part of the configuration is told about that part only: a mistake in a route must not stop an operator
 * from revoking.
 */
import { resolve } from 'node:path'
import { type Code, GateError, type Problem } from '../errors.ts'

/** Adds a problem with the option of this path. */
export type AddProblem = (path: string, message: string) => void

const maxShown = 20
/** A value of fewer characters is left in the messages about other options. */
const leastSecret = 8

export class Problems {
  /** Keyed by path. Only the first problem of a path is kept: one wrong value can fail several checks. */
  readonly #found = new Map<string, Problem>()
  readonly #uses: readonly string[]
  readonly #without: readonly string[]
  /** Values that were read from files, by the path of the option. */
  readonly #secrets = new Map<string, string>()

  /**
   * @param uses Paths of the used options, without list indices: `routes.decision`; '' means everything.
   * @param without Paths of options that are not used although `uses` contains them.
   */
  constructor(uses: readonly string[], without: readonly string[] = []) {
    this.#uses = uses
    this.#without = without
  }

  /** @param path Path of the key, '' for the file as a whole. */
  add(code: Code, path: string, message: string): void {
    if (!this.#found.has(path)) this.#found.set(path, { code, path, message })
  }

  /** Keeps a value that was read from a file, such as a password, out of every message. */
  hide(path: string, text: string): void {
    this.#secrets.set(path, text)
  }

  hides(path: string): boolean {
    return this.#secrets.has(path)
  }

  /** A message may name the value as a path that cannot be read. Short values, such as a port, stand in other words too. */
  #withoutSecrets(message: string): string {
    return [...this.#secrets.values()]
      .flatMap((text) => [text, resolve('/', text).slice(1)])
      .filter((text) => text.length >= leastSecret)
      .reduce(
        (said, text) => said.replaceAll(text, '(not shown, it was read from a file)'),
        message,
      )
  }

  has(path: string): boolean {
    return this.#found.has(path)
  }

  /**
   * Returns true if neither this option nor any option above or below it has a problem, so that it can be checked
   * further.
   */
  sound(path: string): boolean {
    return ![...this.#found.keys()].some((found) => overlaps(found, path))
  }

  /** Returns true if the path is used, contains a used path, or lies inside a used path. */
  concerns(path: string): boolean {
    const plain = path.replace(/\[\d+\]/g, '')
    return !this.#without.includes(plain) && this.#uses.some((use) => overlaps(use, plain))
  }

  /** @throws GateError with the code of the first problem; the message has one line for each problem. */
  raise(): void {
    // Options that are not used were removed before. An unknown key that is still here is a misspelt used option:
    // report it.
    const problems = [...this.#found.values()]
      .filter(({ code, path }) => code === 'ERR_CONFIG_KEY_UNKNOWN' || this.concerns(path))
      .map((problem) => ({ ...problem, message: this.#withoutSecrets(problem.message) }))
    const [first] = problems
    if (first === undefined) return
    const lines = problems.map(({ path, message }) => `${path || 'the file'}: ${message}`)
    const more = lines.splice(maxShown).length
    if (more > 0) lines.push(`and ${more} more problems`)
    throw new GateError(first.code, lines.join('\n'), {
      hint: 'docs/reference/configuration.md and dropgate.schema.json have all options',
      problems,
    })
  }
}

function overlaps(a: string, b: string): boolean {
  const [short, long] = a.length < b.length ? [a, b] : [b, a]
  return short === '' || (long.startsWith(short) && /^(?:$|[.[])/.test(long.slice(short.length)))
}
