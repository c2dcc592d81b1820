/** The code of one rule, instruction by instruction, and what is known of it before its values are followed. The work is counted. */
import { op, Reader } from './binary.ts'
import { notUnderstood, type RuleCode } from './rule-code.ts'

/** The steps of work that an analysis may take; a hostile module must not take longer. */
export class Work {
  #left: number

  constructor(steps: number) {
    this.#left = steps
  }

  spend(steps: number): void {
    this.#left -= steps
    if (this.#left < 0) throw notUnderstood()
  }
}

/** What is known of a rule before its values are followed. */
export interface RuleOutline {
  readonly callees: ReadonlySet<number>
  readonly locals: number
  /** The locals that each loop sets, in the order in which the loops begin. */
  readonly loops: readonly ReadonlySet<number>[]
}

/** @throws Error for instructions that OPA's compiler does not emit for rules */
export function outline(rule: RuleCode, work: Work): RuleOutline {
  const reader = new Reader(rule.code, 0, rule.code.length)
  const locals = readLocals(reader, rule.params)
  const callees = new Set<number>()
  const loops: Set<number>[] = []
  const open: (Set<number> | undefined)[] = []
  while (!reader.done) {
    work.spend(1)
    const code = reader.byte()
    const operand = readOperand(code, reader)
    if (code === op.block || code === op.if || code === op.loop) {
      const sets = code === op.loop ? new Set<number>() : undefined
      if (sets !== undefined) loops.push(sets)
      open.push(sets)
    } else if (code === op.end) {
      const sets = open.pop()
      const outer = open.findLast((each) => each !== undefined)
      if (sets === undefined || outer === undefined) continue
      work.spend(sets.size)
      for (const local of sets) outer.add(local)
    } else if (code === op.localSet || code === op.localTee) {
      open.findLast((each) => each !== undefined)?.add(operand)
    } else if (code === op.call) callees.add(operand)
    work.spend(open.length >> 3)
  }
  return { callees, locals, loops }
}

/** V8 allows so many. */
const maxLocals = 50_000

/** Reads the declarations of local variables. @returns their number, with the parameters */
export function readLocals(reader: Reader, params: number): number {
  let count = params
  for (let left = reader.leb(); left > 0; left--) {
    count += reader.leb()
    reader.byte()
  }
  if (count > maxLocals) throw notUnderstood()
  return count
}

/** Reads what follows an opcode. @returns its number, where it has one that matters */
export function readOperand(code: number, reader: Reader): number {
  switch (code) {
    case op.block:
    case op.loop:
    case op.if:
      if (reader.byte() !== 0x40) throw notUnderstood()
      return 0
    case op.br:
    case op.brIf:
    case op.call:
    case op.localGet:
    case op.localSet:
    case op.localTee:
      return reader.leb()
    case op.callIndirect: {
      const type = reader.leb()
      reader.byte()
      return type
    }
    case op.i32Load:
    case op.i32Store:
      reader.leb()
      return reader.leb()
    case op.i32Const:
      return reader.signedLeb()
    case op.i64Const:
      while ((reader.byte() & 0x80) !== 0);
      return 0
    case op.nop:
    case op.unreachable:
    case op.else:
    case op.end:
    case op.return:
    case op.drop:
    case op.i32Eqz:
    case op.i32Eq:
    case op.i32Ne:
      return 0
    default:
      throw notUnderstood()
  }
}
