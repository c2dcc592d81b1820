/**
 * Reads an OPA WebAssembly module and rewrites its bytes before compilation.
 *
 * Some builtins that OPA compiles into the module (in C) give other answers than `opa eval`, or never end; natives.ts
 * lists them. They get a new body, which calls the host in the same way as a rule calls a builtin that is not compiled
 * in (replaced.ts). The order of scans and references into data are made those of OPA too (planned.ts).
 *
 * OPA's module keeps the C shadow stack pointer in global 0 and does not export it. An exception that unwinds WASM
 * frames (a rule conflict, a failing builtin) does not restore it, and after some hundreds of exceptions every later
 * call traps. So one export entry is added; the host saves and restores the pointer around each call.
 */
import { GateError } from '../errors.ts'
import { kind, leb, malformed, op, Reader, section } from './binary.ts'
import { type Export, ModuleParts } from './module-parts.ts'
import { withAnswersOfHost } from './replaced.ts'
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
  const module = new ModuleParts(bytes)
  const { initialPages } = module
  if (!firstIsMutableI32(module.open(section.global)))
    throw malformed('its first global is not a stack pointer')
  if (initialPages === undefined) throw malformed('it imports no memory')
  if (module.open(section.code) === undefined) throw malformed('it has no code section')
  checkNames(module)
  for (const [i, body] of module.bodies.entries())
    checkWidth(body, module.names.get(module.imported.length + i))
  const { types, bodies } = withAnswersOfHost(module)
  const written = module.written({
    types: [],
    functions: types.slice(module.types.length).map(leb),
    globals: [],
    exports: exportsFor(module.names),
    bodies,
  })
  // OPA counts without the texts of the rules: where these pass the end of a page, its module asks for too little memory.
  const pages = Math.max(initialPages, Math.ceil(endOfData(module.open(section.data)) / pageBytes))
  return { bytes: written, initialPages: pages }
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

function firstIsMutableI32(reader: Reader | undefined): boolean {
  return reader !== undefined && reader.leb() > 0 && reader.byte() === i32 && reader.byte() === 1
}

/** @throws GateError when the names of functions are unreliable: replaced functions are found by name. */
function checkNames(module: ModuleParts): void {
  const reader = module.open(section.export)
  if (reader === undefined) throw malformed('it exports nothing')
  for (let left = reader.leb(); left > 0; left--) {
    const name = reader.name()
    const isFunction = reader.byte() === kind.func
    const index = reader.leb()
    if (isFunction && name === 'opa_malloc' && module.names.get(index) !== name)
      throw malformed('the names of its functions are missing')
  }
}

/** Functions that the host calls, each with the name of its export. */
const addedExports = {
  __dropgate_compare: 'opa_value_compare',
  __dropgate_get: 'opa_value_get',
  __dropgate_iterate: 'opa_value_iter',
} as const

/** The exports that are added: the stack pointer, and the functions that the host calls. */
function exportsFor(names: ReadonlyMap<number, string>): Export[] {
  const exports: Export[] = [{ name: stackPointerExport, kind: kind.global, index: 0 }]
  for (const [name, of] of Object.entries(addedExports)) {
    for (const [index, known] of names)
      if (known === of) exports.push({ name, kind: kind.func, index })
  }
  return exports
}
