/**
 * What a compiled policy reads of its input, found in the module itself: the input follows the calls that OPA's
 * compiler makes (`opa_value_get` with a constant key steps into a field; anything else done with a value reads all
 * of it). So the gate builds only those parts, and collects a body only where a rule can see it.
 *
 * An over-estimate is always right, an under-estimate never: whatever is not understood reads everything.
 */
import { kind, op, Reader, readNames, section } from './binary.ts'

/** A field of the input: read whole, or only the fields below it. */
export interface UsedField {
  whole: boolean
  readonly fields: Map<string, UsedField>
}

export interface InputUsage {
  readonly input: UsedField
  /** The policy matches regular expressions or globs inside the module, which keeps them compiled on its heap. */
  readonly patterns: boolean
}

export const usesEverything: InputUsage = {
  input: { whole: true, fields: new Map() },
  patterns: true,
}

/** @param wasm of `opa build -t wasm`. Never throws. */
export function findInputUsage(wasm: Uint8Array): InputUsage {
  try {
    return new Analysis(readParts(wasm)).run()
  } catch {
    // A module of another compiler, or a later one: nothing is known, so everything is read.
    return usesEverything
  }
}

/** The field at `path`, undefined when nothing of it is read; below a field read whole, the whole one. */
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

interface Body {
  readonly name: string
  readonly params: number
  readonly code: Uint8Array
}

interface Signature {
  readonly params: number
  readonly results: number
}

interface Parts {
  readonly types: readonly Signature[]
  readonly signatures: readonly Signature[]
  readonly names: ReadonlyMap<number, string>
  /** Compiled rules, and `eval`, by function index. */
  readonly bodies: ReadonlyMap<number, Body>
  readonly evalIndex: number
  readonly data: readonly { readonly at: number; readonly bytes: Uint8Array }[]
}

/** How OPA's compiler names what it makes of rules. */
const ruleName = /^g\d+\./

function readParts(wasm: Uint8Array): Parts {
  const { types, functionTypes, imported, evalIndex, codes, names, data } = readSections(wasm)
  const signatures = functionTypes.map((type) => types[type] ?? fail())
  const bodies = new Map<number, Body>()
  for (const [i, code] of codes.entries()) {
    const index = imported + i
    const name = names.get(index) ?? ''
    if (index !== evalIndex && !ruleName.test(name)) continue
    bodies.set(index, { name, params: signatures[index]!.params, code })
  }
  if (!bodies.has(evalIndex) || names.size === 0) throw notUnderstood()
  return { types, signatures, names, bodies, evalIndex, data }
}

/** What the sections of a module hold, entry by entry. */
interface Sections {
  readonly types: Signature[]
  /** By function, those that are imported first. */
  readonly functionTypes: number[]
  imported: number
  evalIndex: number
  readonly codes: Uint8Array[]
  readonly names: Map<number, string>
  readonly data: { readonly at: number; readonly bytes: Uint8Array }[]
}

function readSections(wasm: Uint8Array): Sections {
  const sections: Sections = {
    types: [],
    functionTypes: [],
    imported: 0,
    evalIndex: -1,
    codes: [],
    names: new Map(),
    data: [],
  }
  const reader = new Reader(wasm, 8, wasm.length)
  while (!reader.done) {
    const id = reader.byte()
    const inner = reader.slice(reader.leb())
    if (id === section.custom) {
      if (inner.name() === 'name') readNames(inner, sections.names)
      continue
    }
    const readEntry = entryReaders.get(id)
    if (readEntry === undefined) continue
    for (let left = inner.leb(); left > 0; left--) readEntry(inner, sections)
  }
  return sections
}

/** By section; entries of the others say nothing about the input. */
const entryReaders: ReadonlyMap<number, (entry: Reader, into: Sections) => void> = new Map([
  [section.type, readType],
  [section.import, readImport],
  [section.function, (entry, { functionTypes }) => void functionTypes.push(entry.leb())],
  [section.export, readExport],
  [section.code, (entry, { codes }) => void codes.push(entry.slice(entry.leb()).rest())],
  [section.data, readData],
])

