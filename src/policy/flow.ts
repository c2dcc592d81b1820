/**
 * Follows the values through the code of one rule: which value is stepped into, handed to which function, compared,
 * stored, returned. One pass over the code.
 *
 * OPA's compiler uses the same local variable for one value after another. So the local variables are followed in the order of
 * the code, and only where two paths meet may a local hold one of two values (`either`). The cost of a meeting is the
 * number of locals that were set since the paths parted, not the number of locals.
 */
import { op, Reader } from './binary.ts'
import { type ModuleCode, notUnderstood } from './rule-code.ts'
import { type RuleOutline, readLocals, readOperand, type Work } from './rule-outline.ts'

/** A step of a rule, in the order of the code. Most make a value, which later steps name. */
export type Step =
  | { readonly kind: 'nothing' | 'unknown' | 'scalar' | 'entry-number' }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'param'; readonly index: number }
  /** One of several values, after the branch taken. */
  | { readonly kind: 'either'; readonly of: Step[]; live: boolean }
  /** `value[key]` */
  | { readonly kind: 'get'; readonly value: Step; readonly key: Step }
  /** `object.get(value, key, otherwise)` */
  | {
      readonly kind: 'get-or'
      readonly value: Step
      readonly key: Step
      readonly otherwise: Step
    }
  /** A new object, array or set. */
  | { readonly kind: 'new' }
  | { readonly kind: 'copy'; readonly of: Step }
  | { readonly kind: 'call'; readonly callee: number; readonly args: readonly Step[] }
  /** A call of a rule that is chosen at run time, among those with this type. */
  | { readonly kind: 'call-any'; readonly type: number; readonly args: readonly Step[] }
  /** True unless this entrypoint is asked for; in `eval` only. */
  | { readonly kind: 'not-entry'; readonly entry: number }
  /** True when a local holds a value. */
  | { readonly kind: 'is-set'; readonly local: number }
  | {
      readonly kind: 'insert'
      readonly into: Step
      readonly key: Step | undefined
      readonly value: Step
    }
  | { readonly kind: 'iterate'; readonly value: Step }
  /** All of the value may be read. */
  | { readonly kind: 'read'; readonly value: Step }
  | { readonly kind: 'compare'; readonly a: Step; readonly b: Step }
  | { readonly kind: 'return'; readonly value: Step }

export interface Flow {
  readonly steps: readonly Step[]
  /** Steps of `eval` that run for one entrypoint only, by its number. */
  readonly byEntry: ReadonlyMap<number, readonly Step[]>
  /** True when a value may be used by a step before the one that makes it. */
  readonly loops: boolean
}

const nothing: Step = { kind: 'nothing' }
const unknown: Step = { kind: 'unknown' }
const scalar: Step = { kind: 'scalar' }
const entryNumber: Step = { kind: 'entry-number' }

/** A block, loop or `if` whose end was not reached yet. */
interface Open {
  readonly kind: 'block' | 'loop' | 'if' | 'else'
  /** Height of the stack at its start. */
  readonly height: number
  /** Number of logged sets at its start. */
  readonly startedAt: number
  /** Number of logged sets that its last branch has taken along. */
  takenTo: number
  /** Values that branches bring to its end, of the locals that were set inside. */
  readonly brought: Map<number, Set<Step>>
  /** True once there was a branch to its end. */
  branched: boolean
  /** For a loop: what its locals hold when a round begins. */
  readonly rounds: ReadonlyMap<number, Step & { kind: 'either' }>
  /** Whether the end of this block also ends what runs for one entrypoint only. */
  entry: boolean
}

interface LoggedSet {
  readonly local: number
  /** What the local held before. */
  readonly before: Step
}

/** Follows the values of one rule. @throws Error for code that OPA's compiler does not emit */
export function followRule(
  module: ModuleCode,
  index: number,
  known: RuleOutline,
  work: Work,
): Flow {
  return new Follower(module, index, known, work).run()
}

class Follower {
  readonly #module: ModuleCode
  readonly #isEval: boolean
  readonly #reader: Reader
  readonly #loops: RuleOutline['loops']
  readonly #work: Work
  readonly #held: Step[]
  readonly #log: LoggedSet[] = []
  readonly #open: Open[] = []
  readonly #stack: Step[] = []
  readonly #steps: Step[] = []
  readonly #byEntry = new Map<number, Step[]>()
  #into = this.#steps
  #loop = 0
  #reachable = true
  /** The last two instructions: a test of a local is known by them. */
  #last: readonly [code: number, operand: number] = [op.nop, 0]
  #lastButOne = this.#last

