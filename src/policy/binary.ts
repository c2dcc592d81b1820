/**
 * Reads WebAssembly's binary format, as far as the host needs it. The bytes may be hostile: every length is checked
 * against the section that contains it. https://www.w3.org/TR/wasm-core-1/#binary-format
 */
import { GateError } from '../errors.ts'

export const section = {
  custom: 0,
  type: 1,
  import: 2,
  function: 3,
  global: 6,
  export: 7,
  code: 10,
  data: 11,
} as const
export const kind = { func: 0, table: 1, memory: 2, global: 3 } as const

export const op = {
  unreachable: 0x00, nop: 0x01, block: 0x02, loop: 0x03, if: 0x04, else: 0x05, end: 0x0b, br: 0x0c, brIf: 0x0d,
  brTable: 0x0e, return: 0x0f, call: 0x10, callIndirect: 0x11, drop: 0x1a, select: 0x1b, localGet: 0x20, localSet: 0x21,
  localTee: 0x22, globalGet: 0x23, globalSet: 0x24, i32Load: 0x28, i32Load8U: 0x2d, i32Store: 0x36, lastStore: 0x3e,
  memorySize: 0x3f, memoryGrow: 0x40, i32Const: 0x41, i64Const: 0x42, f32Const: 0x43, f64Const: 0x44, i32Eqz: 0x45,
  i32Eq: 0x46, i32Ne: 0x47, i32LtS: 0x48, i64LtS: 0x53, i32Add: 0x6a, i32Sub: 0x6b, i32And: 0x71, i64Add: 0x7c,
  i64Sub: 0x7d, i64Shl: 0x86, i64ExtendI32: 0xac, lastNumeric: 0xc4, prefixed: 0xfc,
} as const // biome-ignore format: a table

export class Reader {
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

  /** A signed LEB128 number of at most 32 bits. */
  signedLeb(): number {
    let value = 0
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte()
      value |= (byte & 0x7f) << shift
      if ((byte & 0x80) !== 0) continue
      return shift < 28 && (byte & 0x40) !== 0 ? value | (-1 << (shift + 7)) : value
    }
    throw malformed('it holds a number over 32 bits')
  }

  name(): string {
    return Buffer.from(this.slice(this.leb()).rest()).toString('utf8')
  }

  skip(bytes: number): void {
    this.slice(bytes)
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

/** A section of a module: from `start`, where its number stands, to `end`; its content begins at `at`. */
export interface Section {
  readonly id: number
  readonly start: number
  readonly at: number
  readonly end: number
}

/** @param wasm A module; its first eight bytes are not looked at. */
export function sectionsOf(wasm: Uint8Array): Section[] {
  const sections: Section[] = []
  const reader = new Reader(wasm, 8, wasm.length)
  while (!reader.done) {
    const start = reader.at
    const id = reader.byte()
    const size = reader.leb()
    sections.push({ id, start, at: reader.at, end: reader.at + size })
    reader.skip(size)
  }
  return sections
}

/** The names of a module's functions, by index. */
export function functionNames(
  wasm: Uint8Array,
  sections: readonly Section[] = sectionsOf(wasm),
): Map<number, string> {
  const names = new Map<number, string>()
  for (const { id, at, end } of sections) {
    if (id !== section.custom) continue
    const custom = new Reader(wasm, at, end)
    if (custom.name() === 'name') readNames(custom, names)
  }
  return names
}

/** Adds the function names of a custom section `name` to `names`. The reader stands after the name of the section. */
function readNames(reader: Reader, names: Map<number, string>): void {
  while (!reader.done) {
    const part = reader.byte()
    const inner = reader.slice(reader.leb())
    if (part !== 1) continue
    for (let left = inner.leb(); left > 0; left--) names.set(inner.leb(), inner.name())
  }
}

/** Bytes of an unsigned LEB128 number. */
export function leb(value: number): number[] {
  const out: number[] = []
  let rest = value
  do {
    const low = rest & 0x7f
    rest >>>= 7
    out.push(rest === 0 ? low : low | 0x80)
  } while (rest !== 0)
  return out
}

/** Signed LEB128 of a number below 2^53. */
export function signedLeb(value: number): number[] {
  const out: number[] = []
  for (let rest = value; ; ) {
    const low = ((rest % 128) + 128) % 128
    rest = Math.floor(rest / 128)
    const last = (rest === 0 && low < 64) || (rest === -1 && low >= 64)
    out.push(last ? low : low | 0x80)
    if (last) return out
  }
}

/** The error for a bundle whose module is malformed. */
export function malformed(why: string): GateError {
  return new GateError('ERR_BUNDLE_POLICY', `policy.wasm cannot be used: ${why}`, {
    hint: 'build the bundle with `opa build -t wasm`',
  })
}
