/**
 * Finds out which parts of its input and of its data a compiled policy reads, for each entrypoint. OPA's compiler calls
 * `opa_value_get` with a constant key to step into a member; any other use of a value counts as reading all of it. So the
 * gate builds only the parts that are read, and collects a body only where a rule can see it.
 *
 * Reading too much is safe, too little is not: any code that is not understood counts as reading everything. A module may
 * be hostile: the work is counted, and past its limit every entrypoint reads everything.
 */
import { type Flow, followRule } from './flow.ts'
import { Made, Member } from './held.ts'
import { type ModuleCode, readModuleCode } from './rule-code.ts'
import { outline, type RuleOutline, Work } from './rule-outline.ts'
import { type KnownRules, type ParamOf, RuleReads, readsOf, readsOfEntry } from './rule-reads.ts'

/** A member of the input or the data, read either as a whole or only in the members below it. */
export interface UsedField {
  whole: boolean
  readonly fields: Map<string, UsedField>
  /**
   * In the data only: what is read of a member that is looked up by a computed key, `data.users[input.principal.subject]`.
   * The other members are not read by this.
   */
  readonly any?: UsedField
}

/** What an entrypoint reads. */
export interface EntryUsage {
  readonly input: UsedField
  readonly data: UsedField
}

export interface PolicyUsage {
  /** By number of the entrypoint; one that is not here reads everything. */
  readonly entrypoints: ReadonlyMap<number, EntryUsage>
  /**
   * True when the policy matches regular expressions or globs inside the module, which keeps compiled patterns on its
   * heap.
   */
  readonly patterns: boolean
}

const everything: UsedField = { whole: true, fields: new Map() }

export const readsEverything: EntryUsage = { input: everything, data: everything }

export const usesEverything: PolicyUsage = { entrypoints: new Map(), patterns: true }

/** Work for each byte of the module, and most work. A step takes about 0.1 µs; policies need about one for each byte. */
const stepsPerByte = 6
const maxSteps = 8_000_000

/** Members that the usages of one policy may name together: every thread of the gate gets them. */
const maxFields = 30_000

/** @param wasm Output of `opa build -t wasm`. Never throws. */
export function findPolicyUsage(wasm: Uint8Array): PolicyUsage {
  const work = new Work(Math.min(wasm.length * stepsPerByte, maxSteps))
  let rules: Rules
  try {
    rules = new Rules(readModuleCode(wasm), work)
  } catch {
    // A module of an unknown compiler version: assume that it reads everything.
    return usesEverything
  }
  const found = new Map<number, EntryUsage>()
  try {
    let fields = 0
    for (const entry of rules.entries) {
      const usage = rules.usageOf(entry)
      fields += sizeOf(usage.input) + sizeOf(usage.data)
      if (fields > maxFields) break
      found.set(entry, usage)
    }
  } catch {
    // The work was too much: the entrypoints that are left read everything.
  }
  return { entrypoints: found, patterns: rules.patterns }
}

function sizeOf({ fields, any }: UsedField): number {
  let size = 1 + (any === undefined ? 0 : sizeOf(any))
  for (const field of fields.values()) size += sizeOf(field)
  return size
}

/**
 * The member at `path`; undefined when nothing of it is read. Below a member that is read as a whole, that member itself.
 */
export function inputUsageOf(usage: UsedField, ...path: readonly string[]): UsedField | undefined {
  let at = usage
  for (const name of path) {
    if (at.whole) return at
    const next = at.fields.get(name)
    if (next === undefined) return undefined
    at = next
  }
  return at
}

/** The rules of a module, each looked at once. */
class Rules implements KnownRules {
  readonly #module: ModuleCode
  readonly #work: Work
  readonly #reads = new Map<number, RuleReads>()
  readonly #allReads = new Map<string, Member>()
  readonly #eval: Flow
  /** True when the module calls functions for regular expressions or globs. */
  patterns = false

  constructor(module: ModuleCode, work: Work) {
    this.#module = module
    this.#work = work
    const { evalIndex } = module
    const evalOutline = outline(module.rules.get(evalIndex)!, work)
    for (const index of module.rules.keys()) if (index !== evalIndex) this.#look(index)
    this.#eval = followRule(module, evalIndex, evalOutline, work)
  }

  /** The numbers of the entrypoints. */
  get entries(): Iterable<number> {
    return this.#eval.byEntry.keys()
  }

  reads(callee: number): RuleReads | undefined {
    return this.#reads.get(callee)
  }

  allReads(callee: number, param: number): Member {
    const key = `${callee}:${param}`
    let found = this.#allReads.get(key)
    if (found === undefined) {
      found = new Member(param)
      this.#collect(found, [{ callee, param, any: false }], true)
      this.#allReads.set(key, found)
    }
    return found
  }

