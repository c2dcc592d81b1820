/**
 * Works out how many steps a round of each loop is, and which functions must count in other places too. A step stands
 * for about 16 instructions; it need not be exact, since the host looks at the clock. Linear in the size of the module.
 *
 *   - The first `freeSteps` in the loops of one call of a function are not counted, so that short loops cost nothing. They
 *     are part of what the call costs, which a loop around the call counts.
 *   - A call from which the caller can be reached again counts before it is made, and so does each call of which only the
 *     module's table says where it goes: no recursion is free.
 *   - A function that would cost more than `mostUncounted` counts when it is entered.
 *
 * So only so much happens between two counted steps, and each round of a loop and of a recursion is counted.
 */
import { type FunctionScan, growing, indirect } from './function-scan.ts'

/** Steps in the loops of one call of a function that it does not count. */
export const freeSteps = 64
/** Most steps of one round: a loop that seldom makes more than a few rounds is to stay free. */
const mostInRound = 8
/** Steps of a call that may be a recursion. */
const callSteps = 4
/** Steps of a function that counts when it is entered: most of it lies behind branches, and its loops count by themselves. */
const entrySteps = 128
/** A growing memory: the machine has to find and clear 64 KiB, mostly. */
const growSteps = 2000
const instructionsPerStep = 16
/** Instructions that a function may cost without counting, and those taken for loops that end while they are free. */
const mostUncounted = 1 << 15
const freeInstructions = 256
/** In longer code, most instructions lie behind a branch: only some of them are counted. */
const mostWithoutBranch = 512
const mostInstructions = 1 << 24

export interface FunctionCosts {
  /** Steps that are counted when the function is entered; 0: none. */
  readonly entry: number
  /** Steps of one round of each loop, in the order of `stretches` without the first. */
  readonly loops: readonly number[]
  /** Positions of the calls that count, and how many steps. */
  readonly calls: ReadonlyMap<number, number>
}

/** @param imported Number of imported functions, which come before those of `scans`. */
export function costsOf(scans: readonly FunctionScan[], imported: number): FunctionCosts[] {
  const groups = new Groups(scans, imported)
  /** Steps of a call that the callee does not count, by index of the function. */
  const uncounted = new Float64Array(imported + scans.length).fill(1)
  const costs: FunctionCosts[] = []
  // Callees come before their callers, apart from those of the same group, whose calls count.
  for (const index of groups.calleesFirst) {
    const scan = scans[index - imported]!
    const calls = new Map<number, number>()
    for (const { at, callee } of scan.calls)
      if (callee === growing) calls.set(at, growSteps)
      else if (callee === indirect || groups.of(callee) === groups.of(index))
        calls.set(at, callSteps)
    const instructions = scan.stretches.map(({ instructions: own, callees }) => {
      let sum = estimate(own)
      for (const callee of callees) sum += uncounted[callee]!
      return sum
    })
    const own = instructions[0]! + (instructions.length > 1 ? freeInstructions : 0)
    const counted = own > mostUncounted
    uncounted[index] = counted ? 1 : own
    costs[index - imported] = {
      entry: counted ? entrySteps : 0,
      loops: instructions.slice(1).map(stepsOfRound),
      calls,
    }
  }
  return costs
}

function estimate(instructions: number): number {
  const long = Math.min(instructions, mostInstructions) - mostWithoutBranch
  return long <= 0 ? instructions : mostWithoutBranch + long / 16
}

function stepsOfRound(instructions: number): number {
  return Math.max(1, Math.min(Math.floor(instructions / instructionsPerStep), mostInRound))
}

/**
 * The functions in groups: two functions are in the same group when each can be reached by calls from the other. By
 * Tarjan's algorithm, with a stack of its own, since a chain of calls may be as long as the module.
 */
class Groups {
  readonly #imported: number
  readonly #group: Int32Array
  /** The defined functions, those that are called before those that call them. */
  readonly calleesFirst: number[] = []

  constructor(scans: readonly FunctionScan[], imported: number) {
    this.#imported = imported
    const edges = scans.map(({ calls }) => {
      const called = new Set(calls.map(({ callee }) => callee - imported))
      return [...called].filter((node) => node >= 0)
    })
    const count = edges.length
    this.#group = new Int32Array(count).fill(-1)
    const order = new Int32Array(count)
    const low = new Int32Array(count)
    const next = new Int32Array(count)
    let visited = 0
    const open: number[] = []
    for (let root = 0; root < count; root++) {
      if (order[root] !== 0) continue
      const path = [root]
      order[root] = low[root] = ++visited
      open.push(root)
      while (path.length > 0) {
        const node = path.at(-1)!
        const target = edges[node]![next[node]!++]
        if (target === undefined) {
          path.pop()
          this.#close(node, order, low, open)
          const parent = path.at(-1)
          if (parent !== undefined) low[parent] = Math.min(low[parent]!, low[node]!)
        } else if (order[target] === 0) {
          order[target] = low[target] = ++visited
          open.push(target)
          path.push(target)
        } else if (this.#group[target] === -1) low[node] = Math.min(low[node]!, order[target]!)
      }
    }
  }

  /** Group of a function; imported functions have none. */
  of(index: number): number {
    return this.#group[index - this.#imported] ?? -1
  }

  /** All that can be reached from the node is visited: when it is the first of its group, the group is whole. */
  #close(node: number, order: Int32Array, low: Int32Array, open: number[]): void {
    if (low[node] !== order[node]) return
    for (;;) {
      const member = open.pop()!
      this.#group[member] = node
      this.calleesFirst.push(this.#imported + member)
      if (member === node) return
    }
  }
}
