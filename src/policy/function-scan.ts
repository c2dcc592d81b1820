/**
 * Reads one WebAssembly function body, as far as steps.ts needs it: where its loops begin, what it calls, and how many
 * instructions lie between. The bytes may be hostile. An instruction that is not on the list here is refused, since
 * its length is not known: what follows it would be read at the wrong place.
 */
import { malformed, op, type Reader } from './binary.ts'

/** The part of a function that belongs to one loop and to no loop inside it; the part outside all loops is the first. */
export interface Stretch {
  /** Position of the first instruction of the loop; -1 for the part outside all loops. */
  readonly at: number
  instructions: number
  /** Functions that are called here, once for each call. */
  readonly callees: number[]
}

export interface CallSite {
  /** Position of the instruction. */
  readonly at: number
  /** Index of the called function, `indirect` or `growing`. */
  readonly callee: number
}

/** In place of a function's index: a call through the table, of which it is not known where it goes. */
export const indirect = -1
/** In place of a function's index: the memory grows. */
export const growing = -2

export interface FunctionScan {
  /** Positions count from the beginning of the body. The first instruction follows the declared locals. */
  readonly codeAt: number
  /** Position of the declared locals, after the number of their groups. */
  readonly localsAt: number
  readonly localGroups: number
  readonly locals: number
  /** In the order of their positions. */
  readonly stretches: readonly Stretch[]
  readonly calls: readonly CallSite[]
}

/** What a body may name. */
export interface ScanLimits {
  readonly functions: number
  readonly globals: number
}

/** Types of a value as one byte; vectors and references are not in use. */
const valueTypes: ReadonlySet<number> = new Set([0x7f, 0x7e, 0x7d, 0x7c])

/** @param reader A whole body. @throws GateError ERR_BUNDLE_POLICY */
export function scanFunction(reader: Reader, limits: ScanLimits): FunctionScan {
  const begin = reader.at
  const localGroups = reader.leb()
  const localsAt = reader.at - begin
  let locals = 0
  for (let left = localGroups; left > 0; left--) {
    locals += reader.leb()
    reader.byte()
  }
  const codeAt = reader.at - begin
  const stretches: Stretch[] = [{ at: -1, instructions: 0, callees: [] }]
  const calls: CallSite[] = []
  // For each block that is open: the stretch around it, which goes on after its end.
  const around: Stretch[] = []
  let current = stretches[0]!
  for (let ended = false; !ended; ) {
    if (reader.done) throw malformed('a function has no end')
    const at = reader.at - begin
    const code = reader.byte()
    current.instructions++
    switch (code) {
      case op.block:
      case op.if:
      case op.loop:
        skipBlockType(reader)
        around.push(current)
        if (code !== op.loop) break
        current = { at: reader.at - begin, instructions: 0, callees: [] }
        stretches.push(current)
        break
      case op.end:
        ended = around.length === 0
        current = around.pop() ?? current
        break
      case op.call: {
        const callee = below(limits.functions, reader.leb())
        calls.push({ at, callee })
        current.callees.push(callee)
        break
      }
      case op.callIndirect:
        calls.push({ at, callee: indirect })
        reader.leb()
        reader.leb()
        break
      case op.memoryGrow:
        calls.push({ at, callee: growing })
        reader.byte()
        break
      case op.globalGet:
      case op.globalSet:
        below(limits.globals, reader.leb())
        break
      default:
        skipImmediates(code, reader)
    }
  }
  if (!reader.done) throw malformed('a function goes on after its end')
  return { codeAt, localsAt, localGroups, locals, stretches, calls }
}

function below(count: number, index: number): number {
  // A function or global that steps.ts adds must not be in reach of the module's own code.
  if (index >= count) throw malformed('it uses a function or a global that it does not have')
  return index
}

/** None, one value, or the number of a type. */
function skipBlockType(reader: Reader): void {
  const first = reader.byte()
  if (first === 0x40 || valueTypes.has(first)) return
  // A number of a type is a signed number of 33 bits that is not negative.
  let byte = first
  for (let length = 1; byte >= 0x80; length++) {
    if (length === 5) throw malformed('a block has an unknown type')
    byte = reader.byte()
  }
  if ((byte & 0x40) !== 0) throw malformed('a block has an unknown type')
}

function skipImmediates(code: number, reader: Reader): void {
  if (code >= op.i32Eqz && code <= op.lastNumeric) return
  if (code >= op.i32Load && code <= op.lastStore) {
    reader.leb()
    reader.leb()
    return
  }
  switch (code) {
    case op.unreachable:
    case op.nop:
    case op.else:
    case op.return:
    case op.drop:
    case op.select:
      return
    case op.br:
    case op.brIf:
    case op.localGet:
    case op.localSet:
    case op.localTee:
      reader.leb()
      return
    case op.brTable:
      for (let left = reader.leb() + 1; left > 0; left--) reader.leb()
      return
    case op.i32Const:
    case op.i64Const:
      skipNumber(reader, code === op.i32Const ? 5 : 10)
      return
    case op.f32Const:
      reader.skip(4)
      return
    case op.f64Const:
      reader.skip(8)
      return
    case op.memorySize:
      reader.byte()
      return
    case op.prefixed:
      // Conversions that saturate. Instructions that fill or copy memory follow them, and could take any time.
      if (reader.leb() < 8) return
  }
  throw malformed(`it has the instruction 0x${code.toString(16)}, which OPA does not use`)
}

function skipNumber(reader: Reader, most: number): void {
  for (let length = 1; reader.byte() >= 0x80; length++)
    if (length === most) throw malformed('it holds a number that is too long')
}
