/**
 * Makes a module interruptible: rewrites it so that it counts its steps down from a number that the host sets, and traps
 * when none is left. It cannot be stopped from outside without losing its thread. What time the steps take is the
 * matter of time-limit.ts.
 *
 * The steps are counted at the beginning of each round of a loop, before calls that may be a recursion, and in
 * functions that are long (step-costs.ts). A loop counts in a local variable, which costs two instructions of the
 * machine; only what it has used up is taken from the count of the module:
 *
 *     loop
 *       if (($credit -= N) < 0)
 *         if (($steps += $credit - drawn) < 0) unreachable
 *         $credit = drawn
 *       …
 *
 * It does not call the host to ask whether it may go on: a call in each loop, even if it were never made, cost 10 % of an
 * evaluation.
 *
 * Numbers of functions and globals stay as they are: what is added comes last. An instruction that is not known is
 * refused, never skipped (function-scan.ts).
 */
import { createHash } from 'node:crypto'
import { kind, leb, malformed, op, Reader, signedLeb } from './binary.ts'
import { type FunctionScan, scanFunction } from './function-scan.ts'
import { ModuleParts } from './module-parts.ts'
import { costsOf, type FunctionCosts, freeSteps } from './step-costs.ts'

/** Export names: the number of steps that are left, below 0 after the trap; and the function that sets it. */
export const stepsExport = '__dropgate_steps'
export const allowStepsExport = '__dropgate_allow_steps'
/** Export name of the function by which the module begins its heap at a place that the host says. */
export const heapInitExport = '__dropgate_heap_init'

/**
 * The number by which the module tells the host that `with` would set a member of what is no object. OPA's compiler
 * leaves out that check (compileUpsert), and the module would write over memory that is not its own.
 */
export const noObjectId = -1_000_000

/** The host allows steps in such a number at once. */
export const stepsInUnit = 1024

/** The most units that the host can allow: half an hour. A module begins with it, so that the host can read its data. */
export const mostSteps = 0x7fffffff

/** Steps that a loop takes from the count of the module at once. */
const drawn = 256

/**
 * The function whose loops are not counted, `opa_json_lex_read_string` of OPA 1.22: its size, and the SHA-256 of its body.
 * It goes forward through a text that the host has put into the memory, a few hundred MB/s, and is the only one where
 * counting shows: it made the reading of a large input half as slow again. By its name alone, a hostile module could
 * have any loop uncounted; a function of another version of OPA is counted.
 */
const uncounted = {
  bytes: 450,
  digest: 'ecabdc6aa4ccd82d6b3a85b0a79b841c188efb700db5734442802f7b8292f65b',
}

function isUncounted(body: Uint8Array): boolean {
  return (
    body.length === uncounted.bytes &&
    createHash('sha256').update(body).digest('hex') === uncounted.digest
  )
}

const i32 = 0x7f
const i64 = 0x7e
const empty = 0x40
const functionType = 0x60
const objectType = 6

/** @throws GateError ERR_BUNDLE_POLICY */
export function interruptible(bytes: Uint8Array): Uint8Array {
  const module = new ModuleParts(bytes)
  const host = module.imported.indexOf('opa_builtin0')
  if (host === -1) throw malformed('it cannot call the host')
  const heapInit = [...module.names].find(([, name]) => name === 'opa_malloc_init')?.[0]
  if (heapInit === undefined) throw malformed('it has no opa_malloc_init')
  const limits = { functions: module.functions, globals: module.globals }
  const scans = module.bodies.map((body) => scanFunction(new Reader(body, 0, body.length), limits))
  const costs = costsOf(scans, module.imported.length)
  const counter = new Counter(module.globals, host)
  const bodies = scans.map((scan, i) => {
    const params = module.params[module.types[i]!] ?? 0
    const name = module.names.get(module.imported.length + i) ?? ''
    if (isUncounted(module.bodies[i]!)) return module.bodies[i]!
    const first = name === 'opa_object_insert' ? counter.onlyObjects : []
    return withSteps(counter, module.bodies[i]!, scan, { ...costs[i]!, params, first })
  })
  return module.written({
    types: [[functionType, 1, i32, 0]],
    functions: [leb(module.params.length)],
    globals: [[i64, 1, op.i64Const, ...signedLeb(mostSteps), op.end]],
    exports: [
      { name: stepsExport, kind: kind.global, index: module.globals },
      { name: allowStepsExport, kind: kind.func, index: module.functions },
      { name: heapInitExport, kind: kind.func, index: heapInit },
    ],
    bodies: [...bodies, counter.allowSteps],
  })
}

