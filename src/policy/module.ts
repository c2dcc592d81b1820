/**
 * Reads an OPA WebAssembly module and rewrites its bytes before compilation.
 *
 * Some builtins that OPA compiles into the module (in C) give other answers than `opa eval`, or never end. The
 * functions in `replacedNatives` get a new body, which calls the host in the same way as a rule calls a builtin that is
 * not compiled in. So every rule that calls such a function gets the host's answer. The numbers of the functions do not
 * change.
 *
 * OPA's module keeps the C shadow stack pointer in global 0 and does not export it. An exception that unwinds WASM
 * frames (a rule conflict, a failing builtin) does not restore it, and after some hundreds of exceptions every later
 * call traps. So one export entry is added; the host saves and restores the pointer around each call.
 */
import { GateError } from '../errors.ts'
import { kind, leb, malformed, op, Reader, readNames, section } from './binary.ts'
import { readImports } from './module-parts.ts'
import { interruptible } from './steps.ts'

/** Export name under which the host finds the shadow stack pointer. */
export const stackPointerExport = '__dropgate_stack_pointer'

const i32 = 0x7f
const pageBytes = 65536

export interface PreparedModule {
  readonly bytes: Uint8Array
  /** Pages of 64 KiB that the imported memory must have at least. */
  readonly initialPages: number
}

/** A builtin of the module that the host answers instead: name of the function in the module, name of the builtin. */
export interface ReplacedNative {
  readonly function: string
  readonly builtin: string
  readonly params: 1 | 2 | 3
}

/** The host is called with the number `-1 - index`; the module's own builtins have numbers from 0. */
export const replacedNatives: readonly ReplacedNative[] = [
  // Never ends for an empty pattern.
  { function: 'opa_strings_replace', builtin: 'replace', params: 3 },
  // Finds an empty text at 0, where OPA's result is undefined.
  { function: 'opa_strings_indexof', builtin: 'indexof', params: 2 },
  // Finds a mapped address (`::ffff:10.1.2.3`) in no IPv4 network. Also used by `net.cidr_overlap`.
  { function: 'opa_cidr_contains', builtin: 'net.cidr_contains', params: 2 },
  { function: 'opa_cidr_intersects', builtin: 'net.cidr_intersects', params: 2 },
  // Decodes text without padding, and even text that is not base64.
  { function: 'opa_base64_decode', builtin: 'base64.decode', params: 1 },
  { function: 'opa_base64_is_valid', builtin: 'base64.is_valid', params: 1 },
  { function: 'opa_base64_url_decode', builtin: 'base64url.decode', params: 1 },
  // The module frees what it has read, and where that is `true`, `false` or `null` it frees the only one there is: whatever
  // is allocated next is written over it, and no later evaluation of that instance is right.
  { function: 'opa_json_is_valid', builtin: 'json.is_valid', params: 1 },
  // The module reads the beginning of a text that is no JSON as a whole, and an escaped lone surrogate ends the evaluation.
  { function: 'opa_json_unmarshal', builtin: 'json.unmarshal', params: 1 },
]

interface Section {
  readonly id: number
  readonly start: number
  readonly end: number
  /** Position of its content. */
  readonly at: number
}

/** @throws GateError ERR_BUNDLE_POLICY when the bytes are not a module as `opa build -t wasm` makes them. */
export function prepareModule(bytes: Uint8Array): PreparedModule {
  const { bytes: replaced, initialPages } = replaceNatives(bytes)
  return { bytes: interruptible(replaced), initialPages }
}

/** The module before its steps are counted; no evaluation of it can be interrupted. */
export function replaceNatives(bytes: Uint8Array): PreparedModule {
  const reader = new Reader(bytes, 0, bytes.length)
  if (reader.u32le() !== 0x6d736100 || reader.u32le() !== 1)
    throw malformed('it is not WebAssembly 1')
  const sections: Section[] = []
  while (!reader.done) {
    const start = reader.at
    const id = reader.byte()
    const size = reader.leb()
    sections.push({ id, start, at: reader.at, end: reader.at + size })
    reader.skip(size)
  }
  const open = (id: number): Reader | undefined => {
    const found = sections.find((each) => each.id === id)
    return found === undefined ? undefined : new Reader(bytes, found.at, found.end)
  }
  const globals = open(section.global)
  if (globals === undefined || !firstIsMutableI32(globals))
    throw malformed('its first global is not a stack pointer')
  const [imported, exported, code] = [
    open(section.import),
    open(section.export),
    open(section.code),
  ]
  const { initialPages, functions } = readImports(imported)
  if (initialPages === undefined) throw malformed('it imports no memory')
  if (exported === undefined) throw malformed('it exports nothing')
  if (code === undefined) throw malformed('it has no code section')
  const names = new Map<number, string>()
  for (const { id, at, end } of sections) {
    const custom = new Reader(bytes, at, end)
    if (id === section.custom && custom.name() === 'name') readNames(custom, names)
  }
  const bodies: Readonly<Record<number, Uint8Array>> = {
    [section.export]: withStackPointer(exported, names),
    [section.code]: withoutNatives(code, names, functions),
  }
  const parts: Uint8Array[] = [bytes.subarray(0, 8)]
  for (const { id, start, end } of sections) {
    const body = bodies[id]
    if (body === undefined) parts.push(bytes.subarray(start, end))
    else parts.push(Buffer.of(id, ...leb(body.length)), body)
  }
  // OPA counts without the texts of the rules: where these pass the end of a page, its module asks for too little memory.
  const pages = Math.max(initialPages, Math.ceil(endOfData(open(section.data)) / pageBytes))
  return { bytes: Buffer.concat(parts), initialPages: pages }
}

