/** Thousands of inputs that throw, conflict, trap and fill the memory: afterwards the same instance answers rightly. */
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { findOpa, runOpa } from '../../src/bundle/opa.ts'
import { op } from '../../src/policy/binary.ts'
import { ActivePolicy } from '../../src/policy/engine.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { replaceNatives } from '../../src/policy/module.ts'
import { ModuleParts } from '../../src/policy/module-parts.ts'
import type { PolicyPackage } from '../../src/policy/package.ts'
import { interruptible } from '../../src/policy/steps.ts'
import { native } from '../harness/builtins.ts'
import { compile } from '../harness/bundle.ts'
import { Chance } from '../harness/compared.ts'
import { hostileBody, hostilePolicy } from '../harness/hostile.ts'
import { activePolicy, packageOf } from '../harness/policy.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const decision = 'gate/authz/decision'

t.test(`3,000 hostile inputs, seed ${seed}: only the good one passes`, async (t) => {
  const policy = await activePolicy(hostilePolicy, { maxMemoryBytes: 64 << 20 })
  const chance = new Chance(seed)
  const wrong: string[] = []
  let failed = 0
  for (let i = 0; i < 3000; i++) {
    const { text, good } = hostileBody(chance)
    const answer = policy.decide(decision, `{"parsed_body":${text}}`)
    if (answer.allowed !== good) wrong.push(text.slice(0, 500))
    if (answer.failure !== undefined) failed++
  }
  t.same(wrong, [])
  t.ok(failed > 300, `${failed} of them ended an evaluation`)
})

t.test('input too deep for the stack denies, and the next evaluation is right', async (t) => {
  const policy = await activePolicy(hostilePolicy)
  const good = '{"parsed_body":{"who":"alice"}}'
  for (const depth of [10_000, 100_000, 300_000]) {
    const deep = `{"parsed_body":{"who":"bob","x":${'['.repeat(depth)}${']'.repeat(depth)}}}`
    t.equal(policy.decide(decision, deep).allowed, false, `${depth}`)
    t.equal(policy.decide(decision, good).allowed, true)
  }
})

t.test(
  'an instance in the place of one that trapped has its data, and nothing of what was asked',
  async (t) => {
    const names = Object.fromEntries(Array.from({ length: 20_000 }, (_, n) => [`name-${n}`, n]))
    const policy = await activePolicy(
      `default decision := false
    decision if data.names[input.name] == input.number
    decision if input.also == "asked"`,
      { data: { names } },
    )
    const levels = `${'['.repeat(300_000)}${']'.repeat(300_000)}`
    const deep = `{"number":7,"also":"nothing","x":${levels}}`
    for (let i = 0; i < 5; i++) {
      t.match(policy.decide(decision, deep), { allowed: false, failure: 'ERR_POLICY_FAILED' })
      for (const n of [0, 7, 19_999]) {
        t.equal(policy.decide(decision, `{"name":"name-${n}","number":${n}}`).allowed, true)
        t.equal(policy.decide(decision, `{"name":"name-${n}","number":${n + 1}}`).allowed, false)
        t.equal(policy.decide(decision, `{"name":"name-${n}"}`).allowed, false)
      }
    }
  },
)

t.test(
  'where no other instance can be made, no request is let through by the broken one',
  async (t) => {
    const policy = new ActivePolicy(await trappingPackage(), 64 << 20)
    const good = '{"who":"alice"}'
    t.equal(policy.decide(decision, good).allowed, true)
    policy.decide(decision, '{"who":"alice","lower":"X"}')
    // No memory left, say: it cannot be brought about at will.
    const { Instance } = WebAssembly
    WebAssembly.Instance = class {
      constructor() {
        throw new RangeError('out of memory')
      }
    } as unknown as typeof Instance
    for (let i = 0; i < 2; i++)
      t.match(policy.decide(decision, good), { allowed: false, failure: 'ERR_POLICY_FAILED' })
    WebAssembly.Instance = Instance
    t.equal(policy.decide(decision, good).allowed, true)
  },
)

