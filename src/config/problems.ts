/**
 * What is wrong with a configuration, gathered while it is read, so that all of it can be said at once. A command that
 * uses a part of the configuration hears of that part only: a mistake in a route must not keep anybody from revoking.
 */
import { type Code, GateError, type Problem } from '../errors.ts'

const maxShown = 20

export class Problems {
  /** By path; the first says it all: one leaf can fail several checks. */
  readonly #found = new Map<string, Problem>()
  readonly #uses: readonly string[]

  /** @param uses Paths of what is used, without indices: `routes.decision`; '' is everything. */
  constructor(uses: readonly string[]) {
    this.#uses = uses
  }

  /** @param path Of the key, '' for the file. */
  add(code: Code, path: string, message: string): void {
    if (!this.#found.has(path)) this.#found.set(path, { code, path, message })
  }

  has(path: string): boolean {
    return this.#found.has(path)
  }

  /** Nothing is wrong with it, with what is above it or below it: it may be looked at more closely. */
  sound(path: string): boolean {
    return ![...this.#found.keys()].some((found) => overlaps(found, path))
  }

  /** Whether it is used, or a part of it, or it is a part of what is used. */
  concerns(path: string): boolean {
    const plain = path.replace(/\[\d+\]/g, '')
    return this.#uses.some((use) => overlaps(use, plain))
  }

  /** @throws GateError with the code of the first problem, the message one line for each. */
  raise(): void {
    // What is not used was left out before: an unknown key that is there was meant for what is.
    const problems = [...this.#found.values()].filter(
      ({ code, path }) => code === 'ERR_CONFIG_KEY_UNKNOWN' || this.concerns(path),
    )
    const [first] = problems
    if (first === undefined) return
    const lines = problems.map(({ path, message }) => `${path || 'the file'}: ${message}`)
    const more = lines.splice(maxShown).length
    if (more > 0) lines.push(`and ${more} more`)
    throw new GateError(first.code, lines.join('\n'), {
      hint: 'all options are in the README and in dropgate.schema.json',
      problems,
    })
  }
}

function overlaps(a: string, b: string): boolean {
  const [short, long] = a.length < b.length ? [a, b] : [b, a]
  return short === '' || (long.startsWith(short) && /^(?:$|[.[])/.test(long.slice(short.length)))
}
