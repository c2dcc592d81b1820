/** Counting the steps of a module changes nothing but that it ends: any loop, any recursion, and what is refused. */
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { op } from '../../src/policy/binary.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { prepareModule, replaceNatives } from '../../src/policy/module.ts'
import { ModuleParts } from '../../src/policy/module-parts.ts'
import { allowStepsExport, interruptible, stepsExport } from '../../src/policy/steps.ts'
import { compile } from '../harness/bundle.ts'
import { Chance } from '../harness/compared.ts'
import { activePolicy, packageOf } from '../harness/policy.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const decision = 'gate/authz/decision'
const i32 = 0x7f
const empty = 0x40

const leb = (value: number): number[] =>
  value < 128 ? [value] : [(value & 127) | 128, ...leb(value >>> 7)]
const vector = (entries: readonly (readonly number[])[]): number[] => [
  ...leb(entries.length),
  ...entries.flat(),
]
const section = (id: number, content: readonly number[]) => [id, ...leb(content.length), ...content]
const text = (value: string) => [value.length, ...Buffer.from(value)]

interface Written {
  /** Code of `(i32) => i32`, each without locals. The first is `run`, the second has the name `opa_malloc_init`. */
  readonly functions: readonly (readonly number[])[]
  readonly element?: readonly number[]
}

/** A module with two i32 locals in each function, a table of all of them, and the one import that OPA's modules have. */
function moduleOf({ functions, element }: Written): Buffer {
  const bodies = functions.map((code) => {
    const body = [1, 2, i32, ...code, op.end]
    return [...leb(body.length), ...body]
  })
  const numbers = functions.map((_, i) => leb(i + 1))
  const named = [
    [...leb(0), ...text('opa_builtin0')],
    [...leb(2), ...text('opa_malloc_init')],
  ]
  const names = [...text('name'), 1, ...leb(vector(named).length), ...vector(named)]
  return Buffer.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector([[0x60, 2, i32, i32, 1, i32], [0x60, 1, i32, 1, i32]])),
    ...section(2, vector([[...text('env'), ...text('opa_builtin0'), 0, 0]])),
    ...section(3, vector(functions.map(() => [1]))),
    ...section(4, vector([[0x70, 0, ...leb(functions.length)]])),
    ...section(5, vector([[0, 1]])),
    ...section(6, vector([[i32, 1, op.i32Const, 0, op.end]])),
    ...section(7, vector([[...text('run'), 0, 1]])),
    ...section(9, element ?? vector([[0, op.i32Const, 0, op.end, ...vector(numbers)]])),
    ...section(10, vector(bodies)),
    ...section(0, names),
  ]) // biome-ignore format: a module
}

interface Exports {
  readonly run: (argument: number) => number
  readonly [allowStepsExport]: (steps: number) => void
  readonly [stepsExport]: WebAssembly.Global
}

function instantiate(bytes: Uint8Array): Exports {
  const module = new WebAssembly.Module(Buffer.from(bytes))
  const env = { opa_builtin0: () => 0 }
  return new WebAssembly.Instance(module, { env }).exports as unknown as Exports
}

