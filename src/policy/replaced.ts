/**
 * The code of a module, rewritten so that it answers as `opa eval` does: the functions of natives.ts ask the host, large
 * collections are compared by the host, and the rules' own code is rewritten by planned.ts. Functions that are added come
 * last, so that the numbers of the others stay.
 */
import { leb, malformed, op, signedLeb } from './binary.ts'
import { body, type Guard, guardBodies, isOrdered, mayBeOther } from './guards.ts'
import { hostFunctions, type ReplacedNative, replacedNatives } from './natives.ts'
import { type PlannedCalls, rewritePlanned } from './planned.ts'

/** What is rewritten: bodies of the code section, and the functions' types, both in their order. */
export interface ModuleCode {
  readonly types: readonly number[]
  readonly bodies: readonly Uint8Array[]
  /** Names by index; indices begin with the imported functions. */
  readonly names: ReadonlyMap<number, string>
  readonly imported: readonly string[]
}

const noBlockType = 0x40
const i32 = 0x7f

/** Functions that walk a collection in an order that their result has. */
const walkers = new Set(['opa_value_transitive_closure', '__opa_value_transitive_closure'])
const planned = /^g\d+\.|^eval$/

/** @throws GateError ERR_BUNDLE_POLICY */
export function withAnswersOfHost(code: ModuleCode): Pick<ModuleCode, 'types' | 'bodies'> {
  const writer = new CodeWriter(code)
  for (const [native, replaced] of replacedNatives.entries()) writer.replaceNative(native, replaced)
  writer.replaceCompare('opa_value_compare_object')
  writer.replaceCompare('opa_value_compare_set')
  writer.rewriteRules()
  return writer
}

class CodeWriter {
  readonly types: number[]
  readonly bodies: Uint8Array[]
  readonly #names: ReadonlyMap<number, string>
  readonly #imported: readonly string[]
  readonly #indices: ReadonlyMap<string, number>
  readonly #guards: ReadonlyMap<Guard, number>

  constructor({ types, bodies, names, imported }: ModuleCode) {
    this.types = [...types]
    this.bodies = [...bodies]
    this.#names = names
    this.#imported = imported
    this.#indices = new Map(Array.from(names, ([index, name]) => [name, index]))
    const first = imported.length + bodies.length
    const guards = new Map<Guard, number>()
    const made = guardBodies((guard) => guards.get(guard)!)
    for (const [i, guard] of (Object.keys(made) as Guard[]).entries()) guards.set(guard, first + i)
    this.#guards = guards
    for (const each of Object.values(guardBodies((guard) => guards.get(guard)!)))
      this.#add('opa_malloc', each)
  }

  /** The function calls the host as a rule calls a builtin that is not compiled in. */
  replaceNative(native: number, { function: name, builtin, params, guards }: ReplacedNative): void {
    const index = this.#defined(name)
    if (index === undefined) return
    const given = Array.from({ length: params }, (_, i) => [op.localGet, i]).flat()
    const asking = this.#askHost(-1 - native, given, params, builtin)
    const answering =
      guards === undefined
        ? asking
        : this.#ifGuarded(guards, [given, op.call, leb(this.#moved(index))], asking)
    this.#set(index, body(0, answering))
  }

  /** The module compares large sets and objects after sorting them by insertion: the host does it in their place. */
  replaceCompare(name: string): void {
    const index = this.#defined(name)
    if (index === undefined) return
    const given = [op.localGet, 0, op.localGet, 1]
    const asking = this.#askHost(hostFunctions.compare, given, 2, name)
    const own = this.#moved(index)
    this.#set(
      index,
      body(0, this.#ifGuarded(['short', 'short'], [given, op.call, leb(own)], asking)),
    )
  }