  usageOf(entry: number): EntryUsage {
    const reads = readsOfEntry(this.#eval, entry, this, this.#work)
    const [input, data] = reads.params.map((own, i) => {
      const all = new Member(i)
      all.merge(own, this.#work)
      this.#collect(all, reads.handedOn[i]!.values(), false)
      return all
    })
    return { input: withoutComputed(input!), data: withComputed(data!) }
  }

  /** Looks at a rule after the rules that it calls. */
  #look(first: number): void {
    const { rules, names } = this.#module
    const begun = new Map<number, { outline: RuleOutline | undefined; left: number[] }>()
    const waiting = [first]
    for (let index = waiting.at(-1); index !== undefined; index = waiting.at(-1)) {
      let at = begun.get(index)
      if (at === undefined) {
        if (this.#reads.has(index)) {
          waiting.pop()
          continue
        }
        const known = this.#outline(index)
        for (const callee of known?.callees ?? [])
          if (/^opa_(?:regex|glob)_/.test(names.get(callee) ?? '')) this.patterns = true
        const callees = [...(known?.callees ?? [])]
        at = { outline: known, left: callees.filter((callee) => rules.has(callee)) }
        begun.set(index, at)
      }
      const next = at.left.pop()
      // A rule that is begun and not looked at yet calls itself in the end.
      if (next !== undefined && !this.#reads.has(next) && !begun.has(next)) waiting.push(next)
      else if (next === undefined) {
        this.#reads.set(index, this.#readsOf(index, at.outline))
        waiting.pop()
      }
    }
  }

  #outline(index: number): RuleOutline | undefined {
    try {
      return outline(this.#module.rules.get(index)!, this.#work)
    } catch {
      return undefined
    }
  }

  #readsOf(index: number, known: RuleOutline | undefined): RuleReads {
    const { params } = this.#module.rules.get(index)!
    if (known === undefined) return RuleReads.ofEverything(params)
    try {
      return readsOf(followRule(this.#module, index, known, this.#work), params, this, this.#work)
    } catch {
      return RuleReads.ofEverything(params)
    }
  }

  /**
   * Adds to `all` what rules read of a parameter, and those to which they hand it on.
   * @param early True while not all rules are looked at: then a call of any rule counts as reading everything.
   */
  #collect(all: Member, first: Iterable<ParamOf>, early: boolean): void {
    const seen = new Set<string>()
    const waiting = [...first]
    for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
      const { callee, param, any } = at
      const key = `${any}:${callee}:${param}`
      this.#work.spend(1)
      if (seen.has(key)) continue
      seen.add(key)
      if (any) {
        if (early) all.read()
        else waiting.push(...this.#anyRule(all, callee, param))
        continue
      }
      const reads = this.#reads.get(callee)
      const own = reads?.params[param]
      if (reads === undefined || own === undefined) all.read()
      else {
        all.merge(own, this.#work)
        waiting.push(...reads.handedOn[param]!.values())
      }
      if (all.whole) return
    }
  }

  /** All rules of a type, one of which is called; what they give back is read as a whole. */
  *#anyRule(all: Member, type: number, param: number): Generator<ParamOf> {
    const { rules, types, evalIndex } = this.#module
    for (const [callee, { params }] of rules) {
      this.#work.spend(1)
      if (callee === evalIndex || params !== types[type]?.params) continue
      const reads = this.#reads.get(callee)
      if (reads !== undefined) this.#readGivenBack(all, reads, param)
      yield { callee, param, any: false }
    }
  }

  #readGivenBack(all: Member, { result }: RuleReads, param: number): void {
    const waiting = [result]
    const seen = new Set<Made>()
    for (let held = waiting.pop(); held !== undefined; held = waiting.pop()) {
      for (const cell of held.cells) {
        this.#work.spend(1)
        if (cell instanceof Made) {
          if (seen.has(cell)) continue
          seen.add(cell)
          waiting.push(...cell.members.values(), cell.rest, cell.base)
        } else if (cell.param === param) {
          let at = all.held
          for (const name of cell.path) at = at.get(name, this.#work)
          at.read(this.#work)
        }
      }
    }
  }
}

/** For the input, whose members are chosen by name: what is read under a computed name is read as a whole. */
function withoutComputed({ whole, any, members }: Member): UsedField {
  const fields = new Map<string, UsedField>()
  if (whole || any !== undefined) return { whole: true, fields }
  for (const [name, member] of members) fields.set(name, withoutComputed(member))
  return { whole, fields }
}

function withComputed({ whole, any, members }: Member): UsedField {
  const fields = new Map<string, UsedField>()
  if (whole) return { whole, fields }
  for (const [name, member] of members) fields.set(name, withComputed(member))
  return any === undefined ? { whole, fields } : { whole, fields, any: withComputed(any) }
}
