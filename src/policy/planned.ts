/**
 * Rewrites the functions that OPA's compiler plans from rules, where the module would answer otherwise than `opa eval`:
 *
 *   - A scan whose members go into an array (`[v | some v in set]`) visits them in OPA's order. The module's own order is
 *     that of hashes. Other scans keep it: their results do not depend on an order.
 *   - A reference into base data (`data.users[input.id]`) finds the member `"7"` by the number 7, and the element 7 by the
 *     text `"7"`, since OPA's store addresses its documents by path. What a variable holds is no such reference.
 *
 * Only the patterns that the compiler writes are replaced, a call by a call, so that a function that is not understood
 * stays as it is.
 */
import { leb, op, Reader } from './binary.ts'
import { readLocals, readOperand } from './rule-outline.ts'

/** Indices of functions. */
export interface PlannedCalls {
  readonly iterate: number | undefined
  readonly get: number | undefined
  readonly append: number | undefined
  readonly newArray: number | undefined
  /** The functions to call in place of `iterate` and `get`. */
  readonly iterateInOrder: number
  readonly getFromData: number
}

interface Instruction {
  readonly code: number
  /** The index of a local or function, or the place in memory. */
  readonly operand: number
  readonly at: number
  readonly end: number
}

/** Every rule and function has the input and the data as its first two parameters. */
const dataParameter = 1

/** @returns the function's body, as it was where nothing in it needs to change. */
export function rewritePlanned(body: Uint8Array, calls: PlannedCalls, isRule: boolean): Uint8Array {
  const instructions = readInstructions(body)
  if (instructions === undefined) return body
  const replaced = new Map<Instruction, number>()
  for (const at of orderedScans(instructions, calls)) replaced.set(at, calls.iterateInOrder)
  for (const at of dataLookups(instructions, calls, isRule)) replaced.set(at, calls.getFromData)
  if (replaced.size === 0) return body
  const parts: Uint8Array[] = []
  let from = 0
  for (const [{ at, end }, callee] of [...replaced].sort(([a], [b]) => a.at - b.at)) {
    parts.push(body.subarray(from, at), Buffer.of(op.call, ...leb(callee)))
    from = end
  }
  return Buffer.concat([...parts, body.subarray(from)])
}

/** Calls of `iterate` at the beginning of a loop that appends to an array which is made outside of it. */
function* orderedScans(all: readonly Instruction[], calls: PlannedCalls): Iterable<Instruction> {
  const open: { scan: Instruction | undefined; made: Set<number>; ordered: boolean }[] = []
  for (const [i, instruction] of all.entries()) {
    const { code, operand } = instruction
    if (code === op.block || code === op.if) open.push({ scan: undefined, made: new Set(), ordered: false })
    else if (code === op.loop) {
      const scan = all[i + 3]
      const isScan = scan?.code === op.call && scan.operand === calls.iterate
      open.push({ scan: isScan ? scan : undefined, made: new Set(), ordered: false })
    } else if (code === op.end) {
      const loop = open.pop()
      // An array that is made in a block inside of a loop is made in that loop.
      for (const local of loop?.made ?? []) open.at(-1)?.made.add(local)
      if (loop?.scan !== undefined && loop.ordered) yield loop.scan
    } else if (code === op.localSet && all[i - 1]?.code === op.call && all[i - 1]!.operand === calls.newArray) {
      open.at(-1)?.made.add(operand)
    } else if (code === op.call && operand === calls.append) {
      const array = all[i - 2]?.operand ?? -1
      for (let k = open.length - 1; k >= 0 && !open[k]!.made.has(array); k--) open[k]!.ordered = true
    }
  }
} // biome-ignore format: conditions beside their actions

/** Calls of `get` on base data, step by step from `data` itself. */
function* dataLookups(
  all: readonly Instruction[],
  calls: PlannedCalls,
  isRule: boolean,
): Iterable<Instruction> {
  const base = new Set<number>(isRule ? [dataParameter] : [])
  for (const [i, { code, operand }] of all.entries()) {
    if (code !== op.localSet && code !== op.localTee) continue
    const [source, , made] = [all[i - 3], all[i - 2], all[i - 1]]
    // `with` sets the data for a while. What it made is told apart by the host, which asks where a value lies.
    if (!isRule || operand !== dataParameter) base.delete(operand)
    // In `eval` the data is a member of the context, at 4.
    if (!isRule && made?.code === op.i32Load && made.operand === 4) base.add(operand)
    if (made?.code !== op.call || made.operand !== calls.get) continue
    if (source?.code !== op.localGet || !base.has(source.operand)) continue
    base.add(operand)
    yield made
  }
}

/** @returns undefined for a function with an instruction that the compiler does not write. */
function readInstructions(body: Uint8Array): Instruction[] | undefined {
  const reader = new Reader(body, 0, body.length)
  const all: Instruction[] = []
  try {
    readLocals(reader, 0)
    while (!reader.done) {
      const at = reader.at
      const code = reader.byte()
      all.push({ code, operand: readOperand(code, reader), at, end: reader.at })
    }
  } catch {
    return undefined
  }
  return all
}