  constructor(module: ModuleCode, index: number, known: RuleOutline, work: Work) {
    const { code, params } = module.rules.get(index)!
    this.#module = module
    this.#isEval = index === module.evalIndex
    this.#loops = known.loops
    this.#work = work
    this.#reader = new Reader(code, 0, code.length)
    readLocals(this.#reader, params)
    this.#held = new Array<Step>(known.locals).fill(nothing)
    if (this.#isEval) return
    for (let i = 0; i < params; i++) this.#held[i] = this.#add({ kind: 'param', index: i })
  }

  run(): Flow {
    const reader = this.#reader
    while (!reader.done) {
      const code = reader.byte()
      this.#work.spend(1)
      const operand = readOperand(code, reader)
      this.#follow(code, operand)
      this.#lastButOne = this.#last
      this.#last = [code, operand]
    }
    if (this.#stack.length > 0) this.#add({ kind: 'return', value: this.#pop() })
    markLive([this.#steps, ...this.#byEntry.values()])
    return { steps: this.#steps, byEntry: this.#byEntry, loops: this.#loops.length > 0 }
  }

  #follow(code: number, operand: number): void {
    switch (code) {
      case op.block:
        this.#begin('block')
        return
      case op.loop:
        this.#begin('loop')
        return
      case op.if:
        this.#pop()
        this.#begin('if')
        return
      case op.else:
        this.#else()
        return
      case op.end:
        this.#end()
        return
      case op.br:
        this.#branch(operand)
        this.#reachable = false
        return
      case op.brIf:
        this.#branchIf(this.#pop(), operand)
        return
      case op.return:
        this.#add({ kind: 'return', value: this.#pop() })
        this.#reachable = false
        return
      case op.unreachable:
        this.#reachable = false
        return
      case op.localGet:
        this.#stack.push(this.#held[operand] ?? nothing)
        return
      case op.localSet:
        this.#set(operand, this.#pop())
        return
      case op.localTee:
        this.#set(operand, this.#stack.at(-1) ?? nothing)
        return
      default:
        this.#compute(code, operand)
        return
    }
  }

  #compute(code: number, operand: number): void {
    const stack = this.#stack
    switch (code) {
      case op.nop:
        return
      case op.drop:
        this.#pop()
        return
      case op.i32Eqz:
        this.#pop()
        stack.push(scalar)
        return
      case op.i32Eq:
        this.#pop()
        this.#pop()
        stack.push(scalar)
        return
      case op.i32Ne: {
        const [b, a] = [this.#pop(), this.#pop()]
        const entry = a === entryNumber ? this.#constants.get(b) : undefined
        if (entry !== undefined) stack.push({ kind: 'not-entry', entry })
        else stack.push(this.#testedLocal())
        return
      }
      case op.i32Const:
        stack.push(this.#constant(operand))
        return
      case op.i64Const:
        stack.push(scalar)
        return
      case op.i32Load:
        stack.push(this.#load(this.#pop(), operand))
        return
      case op.i32Store:
        this.#add({ kind: 'read', value: this.#pop() })
        this.#pop()
        return
      case op.call:
        this.#call(operand)
        return
      default:
        this.#callAny(operand)
        return
    }
  }

  /** Numbers of the constants in `eval`, which are compared with the number of the entrypoint. */
  readonly #constants = new Map<Step, number>()

  #constant(value: number): Step {
    if (this.#isEval) {
      const step: Step = value === 0 ? { kind: 'nothing' } : this.#valueAt(value)
      this.#constants.set(step, value)
      return step
    }
    // 0 stands for undefined.
    return value === 0 ? nothing : this.#valueAt(value)
  }

  #valueAt(address: number): Step {
    const found = this.#module.constants.at(address)
    if (typeof found === 'object') return { kind: 'text', text: found.text }
    return found === 'scalar' ? { kind: 'scalar' } : { kind: 'unknown' }
  }

  /** `eval` finds in its context: the input at 0, the data at 4, the number of the entrypoint at 12. */
  #load(from: Step, offset: number): Step {
    this.#add({ kind: 'read', value: from })
    if (!this.#isEval) return unknown
    if (offset === 0 || offset === 4) return this.#add({ kind: 'param', index: offset / 4 })
    return offset === 12 ? entryNumber : unknown
  }

  /** For `local != 0`. An `else` is compiled so: past the branch, the rule has no result yet. */
  #testedLocal(): Step {
    const [[code, local], [second, zero]] = [this.#lastButOne, this.#last]
    if (code !== op.localGet || second !== op.i32Const || zero !== 0) return scalar
    return { kind: 'is-set', local }
  }

  #branchIf(condition: Step, depth: number): void {
    this.#branch(depth)
    if (condition.kind === 'is-set' && this.#last[0] === op.i32Ne)
      this.#set(condition.local, nothing)
    else if (condition.kind === 'not-entry') this.#onlyFor(condition.entry, depth)
  }

  /** What follows a test of the entrypoint's number runs for that entrypoint only, up to the end of the block. */
  #onlyFor(entry: number, depth: number): void {
    const block = this.#open[this.#open.length - 1 - depth]
    if (block === undefined || this.#into !== this.#steps) return
    const steps = this.#byEntry.get(entry) ?? []
    this.#byEntry.set(entry, steps)
    this.#into = steps
    block.entry = true
  }

  #call(callee: number): void {
    const signature = this.#module.signatures[callee]
    if (signature === undefined) throw notUnderstood()
    const args = this.#args(signature.params)
    const result = this.#module.rules.has(callee)
      ? this.#add({ kind: 'call', callee, args })
      : this.#native(this.#module.names.get(callee) ?? '', args)
    if (signature.results > 0) this.#stack.push(result)
  }

  #callAny(type: number): void {
    const signature = this.#module.types[type]
    if (signature === undefined) throw notUnderstood()
    this.#pop()
    const args = this.#args(signature.params)
    this.#stack.push(this.#add({ kind: 'call-any', type, args }))
  }

  #args(count: number): Step[] {
    const args = this.#stack.splice(Math.max(0, this.#stack.length - count), count)
    while (args.length < count) args.push(nothing)
    return args
  }

  /** A function of OPA's library. Of one that is not named here, all arguments are read. */
  #native(name: string, args: readonly Step[]): Step {
    const [a = nothing, b = nothing, c = nothing] = args
    switch (name) {
      case 'opa_value_get':
        return this.#add({ kind: 'get', value: a, key: b })
      case 'builtin_object_get':
        return this.#add({ kind: 'get-or', value: a, key: b, otherwise: c })
      case 'opa_value_compare':
        this.#add({ kind: 'compare', a, b })
        return scalar
      case 'opa_value_iter':
        this.#add({ kind: 'iterate', value: a })
        return unknown
      case 'opa_object':
      case 'opa_array':
      case 'opa_array_with_cap':
      case 'opa_set':
        return this.#add({ kind: 'new' })
      case 'opa_value_shallow_copy':
        return this.#add({ kind: 'copy', of: a })
      case 'opa_object_insert':
        return this.#add({ kind: 'insert', into: a, key: b, value: c })
      case 'opa_array_append':
        return this.#add({ kind: 'insert', into: a, key: undefined, value: b })
      // The type says nothing of the members.
      case 'opa_value_type':
      case 'opa_number_ref':
      case 'opa_number_int':
        return scalar
      // What is remembered is the result of a rule, whose code is followed already.
      case 'opa_memoize_get':
      case 'opa_memoize_insert':
        return nothing
      default:
        for (const value of args) this.#add({ kind: 'read', value })
        return unknown
    }
  }

  #add(step: Step): Step {
    this.#work.spend(1)
    this.#into.push(step)
    return step
  }

  #pop(): Step {
    return this.#stack.pop() ?? nothing
  }

