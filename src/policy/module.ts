/**
 * InputUsage and rewrites the bytes of an OPA WebAssembly module before it is compiled.
 *
 * OPA's module keeps the C shadow stack pointer in global 0 and does not export it. An exception that unwinds
 * WASM frames (a rule conflict, a failing builtin) never puts it back, and after some hundreds of them every
 * later call traps. So one export entry is added; the host saves and restores the pointer around each call.
 */
import { kind, malformed, Reader, section } from './binary.ts'

/** Export name under which the host finds the shadow stack pointer. */
export const stackPointerExport = '__dropgate_stack_pointer'

const i32 = 0x7f

export interface PreparedModule {
  readonly bytes: Uint8Array
  /** Pages of 64 KiB that the imported memory must have at least. */
  readonly initialPages: number
}

/** @throws GateError ERR_BUNDLE_POLICY when the bytes are not a module as `opa build -t wasm` makes them. */
export function prepareModule(bytes: Uint8Array): PreparedModule {
  const reader = new Reader(bytes, 0, bytes.length)
  if (reader.u32le() !== 0x6d736100 || reader.u32le() !== 1)
    throw malformed('it is not WebAssembly 1')
  let initialPages: number | undefined
  let stackPointerSeen = false
  let exports: { start: number; end: number; body: Uint8Array } | undefined
  while (!reader.done) {
    const start = reader.at
    const id = reader.byte()
    const size = reader.leb()
    const inner = reader.slice(size)
    if (id === section.import) initialPages = importedMemory(inner)
    else if (id === section.global) stackPointerSeen = firstIsMutableI32(inner)
    else if (id === section.export)
      exports = { start, end: reader.at, body: withStackPointer(inner) }
  }
  if (initialPages === undefined) throw malformed('it imports no memory')
  if (!stackPointerSeen) throw malformed('its first global is not a stack pointer')
  if (exports === undefined) throw malformed('it exports nothing')
  const { start, end, body } = exports
  return {
    bytes: Buffer.concat([
      bytes.subarray(0, start),
      Buffer.of(section.export, ...leb(body.length)),
      body,
      bytes.subarray(end),
    ]),
    initialPages,
  }
}

function importedMemory(reader: Reader): number | undefined {
  let pages: number | undefined
  for (let left = reader.leb(); left > 0; left--) {
    reader.name()
    reader.name()
    switch (reader.byte()) {
      case kind.func:
        reader.leb()
        break
      case kind.memory: {
        const limits = reader.byte()
        pages = reader.leb()
        if (limits === 1) reader.leb()
        else if (limits !== 0) throw malformed('its memory is shared or 64-bit')
        break
      }
      default:
        // An imported global would shift the numbering and make global 0 something else.
        throw malformed('it imports something other than functions and one memory')
    }
  }
  return pages
}

function firstIsMutableI32(reader: Reader): boolean {
  return reader.leb() > 0 && reader.byte() === i32 && reader.byte() === 1
}

function withStackPointer(reader: Reader): Uint8Array {
  const count = reader.leb()
  const name = Buffer.from(stackPointerExport)
  return Buffer.concat([
    Buffer.from(leb(count + 1)),
    reader.rest(),
    Buffer.of(name.length),
    name,
    Buffer.of(kind.global, 0),
  ])
}

function leb(value: number): number[] {
  const out: number[] = []
  let rest = value
  do {
    const low = rest & 0x7f
    rest >>>= 7
    out.push(rest === 0 ? low : low | 0x80)
  } while (rest !== 0)
  return out
}