interface BodyPlan extends FunctionCosts {
  readonly params: number
  /** Code that comes before everything else. */
  readonly first: readonly number[]
}

/** One body with its count. */
function withSteps(
  counter: Counter,
  body: Uint8Array,
  scan: FunctionScan,
  { params, first, entry, loops, calls }: BodyPlan,
): Uint8Array {
  const hasLoops = loops.length > 0
  if (!hasLoops && entry === 0 && calls.size === 0 && first.length === 0) return body
  const credit = leb(params + scan.locals)
  const inserts: (readonly [at: number, code: readonly number[]])[] = []
  for (const [i, steps] of loops.entries())
    inserts.push([scan.stretches[i + 1]!.at, counter.inLoop(credit, steps)])
  for (const [at, steps] of calls) inserts.push([at, counter.take(steps)])
  inserts.sort(([a], [b]) => a - b)
  const { localGroups, codeAt } = scan
  const parts: Uint8Array[] = [
    Buffer.from(leb(localGroups + (hasLoops ? 1 : 0))),
    body.subarray(scan.localsAt, codeAt),
  ]
  if (hasLoops) parts.push(Buffer.of(1, i32))
  parts.push(Buffer.from([...first, ...(entry > 0 ? counter.take(entry) : [])]))
  if (hasLoops)
    parts.push(Buffer.from([op.i32Const, ...signedLeb(freeSteps), op.localSet, ...credit]))
  let from = codeAt
  for (const [at, code] of inserts) {
    parts.push(body.subarray(from, at), Buffer.from(code))
    from = at
  }
  parts.push(body.subarray(from))
  return Buffer.concat(parts)
}

/** Writes the code that counts. */
class Counter {
  readonly #steps: readonly number[]
  readonly #host: readonly number[]

  constructor(global: number, host: number) {
    this.#steps = leb(global)
    this.#host = leb(host)
  }

  /** The beginning of each round of a loop. */
  inLoop(credit: readonly number[], steps: number): number[] {
    return [
      ...[op.localGet, ...credit, ...number(steps), op.i32Sub, op.localTee, ...credit],
      ...ifNegative([
        ...[op.globalGet, ...this.#steps, op.localGet, ...credit, op.i64ExtendI32, op.i64Add],
        ...this.#lessAndTrap(drawn),
        ...[...number(drawn), op.localSet, ...credit],
      ]),
    ]
  }

  /** Takes steps from the count of the module, without a local variable. */
  take(steps: number): number[] {
    return [op.globalGet, ...this.#steps, ...this.#lessAndTrap(steps)]
  }

  /** For the function that sets a member of an object, whose address is the first argument. */
  get onlyObjects(): number[] {
    const isObject = [op.localGet, 0, op.i32Load8U, 0, 0, ...number(objectType), op.i32Eq]
    const tells = [...number(noObjectId), ...number(0), op.call, ...this.#host]
    return [...isObject, op.i32Eqz, op.if, empty, ...tells, op.drop, op.unreachable, op.end]
  }

  /** Body of `(units: i32) => void`. */
  get allowSteps(): Uint8Array {
    const steps = [op.localGet, 0, op.i64ExtendI32, op.i64Const, 10, op.i64Shl]
    return Buffer.from([0, ...steps, op.globalSet, ...this.#steps, op.end])
  }

  /** On the stack is the count of the module. */
  #lessAndTrap(steps: number): number[] {
    return [
      ...[op.i64Const, ...signedLeb(steps), op.i64Sub, op.globalSet, ...this.#steps],
      ...[op.globalGet, ...this.#steps, op.i64Const, 0, op.i64LtS],
      ...[op.if, empty, op.unreachable, op.end],
    ]
  }
}

function ifNegative(code: readonly number[]): number[] {
  return [...number(0), op.i32LtS, op.if, empty, ...code, op.end]
}

function number(value: number): number[] {
  return [op.i32Const, ...signedLeb(value)]
}
