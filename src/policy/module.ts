/**
 * Reads and rewrites the bytes of an OPA WebAssembly module before it is compiled.
 *
 * OPA's module keeps the C shadow stack pointer in global 0 and does not export it. An exception that unwinds
 * WASM frames (a rule conflict, a failing builtin) never puts it back, and after some hundreds of them every
 * later call traps. So one export entry is added; the host saves and restores the pointer around each call.
 *
 * The bytes are hostile: every length is checked against the section it stands in.
 * Format: https://www.w3.org/TR/wasm-core-1/#binary-format
 */
import { GateError } from '../errors.ts'

/** Export name under which the host finds the shadow stack pointer. */
export const stackPointerExport = '__dropgate_stack_pointer'

const section = { import: 2, global: 6, export: 7 } as const
const kind = { func: 0, table: 1, memory: 2, global: 3 } as const
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

class Reader {
  readonly #bytes: Uint8Array
  readonly #end: number
  at: number

  constructor(bytes: Uint8Array, at: number, end: number) {
    this.#bytes = bytes
    this.at = at
    this.#end = end
  }

  get done(): boolean {
    return this.at >= this.#end
  }

  byte(): number {
    if (this.done) throw malformed('it ends too early')
    return this.#bytes[this.at++]!
  }

  u32le(): number {
    return (this.byte() | (this.byte() << 8) | (this.byte() << 16) | (this.byte() << 24)) >>> 0
  }

  /** An unsigned LEB128 number of at most 32 bits. */
  leb(): number {
    let value = 0
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte()
      value += (byte & 0x7f) * 2 ** shift
      if ((byte & 0x80) === 0) {
        if (value > 0xffffffff) break
        return value
      }
    }
    throw malformed('it holds a number over 32 bits')
  }

  name(): void {
    this.slice(this.leb())
  }

  slice(size: number): Reader {
    if (size > this.#end - this.at) throw malformed('a section is longer than the file')
    const inner = new Reader(this.#bytes, this.at, this.at + size)
    this.at += size
    return inner
  }

  rest(): Uint8Array {
    return this.#bytes.subarray(this.at, this.#end)
  }
}

function malformed(why: string): GateError {
  return new GateError('ERR_BUNDLE_POLICY', `policy.wasm cannot be used: ${why}`, {
    hint: 'build the bundle with `opa build -t wasm`',
  })
}