/** End of the memory that the module fills when it is instantiated. */
function endOfData(reader: Reader | undefined): number {
  let end = 0
  for (let left = reader?.leb() ?? 0; reader !== undefined && left > 0; left--) {
    if (reader.leb() !== 0 || reader.byte() !== op.i32Const)
      throw malformed('its data has no constant position')
    const at = reader.signedLeb() >>> 0
    if (reader.byte() !== op.end) throw malformed('its data has no constant position')
    const size = reader.leb()
    reader.skip(size)
    end = Math.max(end, at + size)
  }
  return end
}

/** The code section, where the replaced functions call the host. */
function withoutNatives(
  code: Reader,
  names: ReadonlyMap<number, string>,
  imported: readonly string[],
): Uint8Array {
  const count = code.leb()
  const parts: Uint8Array[] = [Buffer.from(leb(count))]
  for (let i = 0; i < count; i++) {
    const body = code.slice(code.leb()).rest()
    const name = names.get(imported.length + i)
    checkWidth(body, name)
    const native = replacedNatives.findIndex((each) => each.function === name)
    const written = native === -1 ? body : askingHost(native, imported)
    parts.push(Buffer.from(leb(written.length)), written)
  }
  return Buffer.concat(parts)
}

/**
 * Most local variables of a function times bytes of its code. V8 compares all locals at each branch: with 13,000 locals
 * in 220 kB it compiles for minutes, with more it runs out of memory, which ends the process. A rule of 1,000 conditions
 * has 7,000 locals in 110 kB.
 */
const maxWidth = 1_000_000_000

/** @throws GateError for a function that V8 could not compile in a reasonable time. */
function checkWidth(body: Uint8Array, name: string | undefined): void {
  const reader = new Reader(body, 0, body.length)
  let locals = 0
  for (let left = reader.leb(); left > 0; left--) {
    locals += reader.leb()
    reader.byte()
  }
  if (locals * body.length <= maxWidth) return
  const rule = name?.replace(/^g\d+\./, '') ?? 'a function without a name'
  throw new GateError(
    'ERR_BUNDLE_POLICY',
    `policy.wasm cannot be used: ${rule} is too long, with ${locals} local variables in ${body.length} bytes of code`,
    { hint: 'split the rule: put parts of its conditions into rules of their own' },
  )
}

/** The new body of a replaced function, in WebAssembly: `(a, …) => opa_builtinN(-1 - native, 0, a, …)`. */
function askingHost(native: number, imported: readonly string[]): Uint8Array {
  const { params, builtin } = replacedNatives[native]!
  const host = imported.indexOf(`opa_builtin${params}`)
  if (host === -1) throw malformed(`it cannot ask the host for ${builtin}`)
  const given = Array.from({ length: params }, (_, i) => [op.localGet, i])
  // A small negative number is one byte of signed LEB128.
  const id = (-1 - native) & 0x7f
  const noLocals = 0
  return Buffer.from(
    [noLocals, op.i32Const, id, op.i32Const, 0, given, op.call, leb(host), op.end].flat(2),
  )
}

function firstIsMutableI32(reader: Reader): boolean {
  return reader.leb() > 0 && reader.byte() === i32 && reader.byte() === 1
}

/**
 * Adds the export of the stack pointer. @throws GateError when function names are unreliable: replaced functions are
 * found by name.
 */
function withStackPointer(reader: Reader, names: ReadonlyMap<number, string>): Uint8Array {
  const count = reader.leb()
  const all = reader.rest()
  for (let left = count; left > 0; left--) {
    const name = reader.name()
    const isFunction = reader.byte() === kind.func
    const index = reader.leb()
    if (isFunction && name === 'opa_malloc' && names.get(index) !== name)
      throw malformed('the names of its functions are missing')
  }
  const name = Buffer.from(stackPointerExport)
  return Buffer.concat([
    Buffer.from(leb(count + 1)),
    all,
    Buffer.of(name.length),
    name,
    Buffer.of(kind.global, 0),
  ])
}