const get = [op.localGet, 0]
const less = [op.localGet, 0, op.i32Const, 1, op.i32Sub]
const self = (index: number) => [op.call, index + 1]
const endless: Readonly<Record<string, Written>> = {
  'an empty loop': { functions: [[op.loop, empty, op.br, 0, op.end, ...get], get] },
  'a loop with a result': {
    functions: [[op.loop, i32, ...get, op.br, 0, op.end], get],
  },
  'a loop in a loop': {
    functions: [
      [op.loop, empty, op.loop, empty, ...get, op.brIf, 1, op.br, 0, op.end, op.end, ...get],
      get,
    ],
  },
  'a loop by a table of branches': {
    functions: [[op.loop, empty, ...get, op.brTable, 2, 0, 0, 0, op.end, ...get], get],
  },
  'a loop around a loop that ends': {
    functions: [
      [
        ...[op.loop, empty, op.i32Const, 5, op.localSet, 1],
        ...[op.loop, empty, op.localGet, 1, op.i32Const, 1, op.i32Sub, op.localTee, 1, op.brIf, 0, op.end],
        ...[op.br, 0, op.end, ...get],
      ], // biome-ignore format: two loops
      get,
    ],
  },
  'a recursion that branches': {
    functions: [
      [...get, op.i32Eqz, op.if, empty, ...get, op.return, op.end]
        .concat(less, self(0), op.drop, less, self(0)),
      get,
    ], // biome-ignore format: one function
  },
  'two functions that call each other': {
    functions: [
      [...get, op.i32Eqz, op.if, empty, ...get, op.return, op.end]
        .concat(less, self(2), op.drop, less, self(2)),
      get,
      [...get, ...self(0)],
    ], // biome-ignore format: one function
  },
  'a recursion through the table': {
    functions: [
      [...get, op.i32Eqz, op.if, empty, ...get, op.return, op.end]
        .concat(less, op.i32Const, 0, op.callIndirect, 1, 0, op.drop, less, op.i32Const, 0, op.callIndirect, 1, 0),
      get,
    ], // biome-ignore format: one function
  },
  'calls that multiply, without any loop': {
    functions: [
      [...get, ...self(2)],
      get,
      ...Array.from({ length: 60 }, (_, i) =>
        i === 59 ? get : [...get, ...self(i + 3), op.drop, ...get, ...self(i + 3)],
      ),
    ],
  },
}

t.test('whatever goes on without end is interrupted, and the module goes on working', async (t) => {
  for (const [name, written] of Object.entries(endless)) {
    const {
      run,
      [allowStepsExport]: allow,
      [stepsExport]: steps,
    } = instantiate(interruptible(moduleOf(written)))
    for (let i = 0; i < 3; i++) {
      allow(200)
      t.throws(() => run(50), WebAssembly.RuntimeError, name)
      t.ok(steps.value < 0, name)
    }
  }
})

/** Code that leaves the stack as it is; each loop has a counter of its own in a local, so that it ends. */
function statement(chance: Chance, depth: number): number[] {
  const value = (): number[] =>
    chance.of([
      [op.localGet, 0],
      [op.localGet, 1],
      [op.i32Const, chance.number(60)],
    ])
  const change = (): number[] => [
    ...value(),
    ...value(),
    chance.of([0x6a, 0x6b, 0x6c, 0x73]),
    op.localSet,
    1,
  ]
  if (depth === 0) return change()
  const inner = () =>
    Array.from({ length: 1 + chance.number(2) }, () => statement(chance, depth - 1)).flat()
  return chance.of([
    change,
    () => [op.block, empty, ...inner(), ...value(), op.brIf, 0, ...inner(), op.end],
    () => [...value(), op.if, empty, ...inner(), op.else, ...inner(), op.end],
    () => [op.block, empty, op.block, empty, ...value(), op.brTable, 1, 0, 1, op.end, ...inner(), op.end],
    // Once around: the memory remembers that the loop was there, so that it ends whatever is in it.
    () => {
      const at = leb(64 * (1 + chance.number(1000)))
      const limit = 2 + chance.number(40)
      return [
        ...[op.block, empty, op.loop, empty],
        ...[op.i32Const, 0, op.i32Const, 0, op.i32Load, 2, ...at, op.i32Const, 1, op.i32Add, op.i32Store, 2, ...at],
        ...[op.i32Const, 0, op.i32Load, 2, ...at, op.i32Const, limit, 0x4b, op.brIf, 1],
        ...inner(),
        ...[op.br, 0, op.end, op.end],
      ]
    },
  ])() // biome-ignore format: code
}

