/**
 * `regex.globs_match`: decides whether some text matches both of two globs (characters, `.`, `[sets]`, each with `+`
 * or `*`). It follows OPA's library (github.com/yashtewari/glob-intersection), including its peculiar results at the
 * end of a glob. Results are cached by position, so the cost grows with the product of the lengths, not
 * exponentially.
 */
import { BuiltinError, refuseWork } from '../values/operand.ts'

interface Token {
  /** Ranges of code points, inclusive, sorted, not overlapping; undefined for any character. */
  readonly ranges: readonly (readonly [number, number])[] | undefined
  readonly flag: '' | '+' | '*'
}
type Glob = readonly Token[]

const maxTokens = 1000
const maxSteps = 5_000_000

/** @throws BuiltinError */
export function globsIntersect(a: string, b: string): boolean {
  const trimmed = trim(tokens(a), tokens(b))
  return trimmed !== undefined && new Intersection(...trimmed).decide()
}

function tokens(glob: string): Glob {
  const chars = [...glob]
  const out: Token[] = []
  let at = 0

  const next = (): { char: string; escaped: boolean } => {
    const char = chars[at++]
    if (char === undefined) throw new BuiltinError('the glob ends too early')
    if (char !== '\\') return { char, escaped: false }
    const escapedChar = chars[at++]
    if (escapedChar === undefined) throw new BuiltinError('the glob ends with an unfinished escape')
    return { char: escapedChar, escaped: true }
  }

  const set = (): [number, number][] => {
    const ranges: [number, number][] = []
    let previous: number | undefined
    for (;;) {
      const { char, escaped } = next()
      if (!escaped && char === ']') return ranges
      if (!escaped && char === '-') {
        if (previous === undefined || at >= chars.length - 1) throw new BuiltinError('bad range')
        const to = next()
        const end = to.char.codePointAt(0)!
        if ((!to.escaped && /[\]-]/.test(to.char)) || end < previous) {
          throw new BuiltinError('bad range')
        }
        ranges.push([previous, end])
        previous = undefined
      } else {
        previous = char.codePointAt(0)!
        ranges.push([previous, previous])
      }
    }
  }

  while (at < chars.length) {
    const { char, escaped } = next()
    if (!escaped && /[\]+*]/.test(char)) throw new BuiltinError(`unexpected ${char}`)
    const code = char.codePointAt(0)!
    const ranges =
      escaped || !/[.[]/.test(char)
        ? [[code, code] as const]
        : char === '['
          ? merged(set())
          : undefined
    const flag = chars[at] === '+' || chars[at] === '*' ? (chars[at++] as '+' | '*') : ''
    const last = out.at(-1)
    if (flag !== '' && last !== undefined && last.flag !== '' && same(last, ranges)) {
      out[out.length - 1] = { ranges, flag: flag === '+' || last.flag === '+' ? '+' : '*' }
    } else out.push({ ranges, flag })
  }
  if (out.length > maxTokens) refuseWork('regex.globs_match with globs that are too long')
  return out
}

function merged(ranges: [number, number][]): [number, number][] {
  const out: [number, number][] = []
  for (const [from, to] of ranges.sort((a, b) => a[0] - b[0])) {
    const last = out.at(-1)
    if (last !== undefined && from <= last[1] + 1) last[1] = Math.max(last[1], to)
    else out.push([from, to])
  }
  return out
}

function same({ ranges }: Token, other: Token['ranges']): boolean {
  return String(ranges) === String(other)
}

function match(a: Token, b: Token): boolean {
  if (a.ranges === undefined || b.ranges === undefined) return true
  return a.ranges.some(([from, to]) =>
    b.ranges!.some((other) => from <= other[1] && to >= other[0]),
  )
}

/** Removes the tokens that both globs begin and end with. Returns undefined if the globs differ there. */
function trim(a: Glob, b: Glob): [Glob, Glob] | undefined {
  const plain = (x: Token | undefined, y: Token | undefined): boolean =>
    x?.flag === '' && y?.flag === ''
  let left = 0
  while (plain(a[left], b[left])) {
    if (!match(a[left]!, b[left]!)) return undefined
    left++
  }
  // Keep one token: the result for an empty glob would be different.
  if (left > 0) left--
  let [rightA, rightB] = [a.length - 1, b.length - 1]
  while (rightA >= left && rightB >= left && plain(a[rightA], b[rightB])) {
    if (!match(a[rightA]!, b[rightB]!)) return undefined
    rightA--
    rightB--
  }
  if (rightA < a.length - 1) {
    rightA++
    rightB++
  }
  return [a.slice(left, rightA + 1), b.slice(left, rightB + 1)]
}

type Side = 0 | 1

class Intersection {
  readonly #globs: readonly [Glob, Glob]
  readonly #results = new Map<number, boolean>()
  #steps = 0

  constructor(a: Glob, b: Glob) {
    this.#globs = [a, b]
  }

  decide(): boolean {
    return this.#normal(0, 0)
  }

  #normal(i: number, j: number): boolean {
    const [a, b] = this.#globs
    let [x, y] = [i, j]
    while (x < a.length && y < b.length && a[x]!.flag === '' && b[y]!.flag === '') {
      this.#step()
      if (!match(a[x++]!, b[y++]!)) return false
    }
    if (x === a.length || y === b.length) return x === a.length && y === b.length
    const side: Side = a[x]!.flag !== '' ? 0 : 1
    const [own, other] = side === 0 ? [x, y] : [y, x]
    return this.#globs[side][own]!.flag === '+'
      ? this.#plus(side, own, other)
      : this.#star(side, own, other)
  }

  #oriented(side: Side, own: number, other: number): boolean {
    return side === 0 ? this.#normal(own, other) : this.#normal(other, own)
  }

  #plus(side: Side, own: number, other: number): boolean {
    const [plussed, others] = [this.#globs[side], this.#globs[side === 0 ? 1 : 0]]
    if (!match(plussed[own]!, others[other]!)) return false
    if (this.#star(side, own, other + 1)) return true
    return others[other]!.flag !== '' && this.#oriented(side, own + 1, other)
  }

  #star(side: Side, own: number, other: number): boolean {
    const key = ((own * (maxTokens + 1) + other) << 1) | side
    const cached = this.#results.get(key)
    if (cached !== undefined) return cached
    const answer = this.#starred(side, own, other)
    this.#results.set(key, answer)
    return answer
  }

  #starred(side: Side, own: number, other: number): boolean {
    const [starred, others] = [this.#globs[side], this.#globs[side === 0 ? 1 : 0]]
    const next = starred[own + 1]
    for (let i = other; i < others.length; i++) {
      this.#step()
      if (next !== undefined && match(others[i]!, next) && this.#oriented(side, own + 1, i))
        return true
      if (!match(others[i]!, starred[own]!)) return false
    }
    return next === undefined
  }

  #step(): void {
    if (++this.#steps > maxSteps) refuseWork('regex.globs_match needs too many steps')
  }
}
