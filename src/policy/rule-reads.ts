/**
 * What one rule reads of its parameters, and which of them it gives back. Each rule is looked at once, after the rules
 * that it calls: what a callee reads of a parameter, the caller reads of the value that it hands over. So the work grows with the
 * code, not with the number of ways through it.
 */
import type { Flow, Step } from './flow.ts'
import { beside, Held, Made, Member } from './held.ts'
import type { Work } from './rule-outline.ts'

/** A parameter of a rule, or of all rules of a type. */
export interface ParamOf {
  readonly callee: number
  readonly param: number
  /** True when the callee is any rule with the type `callee`. */
  readonly any: boolean
}

export class RuleReads {
  /** The parameters, with what the rule itself reads of them. */
  readonly params: readonly Member[]
  /** For each parameter: the parameters of other rules that get the very same value. */
  readonly handedOn: readonly Map<string, ParamOf>[]
  readonly result = new Held()

  constructor(params: number) {
    this.params = Array.from({ length: params }, (_, i) => new Member(i))
    this.handedOn = this.params.map(() => new Map())
  }

  /** For code that is not understood. */
  static ofEverything(params: number): RuleReads {
    const reads = new RuleReads(params)
    for (const param of reads.params) param.read()
    reads.result.beside = beside.anything
    return reads
  }
}

/** What is known of the rules that are called. */
export interface KnownRules {
  /** Undefined for a rule that is not looked at yet, since it calls itself in the end. */
  reads(callee: number): RuleReads | undefined
  /** All that the rule and those to which it hands the parameter on read of it. */
  allReads(callee: number, param: number): Member
}

/** More rounds than any policy needs; a rule that needs more counts as reading everything. */
const maxRounds = 20
/** Objects that a rule gives back and whose content callers tell apart. */
const maxMadeGivenBack = 30

/** @param params Number of the rule's parameters */
export function readsOf(flow: Flow, params: number, rules: KnownRules, work: Work): RuleReads {
  return new Solver(flow.steps, flow.loops, params, rules, work).run()
}

/** As `readsOf`, for what `eval` does for one entrypoint: parameter 0 is the input, 1 the data. */
export function readsOfEntry(flow: Flow, entry: number, rules: KnownRules, work: Work): RuleReads {
  const steps = [...flow.steps, ...(flow.byEntry.get(entry) ?? [])]
  return new Solver(steps, flow.loops, 2, rules, work).run()
}

class Solver {
  readonly #steps: readonly Step[]
  readonly #loops: boolean
  readonly #rules: KnownRules
  readonly #work: Work
  readonly #reads: RuleReads
  readonly #values = new Map<Step, Held>()
  /** The objects that steps make; for a call also the copies of those that the callee made. */
  readonly #made = new Map<Step | Made, Made>()
  readonly #copies = new Map<Step, Map<Made, Made>>()
  #changed = false

  constructor(
    steps: readonly Step[],
    loops: boolean,
    params: number,
    rules: KnownRules,
    work: Work,
  ) {
    this.#steps = steps
    this.#loops = loops
    this.#rules = rules
    this.#work = work
    this.#reads = new RuleReads(params)
  }