t.test(`generated modules answer as before, seed ${seed}`, async (t) => {
  const chance = new Chance(seed)
  let rewritten = 0
  for (let i = 0; i < 150; i++) {
    const functions = Array.from({ length: 3 + chance.number(4) }, (_, f) => [
      ...Array.from({ length: 3 }, () => statement(chance, 3)).flat(),
      // A call of a later function: no recursion.
      ...(f < 2 ? [op.localGet, 1, ...self(f + 2), op.localSet, 1] : []),
      ...[op.localGet, 1],
    ])
    const bytes = moduleOf({ functions: [functions[0]!, get, ...functions.slice(1)] })
    const counted = interruptible(bytes)
    rewritten += counted.length - bytes.length
    for (const argument of [0, 1, -1, chance.number(1000)]) {
      const plain = instantiate(bytes)
      const again = instantiate(counted)
      again[allowStepsExport](0x7fffffff)
      const results = [plain.run(argument), again.run(argument)]
      if (results[0] !== results[1]) t.fail(`module ${i}, ${argument}: ${results.join(' ')}`)
    }
  }
  t.ok(rewritten > 0)
})

t.test('an instruction that is not known is refused, never skipped', async (t) => {
  const refused = { code: 'ERR_BUNDLE_POLICY' }
  const of = (code: readonly number[]) => () =>
    interruptible(moduleOf({ functions: [[...code, ...get], get] }))
  t.doesNotThrow(of([op.nop]))
  const known = new Set<number>(Object.values(op).filter((code) => code !== op.prefixed))
  for (let code = 0; code < 256; code++) {
    const isNumeric = code >= op.i32Eqz && code <= op.lastNumeric
    const isAccess = code >= op.i32Load && code <= op.lastStore
    if (code !== op.prefixed && !known.has(code) && !isNumeric && !isAccess) t.throws(of([code, 0, 0]), refused, `0x${code.toString(16)}`)
  } // biome-ignore format: short
  // What follows 0xfc: up to 7 conversions, then instructions for memory and tables.
  t.doesNotThrow(of([...get, 0xb2, op.prefixed, 7, op.drop]))
  for (const code of [8, 10, 11, 17])
    t.throws(of([op.prefixed, code, 0, 0]), refused, `0xfc ${code}`)
  // The count itself, and the functions that are added, are not in the module's reach.
  t.throws(of([op.i32Const, 0, op.globalSet, 1]), refused)
  t.throws(of([...get, op.call, 3]), refused)
  t.throws(of([op.block, 0x6f, op.end]), refused)
  t.throws(of([op.block]), refused)
  t.throws(of([op.end]), refused)
})

t.test('a policy answers as before, and as before it was interrupted', async (t) => {
  const rego = `
    default decision := {"allowed": false}
    decision := {"allowed": true, "reason": reason} if input.n
    reason := json.marshal([sort(input.xs), {x: count(s) | some x, s in object.union(input.o, {"z": "z"})},
      [x | walk(input.o, [_, x]); is_number(x)], [m | some x in input.xs; m := regex.match("^[a-f]+.*[0-9]$", x)],
      [c | some a in input.xs; some b in input.xs; c := concat("-", [a, upper(b)]); startswith(c, "a")],
      {sprintf("%v", [x]) | some x in numbers.range(1, input.n)}, split(input.text, "a"), sum(input.ns) * 1.5])`
  const { wasm, data } = await readArchive(compile(rego), {
    maxBundleBytes: 1 << 26,
    maxUnpackedBytes: 1 << 28,
  })
  const [plain, counted] = [replaceNatives(wasm), prepareModule(wasm)].map(
    ({ bytes, initialPages }) => {
      const module = new WebAssembly.Module(Buffer.from(bytes))
      return { module, initialPages, data, maxMemoryBytes: 64 << 20, keepHeap: true }
    },
  ) // biome-ignore format: short
  t.throws(() => new PolicyInstance(plain!), { code: 'ERR_BUNDLE_POLICY' }, 'not without a count')
  const instance = new PolicyInstance(counted!)
  const entrypoint = instance.entrypoints.get(decision)!
  const chance = new Chance(seed)
  const word = () =>
    Array.from({ length: chance.number(9) }, () => chance.of([...'abcdefg0123é'])).join('')
  let interrupted = 0
  for (let i = 0; i < 200; i++) {
    const xs = Array.from({ length: chance.number(30) }, word)
    const o = Object.fromEntries(xs.map((x) => [x, chance.of([x, xs.slice(0, 3), { x }])]))
    const input = JSON.stringify({ n: 1 + chance.number(50), xs, o, text: word(), ns: [1, chance.number(99)] })
    // An instance that never was interrupted is the measure.
    const expected = new PolicyInstance(counted!).evaluate(entrypoint, input)
    t.equal(instance.evaluate(entrypoint, input), expected, input)
    try {
      instance.evaluate(entrypoint, input, 'json', { limitMs: chance.number(1000) / 1000, strict: true })
    } catch (error) {
      t.match(error, { code: 'ERR_POLICY_TIMEOUT' })
      interrupted++
    }
    t.equal(instance.broken, false)
    t.equal(instance.evaluate(entrypoint, input), expected, `again: ${input}`)
  } // biome-ignore format: short
  t.ok(interrupted > 20, `${interrupted} were interrupted`)
})

