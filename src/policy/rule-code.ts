/**
 * Takes a compiled module apart, as far as needed to follow values through its rules: the code of each rule, the names
 * of the functions it calls, and the texts that its constants stand for.
 */
import { functionNames, kind, op, Reader, type Section, section, sectionsOf } from './binary.ts'

export interface RuleCode {
  readonly name: string
  readonly params: number
  readonly code: Uint8Array
}

interface Signature {
  readonly params: number
  readonly results: number
}

export interface ModuleCode {
  readonly types: readonly Signature[]
  /** By function index. */
  readonly signatures: readonly Signature[]
  readonly names: ReadonlyMap<number, string>
  /** Compiled rules and `eval`, by function index. */
  readonly rules: ReadonlyMap<number, RuleCode>
  readonly evalIndex: number
  readonly constants: Constants
}

/** Thrown for code that this file and its users do not know: it then counts as reading everything. */
export function notUnderstood(): Error {
  return new Error('the module was not compiled by a known version of OPA')
}

/** Pattern of the names that OPA's compiler gives to rules. */
const ruleName = /^g\d+\./

/** @throws Error when the module was not compiled by a known version of OPA */
export function readModuleCode(wasm: Uint8Array): ModuleCode {
  const sections = sectionsOf(wasm)
  const names = functionNames(wasm, sections)
  const { types, functionTypes, imported, evalIndex, codes, data } = readEntries(wasm, sections)
  const signatures = functionTypes.map((type) => {
    const found = types[type]
    if (found === undefined) throw notUnderstood()
    return found
  })
  const rules = new Map<number, RuleCode>()
  for (const [i, code] of codes.entries()) {
    const index = imported + i
    const name = names.get(index) ?? ''
    if (index !== evalIndex && !ruleName.test(name)) continue
    rules.set(index, { name, params: signatures[index]!.params, code })
  }
  if (!rules.has(evalIndex) || names.size === 0) throw notUnderstood()
  return { types, signatures, names, rules, evalIndex, constants: new Constants(data) }
}

interface Segment {
  readonly at: number
  readonly bytes: Uint8Array
}

/** The entries of a module's sections. */
interface Entries {
  readonly types: Signature[]
  /** Type of each function, by function index; imported functions come first. */
  readonly functionTypes: number[]
  imported: number
  evalIndex: number
  readonly codes: Uint8Array[]
  readonly data: Segment[]
}

function readEntries(wasm: Uint8Array, sections: readonly Section[]): Entries {
  const entries: Entries = {
    types: [],
    functionTypes: [],
    imported: 0,
    evalIndex: -1,
    codes: [],
    data: [],
  }
  for (const { id, at, end } of sections) {
    const readEntry = entryReaders.get(id)
    if (readEntry === undefined) continue
    const inner = new Reader(wasm, at, end)
    for (let left = inner.leb(); left > 0; left--) readEntry(inner, entries)
  }
  return entries
}

/** Readers for the sections that matter; other sections say nothing about the input. */
const entryReaders: ReadonlyMap<number, (entry: Reader, into: Entries) => void> = new Map([
  [section.type, readType],
  [section.import, readImport],
  [section.function, (entry, { functionTypes }) => void functionTypes.push(entry.leb())],
  [section.export, readExport],
  [section.code, (entry, { codes }) => void codes.push(entry.slice(entry.leb()).rest())],
  [section.data, readData],
])

function readType(entry: Reader, { types }: Entries): void {
  if (entry.byte() !== 0x60) throw notUnderstood()
  types.push({ params: values(entry), results: values(entry) })
}

function readImport(entry: Reader, into: Entries): void {
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

function readExport(entry: Reader, into: Entries): void {
  const name = entry.name()
  const isFunction = entry.byte() === kind.func
  const index = entry.leb()
  if (isFunction && name === 'eval') into.evalIndex = index
}

function readData(entry: Reader, { data }: Entries): void {
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

/** `type` at the head of OPA's `opa_value`, for values without members: null, boolean, number, string, and interned ones. */
const scalarTypes: ReadonlySet<number> = new Set([1, 2, 3, 4, 8, 9])
const stringTypes: ReadonlySet<number> = new Set([4, 8])

/**
 * Longer texts name no member: stepping by one counts as stepping by a computed name. Many constants may share their bytes,
 * so without a limit a small module could ask for any amount of text.
 */
const maxNameBytes = 1000

export type Constant = { readonly text: string } | 'scalar' | 'unknown'

/** The values at constant addresses of the module's memory. */
export class Constants {
  readonly #segments: readonly Segment[]
  readonly #known = new Map<number, Constant>()

  constructor(segments: readonly Segment[]) {
    this.#segments = [...segments].sort((a, b) => a.at - b.at)
  }

  at(address: number): Constant {
    let found = this.#known.get(address)
    if (found === undefined) {
      found = this.#read(address)
      this.#known.set(address, found)
    }
    return found
  }

  /** Reads an interned `opa_string_t`: type, length, address of the bytes. */
  #read(address: number): Constant {
    const type = this.#bytesAt(address, 1)?.[0]
    if (type === undefined || !scalarTypes.has(type)) return 'unknown'
    if (!stringTypes.has(type)) return 'scalar'
    const head = this.#bytesAt(address, 12)
    if (head === undefined) return 'unknown'
    const view = new DataView(head.buffer, head.byteOffset, 12)
    const length = view.getUint32(4, true)
    if (length > maxNameBytes) return 'scalar'
    const bytes = this.#bytesAt(view.getUint32(8, true), length)
    return bytes === undefined ? 'unknown' : { text: Buffer.from(bytes).toString('utf8') }
  }

  #bytesAt(address: number, length: number): Uint8Array | undefined {
    let [low, high] = [0, this.#segments.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#segments[middle]!.at <= address) low = middle + 1
      else high = middle
    }
    const segment = this.#segments[low - 1]
    if (segment === undefined || address + length > segment.at + segment.bytes.length)
      return undefined
    return segment.bytes.subarray(address - segment.at, address - segment.at + length)
  }
}
