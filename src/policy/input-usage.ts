/**
 * Finds out which parts of its input a compiled policy reads, by following the input through the calls in the module.
 * OPA's compiler calls `opa_value_get` with a constant key to step into a field; any other use of a value counts as
 * reading all of it. So the gate builds only the parts that are read, and collects a body only when a rule can see it.
 *
 * Reading too much is safe, too little is not: any code that is not understood counts as reading everything.
 */
import { kind, op, Reader, readNames, section } from './binary.ts'

/** A field of the input, read either as a whole or only in the fields below it. */
export interface UsedField {
  whole: boolean
  readonly fields: Map<string, UsedField>
}

export interface InputUsage {
  readonly input: UsedField
  /**
   * True when the policy matches regular expressions or globs inside the module, which keeps compiled patterns on its
   * heap.
   */
  readonly patterns: boolean
}

export const usesEverything: InputUsage = {
  input: { whole: true, fields: new Map() },
  patterns: true,
}

/** @param wasm Output of `opa build -t wasm`. Never throws. */
export function findInputUsage(wasm: Uint8Array): InputUsage {
  try {
    return new Analysis(readParts(wasm)).run()
  } catch {
    // A module of an unknown compiler version: assume that it reads everything.
    return usesEverything
  }
}

/**
 * The field at `path`; undefined when nothing of it is read. Below a field that is read as a whole, that field itself.
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

interface FunctionBody {
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
  /** Compiled rules and `eval`, by function index. */
  readonly bodies: ReadonlyMap<number, FunctionBody>
  readonly evalIndex: number
  readonly data: readonly { readonly at: number; readonly bytes: Uint8Array }[]
}

/** Pattern of the names that OPA's compiler gives to rules. */
const ruleName = /^g\d+\./

function readParts(wasm: Uint8Array): Parts {
  const { types, functionTypes, imported, evalIndex, codes, names, data } = readSections(wasm)
  const signatures = functionTypes.map((type) => types[type] ?? fail())
  const bodies = new Map<number, FunctionBody>()
  for (const [i, code] of codes.entries()) {
    const index = imported + i
    const name = names.get(index) ?? ''
    if (index !== evalIndex && !ruleName.test(name)) continue
    bodies.set(index, { name, params: signatures[index]!.params, code })
  }
  if (!bodies.has(evalIndex) || names.size === 0) throw notUnderstood()
  return { types, signatures, names, bodies, evalIndex, data }
}

/** The entries of a module's sections. */
interface Sections {
  readonly types: Signature[]
  /** Type of each function, by function index; imported functions come first. */
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

/** Readers for the sections that matter; other sections say nothing about the input. */
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
    // The limits of the memory: minimum and maximum.
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

/** The values that a local or a stack slot may hold. */
class Holding {
  /** Fields of the input that it may hold. */
  readonly fields = new Set<UsedField>()
  /** True when it may hold another value too. */
  other = false

  /** Adds values. @returns whether any of them was new. */
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
  /** The value when it is a constant. */
  readonly constant: number | undefined
}

const nothing: Slot = { holding: new Holding(), constant: undefined }
const something: Slot = {
  holding: Object.assign(new Holding(), { other: true }),
  constant: undefined,
}

/** State of the analysis of one function, instruction by instruction. */
interface Walk {
  /** Index of the function. */
  readonly index: number
  readonly reader: Reader
  readonly stack: Slot[]
  /** Height of the stack at the start of each open block. */
  readonly heights: number[]
}

function pop(stack: Slot[]): Slot {
  return stack.pop() ?? nothing
}

/** Handles blocks and branches. @returns false for other instructions */
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

/** Deeper paths are not told apart: they count as reading the whole field. */
const maxDepth = 12
const maxRounds = 100

class Analysis {
  readonly #parts: Parts
  readonly #root: UsedField = { whole: false, fields: new Map() }
  readonly #depth = new Map<UsedField, number>([[this.#root, 0]])
  /** Values of each local, by function, over all paths through the function. */
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
    // Comparisons are judged last: all assignments must be known to decide whether both sides are the same field.
    for (const pair of this.#comparisons) {
      if (!same(pair)) for (const side of pair) this.#readAll(side)
    }
    return { input: this.#root, patterns: this.#patterns }
  }

  #walk(index: number, body: FunctionBody): void {
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
    // The value left on the stack is the result of the function.
    if (walk.stack.length > 0) this.#note(this.#returns.get(index)!, walk.stack.at(-1)!)
  }

  /**
   * Handles moves between locals and the stack, which read nothing of a value. @returns false for other instructions
   */
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

  /** Handles memory access and calls, which may read a value. @returns false for other instructions */
  #useValues(code: number, { index, reader, stack }: Walk): boolean {
    switch (code) {
      case op.i32Load: {
        reader.leb()
        const offset = reader.leb()
        this.#readAll(pop(stack))
        // `eval` gets the input from its context, at offset 0.
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
    // A memoised value is the return value of a rule, which is analysed already.
    else if (name === 'opa_memoize_get') result = nothing
    else if (name === 'opa_value_compare') this.#comparisons.push(args)
    else if (name !== 'opa_memoize_insert') for (const arg of args) this.#readAll(arg)
    if (results > 0) stack.push(result)
  }

  /** A call through a table: any rule with this signature may be called. */
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

  /** Steps into a field: `value[key]`. */
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

  /** Reads the text of an interned `opa_string_t`: header, length, address of the bytes. */
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
    // 0 stands for undefined; every other constant is a value of the policy itself.
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

/** True when both sides are certainly the same field: then a part that is not built is missing on both sides. */
function same([a, b]: readonly Slot[]): boolean {
  if (a === undefined || b === undefined || a.holding.other || b.holding.other) return false
  const [field] = a.holding.fields
  return a.holding.fields.size === 1 && b.holding.fields.size === 1 && b.holding.fields.has(field!)
}

function notUnderstood(): Error {
  return new Error('the module was not compiled by a known version of OPA')
}

function fail(): never {
  throw notUnderstood()
}