  #set(local: number, value: Step): void {
    this.#log.push({ local, before: this.#held[local] ?? nothing })
    this.#held[local] = value
  }

  #begin(kind: 'block' | 'loop' | 'if'): void {
    const rounds = new Map<number, Step & { kind: 'either' }>()
    if (kind === 'loop') {
      for (const local of this.#loops[this.#loop++] ?? []) {
        const round = this.#either([this.#held[local] ?? nothing])
        rounds.set(local, round)
        this.#set(local, round)
      }
    }
    const startedAt = this.#log.length
    this.#open.push({
      kind,
      height: this.#stack.length,
      startedAt,
      takenTo: startedAt,
      brought: new Map(),
      branched: false,
      rounds,
      entry: false,
    })
  }

  /** A branch to the end of a block, or to the start of a loop. */
  #branch(depth: number): void {
    if (!this.#reachable) return
    const target = this.#open[this.#open.length - 1 - depth]
    if (target === undefined) throw notUnderstood()
    if (target.kind === 'loop') {
      this.#work.spend(target.rounds.size)
      for (const [local, round] of target.rounds) addTo(round.of, this.#held[local] ?? nothing)
    } else this.#bring(target)
  }

  /** Notes what the locals hold that were set since the last branch to the same end. */
  #bring(target: Open): void {
    const log = this.#log
    this.#work.spend(log.length - target.takenTo)
    for (let i = target.takenTo; i < log.length; i++) {
      const { local, before } = log[i]!
      let values = target.brought.get(local)
      if (values === undefined) {
        values = new Set()
        target.brought.set(local, values)
        // An earlier branch has brought what the local held at the start of the block.
        if (target.branched) values.add(before)
      }
      values.add(this.#held[local]!)
    }
    target.takenTo = log.length
    target.branched = true
  }

  #else(): void {
    const block = this.#open.pop()
    if (block?.kind !== 'if') throw notUnderstood()
    if (this.#reachable) this.#bring(block)
    this.#rewind(block.startedAt)
    this.#stack.length = block.height
    this.#reachable = true
    this.#open.push({ ...block, kind: 'else', takenTo: block.startedAt })
  }

  #rewind(to: number): void {
    const log = this.#log
    this.#work.spend(log.length - to)
    while (log.length > to) {
      const { local, before } = log.pop()!
      this.#held[local] = before
    }
    for (const each of this.#open) each.takenTo = Math.min(each.takenTo, to)
  }

  #end(): void {
    const block = this.#open.pop()
    // The end of the function.
    if (block === undefined) return
    if (block.entry) this.#into = this.#steps
    if (block.kind === 'loop') return
    this.#stack.length = Math.min(this.#stack.length, block.height)
    const skipped = block.kind === 'if'
    const after = new Map<number, Step>()
    for (let i = block.startedAt; i < this.#log.length; i++)
      after.set(this.#log[i]!.local, this.#held[this.#log[i]!.local]!)
    const { brought } = block
    const fellThrough = this.#reachable
    this.#rewind(block.startedAt)
    this.#work.spend(after.size + brought.size + this.#open.length)
    for (const local of new Set([...after.keys(), ...brought.keys()])) {
      const before = this.#held[local] ?? nothing
      const values = new Set(brought.get(local))
      if (skipped || (block.branched && !brought.has(local))) values.add(before)
      if (fellThrough) values.add(after.get(local) ?? before)
      this.#set(local, this.#meeting(values))
    }
    this.#reachable = fellThrough || block.branched || skipped
  }

  #meeting(values: Set<Step>): Step {
    for (const value of values) if (value.kind === 'nothing') values.delete(value)
    if (values.size === 0) return nothing
    this.#work.spend(values.size)
    const [only] = values
    return values.size === 1 ? only! : this.#either([...values])
  }

  #either(of: Step[]): Step & { kind: 'either' } {
    const step: Step & { kind: 'either' } = { kind: 'either', of, live: false }
    this.#add(step)
    return step
  }
}

function addTo(of: Step[], value: Step): void {
  if (value.kind !== 'nothing' && of.at(-1) !== value) of.push(value)
}

/**
 * Marks the meetings whose value is used. The others must not be followed: locals that nothing reads any more hold one
 * of very many values after a while.
 */
function markLive(all: readonly (readonly Step[])[]): void {
  const waiting: Step[] = []
  for (const steps of all)
    for (const step of steps) if (step.kind !== 'either') waiting.push(...operandsOf(step))
  for (let step = waiting.pop(); step !== undefined; step = waiting.pop()) {
    if (step.kind !== 'either' || step.live) continue
    step.live = true
    waiting.push(...step.of)
  }
}

function operandsOf(step: Step): readonly Step[] {
  switch (step.kind) {
    case 'get':
      return [step.value, step.key]
    case 'get-or':
      return [step.value, step.key, step.otherwise]
    case 'copy':
      return [step.of]
    case 'call':
    case 'call-any':
      return step.args
    case 'insert':
      return step.key === undefined ? [step.into, step.value] : [step.into, step.key, step.value]
    case 'iterate':
    case 'read':
    case 'return':
      return [step.value]
    case 'compare':
      return [step.a, step.b]
    default:
      return []
  }
}
