/**
 * `regex.*` with the syntax and linear time of RE2 (library re2js); repeated matches are found like in Go's `regexp`.
 * A pattern or text may come from a request, so lengths are limited, and a call that looks for many matches ends
 * after a time limit.
 */
import { RE2JS } from 're2js'
import type { BuiltinTable } from '../builtin.ts'
import { type Args, BuiltinError, count, refuseWork, text } from '../values/operand.ts'
import type { Value } from '../values/value.ts'
import { globsIntersect } from './globs.ts'

const maxPattern = 4096
/** Limit for characters of the pattern times characters of the text: the cost of one match. */
const maxProduct = 1 << 27
/** Longest time in ms for all matches of one call. */
const maxMs = 250

const compiled = new Map<string, RE2JS>()
const maxCompiled = 200

/** @throws BuiltinError */
function compile(pattern: string): RE2JS {
  const cached = compiled.get(pattern)
  if (cached !== undefined) return cached
  if (pattern.length > maxPattern) refuseWork(`a pattern of more than ${maxPattern} characters`)
  if (!pattern.isWellFormed()) throw new BuiltinError('error parsing regexp: invalid UTF-8')
  let regex: RE2JS
  try {
    regex = RE2JS.compile(pattern)
  } catch (error) {
    throw new BuiltinError(`error parsing regexp: ${(error as Error).message}`)
  }
  if (compiled.size >= maxCompiled) compiled.delete(compiled.keys().next().value!)
  compiled.set(pattern, regex)
  return regex
}

/** Start and end of a match and of its groups; -1 for a group that did not match. */
type Match = readonly number[]

class Search {
  readonly #matcher: ReturnType<RE2JS['matcher']>
  readonly #until = performance.now() + maxMs

  constructor(regex: RE2JS, subject: string) {
    if (regex.pattern().length * subject.length > maxProduct)
      refuseWork('the text is too long for this pattern')
    this.#matcher = regex.matcher(subject)
  }