/** A policy in whose module one function always traps: nothing that is known makes a real module do so. */
async function trappingPackage(): Promise<PolicyPackage> {
  const rego = `default decision := false
    decision if { input.who == "alice"; not lowered }
    lowered if lower(input.lower) == "x"`
  const bundle = compile(rego, [decision])
  const { wasm } = await readArchive(bundle, { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 })
  const { bytes, initialPages } = replaceNatives(wasm)
  const parts = new ModuleParts(bytes)
  const bodies = parts.bodies.map((body, i) =>
    parts.names.get(parts.imported.length + i) === 'opa_strings_lower'
      ? Buffer.of(0, op.unreachable, op.end)
      : body,
  )
  const traps = parts.written({ types: [], functions: [], globals: [], exports: [], bodies })
  const module = new WebAssembly.Module(Buffer.from(interruptible(traps)))
  return { ...(await packageOf(bundle)), module, initialPages }
}

t.test('what a kept heap takes from an evaluation, it gets', async (t) => {
  const doc = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`u${i}`, i]))
  const rego = `default decision := false
    decision if { regex.match("^u[0-9]+$", input.name); data.doc[input.name] == 7 }`
  const bundle = await packageOf(compile(rego, [decision], { doc }))
  const need = new PolicyInstance({ ...bundle, maxMemoryBytes: 64 << 20 }).memoryBytes
  const asked = JSON.stringify({ name: 'u7', more: Array.from({ length: 100 }, (_, i) => `${i}`) })
  for (const morePages of [1, 2, 4, 8]) {
    const policy = new ActivePolicy(bundle, need + morePages * 65536)
    let allowed = 0
    for (let i = 0; i < 2000; i++) if (policy.decide(decision, asked).allowed) allowed++
    t.equal(allowed, 2000, `${morePages} pages above what the data takes`)
  }
})

t.test('patterns that callers choose do not stay on a kept heap', async (t) => {
  const policy = await activePolicy(hostilePolicy, { maxMemoryBytes: 16 << 20 })
  for (let i = 0; i < 3000; i++) {
    const asked = `{"parsed_body":{"who":"bob","pattern":"x{${i % 900}}y${i}"}}`
    t.equal(policy.decide(decision, asked).allowed, false)
  }
  t.equal(policy.decide(decision, '{"parsed_body":{"who":"alice"}}').allowed, true)
})

t.test(
  'wherever the data ends, an instance from an image has the memory of the first',
  async (t) => {
    const rego = `default decision := false
    decision if data.doc[input.name] == input.number`
    const { module, initialPages } = await packageOf(compile(rego, [decision], { doc: {} }))
    for (let n = 11_500; n < 11_530; n++) {
      const doc = Object.fromEntries(Array.from({ length: n }, (_, i) => [`user-${i}`, i]))
      const data = JSON.stringify({ doc })
      const options = { module, initialPages, data, maxMemoryBytes: 64 << 20 }
      const first = new PolicyInstance(options)
      const again = new PolicyInstance({ ...options, data: first.image() })
      t.equal(again.memoryBytes, first.memoryBytes)
      // More than what is free of the last page.
      const input = JSON.stringify({ name: 'user-7', number: 7, more: Array(20_000).fill(1) })
      t.equal(again.evaluate(again.entrypoints.get(decision)!, input), '[{"result":true}]', `${n}`)
    }
  },
)

/** Those that are compiled into the module and may be called by their names, with how many arguments each takes. */
function callable(): Map<string, number> {
  const { builtins } = JSON.parse(
    runOpa(findOpa(process.cwd()), ['capabilities', '--current']),
  ) as {
    readonly builtins: readonly {
      readonly name: string
      readonly deprecated?: boolean
      readonly relation?: boolean
      readonly decl: { readonly args?: readonly unknown[] }
    }[]
  }
  const found = builtins
    .filter(
      ({ name, deprecated, relation }) =>
        deprecated !== true && relation !== true && !name.startsWith('internal.'),
    )
    .filter(({ name }) => [...native, 'indexof', 'json.is_valid', 'json.unmarshal'].includes(name))
    .filter(({ name }) => !['assign', 'eq'].includes(name))
  return new Map(found.map(({ name, decl }) => [name, decl.args?.length ?? 0]))
}