t.test(
  'a member that `with` sets in what is no object ends the evaluation, and changes nothing',
  async (t) => {
    const policy = await activePolicy(`
    default decision := false
    probe := input.x
    decision if { input.mode == "good"; data.kept == {"a": [1, 2, 3]} }
    decision if { input.mode == "bad"; probe with input as input.value with input.x as "y" }`,
    { data: { kept: { a: [1, 2, 3] } } },
  ) // biome-ignore format: short
    for (const value of ['1', '"text"', 'true', 'null', '[]', '[1,2]', '12345678901234567890']) {
      for (let i = 0; i < 20; i++) {
        const bad = policy.decide(decision, `{"mode":"bad","value":${value}}`)
        t.match(bad, {
          allowed: false,
          failure: 'ERR_POLICY_FAILED',
          detail: /`with` sets a member/,
        })
        t.equal(policy.decide(decision, '{"mode":"good"}').allowed, true)
      }
    }
    t.equal(policy.decide(decision, '{"mode":"bad","value":{"z":1}}').allowed, true)
  },
)

t.test('no loop is free by the name of its function, and the one of OPA that is free is known', async (t) => {
  const { wasm } = await readArchive(compile('decision := true'), { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 })
  const { bytes } = replaceNatives(wasm)
  const module = new ModuleParts(Buffer.from(bytes))
  const counted = new ModuleParts(Buffer.from(interruptible(bytes)))
  const [index] = [...module.names].find(([, name]) => name === 'opa_json_lex_read_string')!
  const at = index - module.imported.length
  t.strictSame(counted.bodies[at], module.bodies[at], 'not counted')
  const other = Buffer.from(bytes)
  const from = other.indexOf(module.bodies[at]!)
  // One local variable more.
  other[from + 1]! += 1
  const rewritten = new ModuleParts(Buffer.from(interruptible(other)))
  t.not(rewritten.bodies[at]!.length, module.bodies[at]!.length, 'counted where it is another')
}) // biome-ignore format: short

t.test('what the host does for a module is part of the time of an evaluation', async (t) => {
  const lists = Array.from({ length: 300 }, (_, i) =>
    Array.from({ length: 300 }, (_, k) => `v${i}.${k}`),
  )
  const objects = Array.from({ length: 6000 }, (_, i) => ({ [`key-${i}`]: { value: i } }))
  const cases: [what: string, rego: string, input: unknown][] = [
    ['large sets that are compared', 'decision if count({{y | some y in x} | some x in input.all}) == 1', lists],
    ['many objects that are merged', 'decision if count(object.union_n(input.all)) == 1', objects],
  ] // biome-ignore format: a table
  for (const [what, rego, all] of cases) {
    const policy = await packageOf(compile(rego))
    const instance = new PolicyInstance({ ...policy, maxMemoryBytes: 64 << 20 })
    const began = performance.now()
    try {
      instance.evaluate(0, JSON.stringify({ all }), 'json', { limitMs: 100 })
    } catch (error) {
      t.match(error, { code: 'ERR_POLICY_TIMEOUT' }, what)
    }
    const tookMs = performance.now() - began
    t.ok(tookMs < 1500, `${what}: ${Math.round(tookMs)} ms`)
  }
})