  rewriteRules(): void {
    const [iterate, get] = ['opa_value_iter', 'opa_value_get'].map((name) => this.#defined(name))
    if (iterate === undefined || get === undefined) return
    const given = [op.localGet, 0, op.localGet, 1]
    const iterateInOrder = this.#add(
      'opa_json_parse',
      body(
        0,
        isOrdered,
        op.if,
        i32,
        given,
        op.call,
        leb(iterate),
        op.else,
        this.#askHost(hostFunctions.nextKey, given, 2, 'iteration'),
        op.end,
      ),
    )
    const getFromData = this.#add('opa_json_parse', body(1,
      given, op.call, leb(get), op.localTee, 2, op.if, noBlockType, op.localGet, 2, op.return, op.end,
      mayBeOther, op.if, i32, this.#askHost(hostFunctions.otherKey, given, 2, 'references'), op.else, op.i32Const, 0, op.end,
    )) // biome-ignore format: code
    const calls: PlannedCalls = {
      iterate,
      get,
      append: this.#defined('opa_array_append'),
      newArray: this.#defined('opa_array_with_cap'),
      iterateInOrder,
      getFromData,
    }
    for (const [i, each] of this.bodies.entries()) {
      const name = this.#names.get(this.#imported.length + i) ?? ''
      if (planned.test(name)) this.bodies[i] = rewritePlanned(each, calls, name !== 'eval')
      else if (walkers.has(name)) this.bodies[i] = redirected(each, iterate, iterateInOrder)
    }
  }

  #defined(name: string): number | undefined {
    const index = this.#indices.get(name)
    return index === undefined || index < this.#imported.length ? undefined : index
  }

  #set(index: number, written: Uint8Array): void {
    this.bodies[index - this.#imported.length] = written
  }

  /** Adds a function of the same type as a known one. @returns its index. */
  #add(typedAs: string, written: Uint8Array): number {
    const known = this.#defined(typedAs)
    if (known === undefined) throw malformed(`it has no function ${typedAs}`)
    return this.#append(this.types[known - this.#imported.length]!, written)
  }

  /** Adds the present body of a function under a new index. */
  #moved(index: number): number {
    const at = index - this.#imported.length
    return this.#append(this.types[at]!, this.bodies[at]!)
  }

  #append(type: number, written: Uint8Array): number {
    this.types.push(type)
    this.bodies.push(written)
    return this.#imported.length + this.bodies.length - 1
  }

  #askHost(id: number, given: readonly number[], params: number, what: string): number[] {
    const host = this.#imported.indexOf(`opa_builtin${params}`)
    if (host === -1) throw malformed(`it cannot ask the host for ${what}`)
    return [op.i32Const, ...signedLeb(id), op.i32Const, 0, ...given, op.call, ...leb(host)]
  }

  #ifGuarded(guards: readonly (Guard | undefined)[], then: Parameters<typeof body>[1], otherwise: readonly number[]): Parameters<typeof body>[1] {
    const asked = guards.flatMap((guard, i) => guard === undefined ? [] : [[op.localGet, i, op.call, ...leb(this.#guards.get(guard)!)]])
    const all = asked.flatMap((one, i) => (i === 0 ? one : [...one, op.i32And]))
    return [all, op.if, i32, then, op.else, otherwise, op.end]
  } // biome-ignore format: code
}

/**
 * A body of OPA's C library in which another function is called in place of one. Its linker writes indices in five bytes, so
 * that no other instruction holds the same ones.
 */
function redirected(written: Uint8Array, from: number, to: number): Uint8Array {
  const bytes = Buffer.from(written)
  const [old, now] = [from, to].map((index) => Buffer.of(op.call, ...inFiveBytes(index)))
  for (let at = bytes.indexOf(old!); at !== -1; at = bytes.indexOf(old!, at)) bytes.set(now!, at)
  return bytes
}

function inFiveBytes(value: number): number[] {
  const shifts = [0, 7, 14, 21, 28]
  return shifts.map((by) => ((value >>> by) & 0x7f) | (by === 28 ? 0 : 0x80))
}