  /** Returns the first match that begins at or after `at`. */
  from(at: number): Match | undefined {
    if (performance.now() > this.#until) refuseWork(`more than ${maxMs} ms of matching`)
    if (!this.#matcher.find(at)) return undefined
    const match: number[] = []
    for (let group = 0; group <= this.#matcher.groupCount(); group++) {
      match.push(this.#matcher.start(group), this.#matcher.end(group))
    }
    return match
  }
}

/** Returns the length of the character at a position, 1 at the end. */
function step(subject: string, at: number): number {
  return (subject.codePointAt(at) ?? 0) > 0xffff ? 2 : 1
}

/**
 * Finds all matches like Go's `FindAll`, which skips an empty match right after another match.
 * @param most Most matches to return; all if negative.
 */
function findAll(regex: RE2JS, subject: string, most: number): Match[] {
  const search = new Search(regex, subject)
  const found: Match[] = []
  let [at, previousEnd] = [0, -1]
  while (at <= subject.length && (most < 0 || found.length < most)) {
    const match = search.from(at)
    if (match === undefined) break
    const [start, end] = match as [number, number]
    const isEmptyAfterOther = end === at && start === previousEnd
    at = end === at ? at + step(subject, at) : end
    previousEnd = end
    if (!isEmptyAfterOther) found.push(match)
  }
  return found
}

/** @throws BuiltinError when the pattern is invalid. */
export function matches(pattern: string, subject: string): boolean {
  return new Search(compile(pattern), subject).from(0) !== undefined
}

function find(args: Args): Value {
  const subject = text(args, 1)
  const matches = findAll(compile(text(args, 0)), subject, count(args, 2))
  return matches.map(([start, end]) => subject.slice(start, end))
}

function isValid(pattern: Value): boolean {
  if (typeof pattern !== 'string') return false
  try {
    compile(pattern)
    return true
  } catch (error) {
    if (error instanceof BuiltinError) return false
    throw error
  }
}

/** All matches with their groups; a group that did not match is an empty text. */
function findGroups(args: Args): Value {
  const subject = text(args, 1)
  const matches = findAll(compile(text(args, 0)), subject, count(args, 2))
  return matches.map((match) =>
    Array.from({ length: match.length / 2 }, (_, i) =>
      match[2 * i]! < 0 ? '' : subject.slice(match[2 * i], match[2 * i + 1]),
    ),
  )
}

function split(args: Args): Value {
  const [pattern, subject] = [text(args, 0), text(args, 1)]
  const regex = compile(pattern)
  if (pattern !== '' && subject === '') return ['']
  const parts: string[] = []
  let [begin, end] = [0, 0]
  for (const [start, stop] of findAll(regex, subject, -1) as [number, number][]) {
    end = start
    if (stop !== 0) parts.push(subject.slice(begin, end))
    begin = stop
  }
  if (end !== subject.length) parts.push(subject.slice(begin))
  return parts
}

function replace(args: Args): string {
  const [subject, template] = [text(args, 0), text(args, 2)]
  const regex = compile(text(args, 1))
  const search = new Search(regex, subject)
  let [out, lastEnd, at] = ['', 0, 0]
  while (at <= subject.length) {
    const match = search.from(at)
    if (match === undefined) break
    const [start, end] = match as [number, number]
    out += subject.slice(lastEnd, start)
    if (end > lastEnd || start === 0) out += expand(template, match, subject, regex)
    if (out.length > maxProduct) refuseWork('regex.replace would write too much')
    lastEnd = end
    at = Math.max(end, at + step(subject, at))
  }
  return out + subject.slice(lastEnd)
}

/** Expands `$1`, `${name}` and `$$`. A dollar sign without a name or number stays as it is. */
function expand(template: string, match: Match, subject: string, regex: RE2JS): string {
  let out = ''
  let rest = template
  for (;;) {
    const dollar = rest.indexOf('$')
    if (dollar === -1) return out + rest
    out += rest.slice(0, dollar)
    rest = rest.slice(dollar + 1)
    if (rest.startsWith('$')) {
      out += '$'
      rest = rest.slice(1)
      continue
    }
    const named = /^(?:([\p{L}\p{Nd}_]+)|\{([\p{L}\p{Nd}_]+)\})/u.exec(rest)
    if (named === null) {
      out += '$'
      continue
    }
    rest = rest.slice(named[0].length)
    const name = named[1] ?? named[2]!
    const isNumber = /^(?:0|[1-9][0-9]{0,8})$/.test(name)
    const group = isNumber ? Number(name) : regex.re2Input.namedGroups[name]
    if (group === undefined) continue
    const start = match[group * 2] ?? -1
    if (start >= 0) out += subject.slice(start, match[group * 2 + 1])
  }
}

/** Matches a template such as `urn:foo:{.*}`: literal text, with patterns between the delimiters. */
function templateMatch(args: Args): boolean {
  const [template, subject, open, close] = [0, 1, 2, 3].map((at) => text(args, at)) as [
    string,
    string,
    string,
    string,
  ]
  if (Buffer.byteLength(open) !== 1 || Buffer.byteLength(close) !== 1) {
    throw new BuiltinError('delimiters have to be exactly one character long')
  }
  let [pattern, from, level, begin] = ['^', 0, 0, 0]
  for (let i = 0; i < template.length; i++) {
    if (template[i] === open) {
      if (++level === 1) begin = i
    } else if (template[i] === close) {
      if (--level < 0) throw new BuiltinError('unbalanced braces')
      if (level > 0) continue
      const inner = template.slice(begin + 1, i)
      compile(`^${inner}$`)
      pattern += `${RE2JS.quote(template.slice(from, begin))}(${inner})`
      from = i + 1
    }
  }
  if (level !== 0) throw new BuiltinError('unbalanced braces')
  const regex = compile(`${pattern}${RE2JS.quote(template.slice(from))}$`)
  return new Search(regex, subject).from(0) !== undefined
}

export const regexBuiltins: BuiltinTable = {
  'regex.match': { call: (args) => matches(text(args, 0), text(args, 1)) },
  'regex.is_valid': { call: (args) => isValid(args[0]!) },
  'regex.find_all_string_submatch_n': { call: findGroups },
  'regex.find_n': { call: find },
  'regex.split': { call: split },
  'regex.replace': { call: replace },
  'regex.template_match': { call: templateMatch },
  'regex.globs_match': { call: (args) => globsIntersect(text(args, 0), text(args, 1)) },
  'glob.quote_meta': { call: (args) => text(args, 0).replace(/[*?\\[\]{}]/g, '\\$&') },
}