function readType(entry: Reader, { types }: Sections): void {
  if (entry.byte() !== 0x60) throw notUnderstood()
  types.push({ params: values(entry), results: values(entry) })
}

function readImport(entry: Reader, into: Sections): void {
  entry.name()
  entry.name()
  if (entry.byte() === kind.func) {
    into.functionTypes.push(entry.leb())
    into.imported++
  } else if (entry.byte() === 1) {
    // The memory's limits: a least and a most.
    entry.leb()
    entry.leb()
  } else entry.leb()
}

function readExport(entry: Reader, into: Sections): void {
  const name = entry.name()
  const isFunction = entry.byte() === kind.func
  const index = entry.leb()
  if (isFunction && name === 'eval') into.evalIndex = index
}

function readData(entry: Reader, { data }: Sections): void {
  if (entry.leb() !== 0 || entry.byte() !== op.i32Const) throw notUnderstood()
  const at = entry.signedLeb()
  if (entry.byte() !== op.end) throw notUnderstood()
  data.push({ at, bytes: entry.slice(entry.leb()).rest() })
}

function values(reader: Reader): number {
  const count = reader.leb()
  reader.skip(count)
  return count
}

/** What may stand in a local or on the stack. */
class Holding {
  /** Fields of the input. */
  readonly fields = new Set<UsedField>()
  /** Something else may stand here too. */
  other = false

  /** @returns whether anything was new. */
  add(more: Holding): boolean {
    const before = this.fields.size
    const otherBefore = this.other
    for (const field of more.fields) this.fields.add(field)
    this.other ||= more.other
    return this.fields.size !== before || this.other !== otherBefore
  }
}

interface Slot {
  readonly holding: Holding
  /** The value, where it is a constant. */
  readonly constant: number | undefined
}

const nothing: Slot = { holding: new Holding(), constant: undefined }
const something: Slot = {
  holding: Object.assign(new Holding(), { other: true }),
  constant: undefined,
}

/** The walk through one function, instruction by instruction. */
interface Walk {
  /** Of the function. */
  readonly index: number
  readonly reader: Reader
  readonly stack: Slot[]
  /** The stack's height at the beginning of each open block. */
  readonly heights: number[]
}

function pop(stack: Slot[]): Slot {
  return stack.pop() ?? nothing
}

/** Blocks and branches. @returns false for other instructions */
function followBlocks(code: number, { reader, stack, heights }: Walk): boolean {
  switch (code) {
    case op.nop:
    case op.unreachable:
      return true
    case op.block:
    case op.loop:
      if (reader.byte() !== 0x40) throw notUnderstood()
      heights.push(stack.length)
      return true
    case op.if:
      if (reader.byte() !== 0x40) throw notUnderstood()
      pop(stack)
      heights.push(stack.length)
      return true
    case op.else:
      stack.length = heights.at(-1) ?? 0
      return true
    case op.end:
      stack.length = Math.min(stack.length, heights.pop() ?? stack.length)
      return true
    case op.br:
      reader.leb()
      return true
    case op.brIf:
      reader.leb()
      pop(stack)
      return true
    default:
      return false
  }
}

/** Deeper than any path worth telling apart. */
const maxDepth = 12
const maxRounds = 100

class Analysis {
  readonly #parts: Parts
  readonly #root: UsedField = { whole: false, fields: new Map() }
  readonly #depth = new Map<UsedField, number>([[this.#root, 0]])
  /** By function, by local. Over all paths through the function: which one is taken is not asked. */
  readonly #locals = new Map<number, Holding[]>()
  readonly #returns = new Map<number, Holding>()
  #changed = true
  #comparisons: (readonly Slot[])[] = []
  #patterns = false

