/** The `data` document as the gate writes it into a module's memory: equal to what the module itself would have made of it. */
import t from 'tap'
import { PolicyInstance } from '../../src/policy/host.ts'
import { compile } from '../harness/bundle.ts'
import { Chance } from '../harness/compared.ts'
import { drawJson } from '../harness/draw-json.ts'
import { packageOf } from '../harness/policy.ts'

const policy = await packageOf(
  compile(
    `both := [data.d, input.d]
     same if data.d == input.d
     found[key] := data.d[key] if some key in input.keys`,
    ['gate/authz/both', 'gate/authz/same', 'gate/authz/found'],
  ),
)
const maxMemoryBytes = 64 << 20
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))

function withData(data: string | Buffer, memory = maxMemoryBytes): PolicyInstance {
  return new PolicyInstance({ ...policy, data, maxMemoryBytes: memory })
}

function ask(instance: PolicyInstance, rule: string, input: string): string {
  return instance.evaluate(instance.entrypoints.get(`gate/authz/${rule}`)!, input)
}

t.test(`what is written is what the module makes of the same text, seed ${seed}`, (t) => {
  const chance = new Chance(seed)
  for (let i = 0; i < 300; i++) {
    const text = `{"d":${drawJson(chance, 4)}}`
    const instance = withData(text)
    // The result is the text of both values; the members come in the order of the module's tables.
    const result = ask(instance, 'both', text)
    const inner = result.slice('[{"result":['.length, -']}]'.length)
    const half = (inner.length - 1) / 2
    if (inner.slice(0, half) !== inner.slice(half + 1)) t.fail(`other text: ${text}`)
    if (ask(instance, 'same', text) !== '[{"result":true}]') t.fail(`not the same: ${text}`)
  }
  t.end()
})

t.test('every member of a large object is found by its name, and no other', (t) => {
  const names = Array.from({ length: 5000 }, (_, i) => `${i % 3 === 0 ? 'é' : ''}name-${i}`)
  const d = Object.fromEntries(names.map((name, i) => [name, i]))
  const instance = withData(JSON.stringify({ d }))
  const keys = [...names, 'name-5000', '', 'é']
  const [{ result }] = JSON.parse(ask(instance, 'found', JSON.stringify({ keys })))
  t.same(result, d)
  t.end()
})

t.test('half of a surrogate pair is U+FFFD, as in OPA', (t) => {
  t.equal(ask(withData('{"d":"a\\ud800"}'), 'both', '{"d":0}'), '[{"result":["a\ufffd",0]}]')
  t.end()
})

t.test('of two members with one name the last counts', (t) => {
  const instance = withData('{"d":{"a":1,"b":2,"a":3}}')
  t.same(JSON.parse(ask(instance, 'both', '{"d":0}')), [{ result: [{ a: 3, b: 2 }, 0] }])
  t.end()
})

t.test(
  `what is not JSON is refused where JSON.parse refuses it, and nowhere else, seed ${seed}`,
  (t) => {
    const chance = new Chance(seed)
    const marks = '{}[]",:\\eE+-.01 \n\t\u0001xtrufalsn/'
    let refused = 0
    for (let i = 0; i < 1000; i++) {
      let text = `{"d":${drawJson(chance, 3)}}`
      for (let changes = chance.number(3); changes > 0; changes--) {
        const at = chance.number(text.length + 1)
        const mark = chance.once(4) ? '' : chance.of([...marks])
        text = text.slice(0, at) + mark + text.slice(at + chance.number(2))
      }
      let valid = true
      try {
        JSON.parse(text)
      } catch {
        valid = false
        refused++
      }
      try {
        withData(text)
        if (!valid) t.fail(`taken: ${text}`)
      } catch (error) {
        if (valid) t.fail(`refused (${(error as Error).message}): ${text}`)
        if ((error as { code: string }).code !== 'ERR_BUNDLE_READ') t.fail(`${error}: ${text}`)
      }
    }
    t.ok(refused > 100 && refused < 900, `${refused} refused`)
    const bad: [string, Buffer | string][] = [
      ['bytes that are not UTF-8', Buffer.from('{"d":"\xff"}', 'latin1')],
      ['a second document', '{} {}'],
      ['nothing', ''],
    ]
    for (const [name, data] of bad)
      t.throws(() => withData(data), { code: 'ERR_BUNDLE_READ', message: /not JSON/ }, name)
    t.throws(() => withData(`${'['.repeat(1001)}${']'.repeat(1001)}`), {
      code: 'ERR_BUNDLE_LIMITS',
      message: /nested more than 1000 deep/,
    })
    t.end()
  },
)

t.test(
  'data that needs too much memory is refused by the name of the option, with what it needs',
  (t) => {
    const users = Object.fromEntries(
      Array.from({ length: 40_000 }, (_, i) => [`user-${i}`, { name: `Number ${i}`, n: i }]),
    )
    const text = JSON.stringify({ users })
    const needs = withData(text).memoryBytes
    t.ok(needs < 5 * text.length, `${needs} bytes of memory for ${text.length} of JSON`)
    let refused: { message: string } | undefined
    try {
      withData(text, needs / 2)
    } catch (error) {
      refused = error as Error
    }
    t.match(refused, {
      code: 'ERR_BUNDLE_LIMITS',
      message:
        /its data \(.* MiB of JSON\) needs about .* MiB of memory, and policy.max_memory allows/,
      hint: /raise policy.max_memory/,
    })
    const named = Number(/about ([\d.]+) MiB/.exec(refused!.message)![1]) * 2 ** 20
    t.ok(named > needs * 0.6 && named < needs * 1.4, `it says ${named}, and needs ${needs}`)
    t.throws(() => withData('{}', 64 << 10), {
      code: 'ERR_BUNDLE_LIMITS',
      message: /policy.max_memory/,
    })
    t.end()
  },
)
