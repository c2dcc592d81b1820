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
import { kind, leb, malformed, op, Reader, readNames, section } from './binary.ts'
import { readImports } from './module-parts.ts'
import { type ModuleCode, withAnswersOfHost } from './replaced.ts'
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
  const [imported, exported, code, declared] = [
    open(section.import),
    open(section.export),
    open(section.code),
    open(section.function),
  ]
  const { initialPages, functions } = readImports(imported)
  if (initialPages === undefined) throw malformed('it imports no memory')
  if (exported === undefined) throw malformed('it exports nothing')
  if (code === undefined || declared === undefined) throw malformed('it has no code section')
  const names = new Map<number, string>()
  for (const { id, at, end } of sections) {
    const custom = new Reader(bytes, at, end)
    if (id === section.custom && custom.name() === 'name') readNames(custom, names)
  }
  const bodies: Readonly<Record<number, Uint8Array>> = {
    [section.export]: withExports(exported, names),
    ...rewritten({ types: numbers(declared), bodies: contents(code), names, imported: functions }),
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

function firstIsMutableI32(reader: Reader): boolean {
  return reader.leb() > 0 && reader.byte() === i32 && reader.byte() === 1
}

/** Functions that the host calls, each with the name of its export. */
export const addedExports = {
  __dropgate_compare: 'opa_value_compare',
  __dropgate_get: 'opa_value_get',
  __dropgate_iterate: 'opa_value_iter',
} as const

/** The sections of functions and of code, where the host answers what the module would answer otherwise than OPA. */
function rewritten(code: ModuleCode): Readonly<Record<number, Uint8Array>> {
  if (code.types.length !== code.bodies.length) throw malformed('its functions have no code')
  for (const [i, body] of code.bodies.entries())
    checkWidth(body, code.names.get(code.imported.length + i))
  const { types, bodies } = withAnswersOfHost(code)
  const count = Buffer.from(leb(bodies.length))
  return {
    [section.function]: Buffer.concat([count, Buffer.from(types.flatMap(leb))]),
    [section.code]: Buffer.concat([
      count,
      ...bodies.flatMap((body) => [Buffer.from(leb(body.length)), body]),
    ]),
  }
}

function numbers(reader: Reader): number[] {
  return Array.from({ length: reader.leb() }, () => reader.leb())
}

function contents(reader: Reader): Uint8Array[] {
  return Array.from({ length: reader.leb() }, () => reader.slice(reader.leb()).rest())
}

/**
 * Adds the exports of the stack pointer and of functions that the host calls. @throws GateError when function names are
 * unreliable: replaced functions are found by name.
 */
function withExports(reader: Reader, names: ReadonlyMap<number, string>): Uint8Array {
  const count = reader.leb()
  const all = reader.rest()
  for (let left = count; left > 0; left--) {
    const name = reader.name()
    const isFunction = reader.byte() === kind.func
    const index = reader.leb()
    if (isFunction && name === 'opa_malloc' && names.get(index) !== name)
      throw malformed('the names of its functions are missing')
  }
  const added = [{ name: stackPointerExport, kind: kind.global as number, index: 0 }]
  for (const [name, of] of Object.entries(addedExports)) {
    for (const [index, known] of names)
      if (known === of) added.push({ name, kind: kind.func, index })
  }
  return Buffer.concat([
    Buffer.from(leb(count + added.length)),
    all,
    ...added.map(({ name, kind, index }) =>
      Buffer.concat([Buffer.of(name.length), Buffer.from(name), Buffer.of(kind, ...leb(index))]),
    ),
  ])
}