  constructor(parts: Parts) {
    this.#parts = parts
  }

  run(): InputUsage {
    const { bodies } = this.#parts
    for (const index of bodies.keys()) {
      this.#locals.set(index, [])
      this.#returns.set(index, new Holding())
    }
    for (let round = 0; this.#changed; round++) {
      if (round === maxRounds) throw notUnderstood()
      this.#changed = false
      this.#comparisons = []
      for (const [index, body] of bodies) this.#walk(index, body)
    }
    // Judged last: whether both sides are the same field is known only once every assignment has been seen.
    for (const pair of this.#comparisons) {
      if (!same(pair)) for (const side of pair) this.#readAll(side)
    }
    return { input: this.#root, patterns: this.#patterns }
  }

  #walk(index: number, body: Body): void {
    const reader = new Reader(body.code, 0, body.code.length)
    for (let left = reader.leb(); left > 0; left--) {
      reader.leb()
      reader.byte()
    }
    const walk: Walk = { index, reader, stack: [], heights: [] }
    while (!reader.done) {
      const code = reader.byte()
      if (
        !followBlocks(code, walk) &&
        !this.#moveValues(code, walk) &&
        !this.#useValues(code, walk)
      )
        throw notUnderstood()
    }
    // What is left is the function's value.
    if (walk.stack.length > 0) this.#note(this.#returns.get(index)!, walk.stack.at(-1)!)
  }

  /** Between locals and the stack, where nothing of a value is read. @returns false for other instructions */
  #moveValues(code: number, { index, reader, stack }: Walk): boolean {
    switch (code) {
      case op.return:
        this.#note(this.#returns.get(index)!, pop(stack))
        return true
      case op.drop:
        pop(stack)
        return true
      case op.i32Eqz:
        pop(stack)
        stack.push(something)
        return true
      case op.i32Eq:
      case op.i32Ne:
        pop(stack)
        pop(stack)
        stack.push(something)
        return true
      case op.i32Const:
        stack.push({ holding: nothing.holding, constant: reader.signedLeb() })
        return true
      case op.i64Const:
        while ((reader.byte() & 0x80) !== 0);
        stack.push(something)
        return true
      case op.localGet:
        stack.push({ holding: this.#local(index, reader.leb()), constant: undefined })
        return true
      case op.localSet:
        this.#note(this.#local(index, reader.leb()), pop(stack))
        return true
      case op.localTee:
        this.#note(this.#local(index, reader.leb()), stack.at(-1) ?? nothing)
        return true
      default:
        return false
    }
  }

  /** In memory and in calls, where a value may be read. @returns false for other instructions */
  #useValues(code: number, { index, reader, stack }: Walk): boolean {
    switch (code) {
      case op.i32Load: {
        reader.leb()
        const offset = reader.leb()
        this.#readAll(pop(stack))
        // `eval` finds the input in its context, at offset 0.
        stack.push(index === this.#parts.evalIndex && offset === 0 ? this.#input() : something)
        return true
      }
      case op.i32Store:
        reader.leb()
        reader.leb()
        this.#readAll(pop(stack))
        pop(stack)
        return true
      case op.call:
        this.#call(reader.leb(), stack)
        return true
      case op.callIndirect:
        this.#callAny(this.#parts.types[reader.leb()] ?? fail(), stack)
        reader.byte()
        return true
      default:
        return false
    }
  }

  #call(index: number, stack: Slot[]): void {
    const { params, results } = this.#parts.signatures[index] ?? fail()
    const args = stack.splice(Math.max(0, stack.length - params), params)
    const name = this.#parts.names.get(index) ?? ''
    if (this.#parts.bodies.has(index)) {
      for (const [i, arg] of args.entries()) this.#note(this.#local(index, i), arg)
      stack.push({ holding: this.#returns.get(index)!, constant: undefined })
      return
    }
    if (/^opa_(?:regex|glob)_/.test(name)) this.#patterns = true
    let result = something
    if (name === 'opa_value_get') result = this.#step(args)
    // What a rule keeps for its next call is what it returns, and that is looked at already.
    else if (name === 'opa_memoize_get') result = nothing
    else if (name === 'opa_value_compare') this.#comparisons.push(args)
    else if (name !== 'opa_memoize_insert') for (const arg of args) this.#readAll(arg)
    if (results > 0) stack.push(result)
  }

  /** A rule that is chosen at run time: each of them may be meant. */
  #callAny(signature: Signature, stack: Slot[]): void {
    stack.pop()
    const args = stack.splice(Math.max(0, stack.length - signature.params), signature.params)
    for (const [index, body] of this.#parts.bodies) {
      if (index === this.#parts.evalIndex || body.params !== signature.params) continue
      for (const [i, arg] of args.entries()) this.#note(this.#local(index, i), arg)
      this.#readAll({ holding: this.#returns.get(index)!, constant: undefined })
    }
    stack.push(something)
  }

  /** `value[key]` */
  #step([value = nothing, key = nothing]: readonly Slot[]): Slot {
    this.#readAll(key)
    const name = key.constant === undefined ? undefined : this.#textAt(key.constant)
    if (name === undefined) {
      this.#readAll(value)
      return something
    }
    const holding = new Holding()
    holding.other = value.holding.other
    for (const field of value.holding.fields) {
      const depth = this.#depth.get(field)! + 1
      if (depth > maxDepth) {
        this.#readWhole(field)
        holding.other = true
        continue
      }
      let next = field.fields.get(name)
      if (next === undefined) {
        next = { whole: false, fields: new Map() }
        field.fields.set(name, next)
        this.#depth.set(next, depth)
        this.#changed = true
      }
      holding.fields.add(next)
    }
    return { holding, constant: undefined }
  }

  /** The text of an interned `opa_string_t`: header, length, address of the bytes. */
  #textAt(address: number): string | undefined {
    const head = this.#bytesAt(address, 12)
    if (head === undefined) return undefined
    const view = new DataView(head.buffer, head.byteOffset, 12)
    const bytes = this.#bytesAt(view.getUint32(8, true), view.getUint32(4, true))
    return bytes === undefined ? undefined : Buffer.from(bytes).toString('utf8')
  }