  run(): RuleReads {
    for (let round = 0; ; round++) {
      if (round === maxRounds) return RuleReads.ofEverything(this.#reads.params.length)
      this.#changed = false
      for (const step of this.#steps) this.#take(step)
      // Without loops and without objects that are filled later, nothing can follow from a later step.
      if (!this.#changed || !(this.#loops || this.#made.size > 0)) break
    }
    // Comparisons come last: all values must be known to tell whether both sides are the same.
    for (const step of this.#steps) if (step.kind === 'compare') this.#compare(step)
    limitMade(this.#reads.result, this.#work)
    return this.#reads
  }

  /** Takes one step: adds to what its value may be, and to what is read. */
  #take(step: Step): void {
    const work = this.#work
    work.spend(1)
    switch (step.kind) {
      case 'param':
        this.#values.set(step, this.#reads.params[step.index]!.held)
        return
      case 'either':
        if (step.live) for (const each of step.of) this.#add(step, this.#value(each))
        return
      case 'get':
        this.#add(step, this.#get(step.value, step.key))
        return
      case 'get-or':
        // A key that is no constant may be a path of keys.
        if (step.key.kind === 'text') this.#add(step, this.#get(step.value, step.key))
        else this.#readAll([step.value, step.key], step)
        this.#add(step, this.#value(step.otherwise))
        return
      case 'new':
        this.#madeBy(step)
        return
      case 'copy':
        if (this.#madeBy(step).copyFrom(this.#value(step.of), work)) this.#changed = true
        // The copy of a value without members is the value.
        if (this.#value(step.of).beside !== beside.nothing)
          this.#add(step, new Held([], this.#value(step.of).beside))
        return
      case 'call':
        this.#call(step)
        return
      case 'call-any':
        this.#callAny(step)
        return
      case 'insert':
        this.#insert(step)
        return
      case 'iterate':
        this.#value(step.value).iterate(work)
        return
      case 'read':
        this.#value(step.value).read(work)
        return
      case 'return':
        if (this.#reads.result.add(this.#value(step.value), work)) this.#changed = true
        return
      default:
        return
    }
  }

  #value(step: Step): Held {
    switch (step.kind) {
      case 'nothing':
        return nothing
      case 'scalar':
      case 'text':
      case 'not-entry':
      case 'is-set':
        return aScalar
      case 'unknown':
      case 'entry-number':
        return anything
      default:
        return this.#values.get(step) ?? nothing
    }
  }

  #add(step: Step, more: Held): void {
    const held = this.#values.get(step)
    if (held === undefined) {
      this.#changed ||= !more.isNothing
      this.#values.set(step, more)
    } else if (held !== more) {
      // The first value may belong to another step.
      const own = this.#owned.has(step) ? held : new Held([...held.cells], held.beside)
      this.#owned.add(step)
      if (own.add(more, this.#work)) this.#changed = true
      this.#values.set(step, own)
    }
  }

  /** Steps whose value belongs to them alone. */
  readonly #owned = new Set<Step>()

  #get(value: Step, key: Step): Held {
    if (key.kind === 'text') return this.#value(value).get(key.text, this.#work)
    this.#value(key).read(this.#work)
    return this.#value(value).get(undefined, this.#work)
  }

  #readAll(values: readonly Step[], result: Step): void {
    for (const value of values) this.#value(value).read(this.#work)
    this.#add(result, anything)
  }

  #madeBy(step: Step): Made {
    let made = this.#made.get(step)
    if (made === undefined) {
      made = new Made()
      this.#made.set(step, made)
      this.#add(step, new Held([made]))
    }
    return made
  }

  #insert({ into, key, value }: Step & { kind: 'insert' }): void {
    const work = this.#work
    const name = key?.kind === 'text' ? key.text : undefined
    if (key !== undefined && name === undefined) this.#value(key).read(work)
    const held = this.#value(value)
    for (const cell of this.#value(into).cells) {
      if (cell instanceof Member) held.read(work)
      else if (cell.put(name, held, work)) this.#changed = true
    }
    if (this.#value(into).beside === beside.anything) held.read(work)
  }

  #compare({ a, b }: Step & { kind: 'compare' }): void {
    const [left, right] = [this.#value(a), this.#value(b)]
    if (hasNoMembers(left) || hasNoMembers(right) || areSame(left, right)) return
    left.read(this.#work)
    right.read(this.#work)
  }

  #call(step: Step & { kind: 'call' }): void {
    const work = this.#work
    const callee = this.#rules.reads(step.callee)
    // The rule calls itself in the end, which no policy in Rego does.
    if (callee === undefined) {
      this.#readAll(step.args, step)
      return
    }
    const args = step.args.map((arg) => this.#value(arg))
    for (const [i, arg] of args.entries()) {
      for (const cell of arg.cells) {
        work.spend(1)
        if (cell instanceof Member && cell.above === undefined)
          this.#handOn(cell, { callee: step.callee, param: i, any: false })
        else this.#apply(this.#rules.allReads(step.callee, i), new Held([cell]))
      }
    }
    this.#add(step, this.#givenBack(callee.result, args, step))
  }

  #callAny(step: Step & { kind: 'call-any' }): void {
    for (const [i, arg] of step.args.entries()) {
      for (const cell of this.#value(arg).cells) {
        if (cell instanceof Member && cell.above === undefined)
          this.#handOn(cell, { callee: step.type, param: i, any: true })
        else cell.read(this.#work)
      }
    }
    this.#add(step, anything)
  }

  #handOn({ param }: Member, to: ParamOf): void {
    this.#reads.handedOn[param]!.set(`${to.any ? '*' : ''}${to.callee}:${to.param}`, to)
  }

  /** Reads of a value what a callee reads of its parameter. */
  #apply(reads: Member, value: Held): void {
    this.#work.spend(1)
    if (value.isNothing) return
    if (reads.whole) {
      value.read(this.#work)
      return
    }
    if (reads.any !== undefined) this.#apply(reads.any, value.get(undefined, this.#work))
    for (const [name, member] of reads.members) this.#apply(member, value.get(name, this.#work))
  }

  /** What a callee gives back, in the values of the caller. */
  #givenBack(result: Held, args: readonly Held[], step: Step): Held {
    const held = new Held([], result.beside)
    for (const cell of result.cells) {
      if (cell instanceof Made) {
        held.addCell(this.#copyOf(cell, args, step), this.#work)
        continue
      }
      let at = args[cell.param] ?? anything
      for (const name of cell.path) at = at.get(name, this.#work)
      held.add(at, this.#work)
    }
    return held
  }

  #copyOf(made: Made, args: readonly Held[], step: Step): Made {
    let copies = this.#copies.get(step)
    if (copies === undefined) {
      copies = new Map()
      this.#copies.set(step, copies)
    }
    const known = copies.get(made)
    const copy = known ?? new Made()
    copies.set(made, copy)
    this.#made.set(copy, copy)
    // What the callee has put in is known; what the arguments hold may grow from round to round.
    if (known !== undefined && this.#copying.has(copy)) return copy
    this.#copying.add(copy)
    for (const [name, held] of made.members)
      if (copy.put(name, this.#givenBack(held, args, step), this.#work)) this.#changed = true
    if (copy.put(undefined, this.#givenBack(made.rest, args, step), this.#work))
      this.#changed = true
    if (copy.copyFrom(this.#givenBack(made.base, args, step), this.#work)) this.#changed = true
    this.#copying.delete(copy)
    return copy
  }

  /** Copies that are being made: an object may be inside itself, as far as this analysis can tell. */
  readonly #copying = new Set<Made>()
}

const nothing = new Held()
const aScalar = new Held([], beside.scalar)
const anything = new Held([], beside.anything)

function hasNoMembers({ cells, beside: also }: Held): boolean {
  return cells.length === 0 && also !== beside.anything
}

/** True when both are certainly the same value: then a part that the input lacks is missing on both sides. */
function areSame(a: Held, b: Held): boolean {
  if (a.beside !== beside.nothing || b.beside !== beside.nothing) return false
  const [cell] = a.cells
  return (
    a.cells.length === 1 &&
    b.cells.length === 1 &&
    b.cells[0] === cell &&
    cell instanceof Member &&
    cell.exact
  )
}

/** Callers copy the objects that a rule gives back. Where these are many, their content is read instead. */
function limitMade(result: Held, work: Work): void {
  const found = new Set<Made>()
  const waiting = [result]
  for (let held = waiting.pop(); held !== undefined; held = waiting.pop()) {
    for (const cell of held.cells) {
      work.spend(1)
      if (!(cell instanceof Made) || found.has(cell)) continue
      if (cell.isRead || found.size >= maxMadeGivenBack || cell.members.size > maxMadeGivenBack) {
        result.read(work)
        result.cells.length = 0
        result.beside = beside.anything
        return
      }
      found.add(cell)
      waiting.push(...cell.members.values(), cell.rest, cell.base)
    }
  }
}