t.test('whatever a builtin of the module is asked, the next evaluation is right', async (t) => {
  const functions = callable()
  t.ok(functions.size > 30, `${functions.size} functions`)
  const rules = Array.from(functions, ([name, arity]) => {
    const args = Array.from({ length: arity }, (_, i) => `args[${i}]`)
    return `answer := value if { input.name == "${name}"; value := ${name}(${args.join(', ')}) }`
  })
  const policy = await activePolicy(`
    args := [term(arg) | some arg in input.args]
    term(arg) := arg.value
    term(arg) := {each | some each in arg.set} if arg.set
    constants := [true, false, null, 0, 1, 2, "", "a", [], {}, ["a", true], {"a": false}]
    seen := [[type_name(each), each == constants[i], constants[i]] | some i, each in input.same]
    # Memory that the builtin has freed is used again by what comes after it.
    decision := {"allowed": true, "answers": answers, "seen": seen, "words": words} if {
      answers := [answer | answer]
      words := [upper(word) | count(answers) < 2; some word in ["b", "cd", "efghijklm"]]
    }
    ${rules.join('\n')}`)
  const same = [true, false, null, 0, 1, 2, '', 'a', [], {}, ['a', true], { a: false }]
  const ask = (name: string, args: readonly unknown[]): string | undefined =>
    policy.decide(decision, JSON.stringify({ name, args, same })).resultJson
  const texts = ['true', 'null', '[true]', '{"a":false}', '0', 'é', '(', '[a', '*', '.', 'x/a']
  const plain = [...same, ...texts, -1, 1.5, 1e19, ['a', 'b'], [['a'], ['b']]]
  const sets = [[], [true, false, null], ['a'], [[1], [2]]]
  const values = [...plain.map((value) => ({ value })), ...sets.map((set) => ({ set }))]
  const right = ask('', [])
  t.match(right, /"seen":\[\["boolean",true,true\],/)
  for (const [name, arity] of functions) {
    const stride = arity < 3 ? 1 : 3
    const some = values.filter((_, i) => i % stride === 0)
    let lists: unknown[][] = [[]]
    for (let i = 0; i < arity; i++)
      lists = lists.flatMap((list) => some.map((value) => [...list, value]))
    for (const list of lists) {
      ask(name, list)
      if (ask('', []) === right) continue
      t.fail(`${name}(${JSON.stringify(list)}) changes what is answered next`)
      return
    }
  }
})

t.test('what is not all JSON is no JSON to a policy', async (t) => {
  const policy = await activePolicy(`
    valid := json.is_valid(input.text)
    decision := {"allowed": true, "reason": sprintf("%v %v", [read, valid])} if {
      read := [value | value := json.unmarshal(input.text)]
    }`)
  const ask = (text: string): unknown => policy.decide(decision, JSON.stringify({ text })).reason
  for (const text of ['[1] x', '{"a":1}}', '[1,]', '01', '1.', 'truex', '{1}', '{1:2}', '[1 2]'])
    t.equal(ask(text), '[] false', text)
  t.equal(ask('"\\ud800"'), '["\ufffd"] true')
  t.equal(ask(' {"a":[1.50]} '), '[{"a": [1.50]}] true')
  t.equal(ask('true'), '[true] true')
  const deep = `${'['.repeat(5000)}${']'.repeat(5000)}`
  t.match(policy.decide(decision, JSON.stringify({ text: deep })), {
    allowed: false,
    failure: 'ERR_POLICY_FAILED',
  })
})

t.test('an empty text is at no place in another', async (t) => {
  const policy = await activePolicy(`
    default decision := false
    decision if indexof("read,write", input.scope) >= 0`)
  const ask = (scope: string): boolean => policy.decide(decision, JSON.stringify({ scope })).allowed
  t.same(['write', 'admin', ''].map(ask), [true, false, false])
})