  #bytesAt(address: number, length: number): Uint8Array | undefined {
    for (const { at, bytes } of this.#parts.data) {
      if (address >= at && address + length <= at + bytes.length)
        return bytes.subarray(address - at, address - at + length)
    }
    return undefined
  }

  #input(): Slot {
    const holding = new Holding()
    holding.fields.add(this.#root)
    return { holding, constant: undefined }
  }

  #local(index: number, local: number): Holding {
    const locals = this.#locals.get(index)!
    locals[local] ??= new Holding()
    return locals[local]
  }

  #note(into: Holding, { holding, constant }: Slot): void {
    // 0 stands for undefined, every other constant for a value of the policy's own.
    const value = constant === undefined || constant === 0 ? holding : something.holding
    if (into.add(value)) this.#changed = true
  }

  #readAll({ holding }: Slot): void {
    for (const field of holding.fields) this.#readWhole(field)
  }

  #readWhole(field: UsedField): void {
    if (field.whole) return
    field.whole = true
    this.#changed = true
  }
}

/** Both are the same field for certain, so that what is left out of it is missing on both sides. */
function same([a, b]: readonly Slot[]): boolean {
  if (a === undefined || b === undefined || a.holding.other || b.holding.other) return false
  const [field] = a.holding.fields
  return a.holding.fields.size === 1 && b.holding.fields.size === 1 && b.holding.fields.has(field!)
}

function notUnderstood(): Error {
  return new Error('the module is not as OPA compiles it')
}

function fail(): never {
  throw notUnderstood()
}
