/** Changes of the data between two decisions: every document is the one that `opa run` has after the same changes. */
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { type DataOperation, parsePatch } from '../../src/policy/patch.ts'
import { misplaced, rulePathsOf } from '../../src/policy/rule-paths.ts'
import { compile } from '../harness/bundle.ts'
import { Chance } from '../harness/compared.ts'
import { drawJson } from '../harness/draw-json.ts'
import { OpaServer } from '../harness/opa-server.ts'
import { packageOf } from '../harness/policy.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const maxMemoryBytes = 64 << 20
// It matches a pattern, so that its heap is kept between evaluations.
const policy = await packageOf(
  compile('document := data.d\nmatches if regex.match("^a+$", input.x)', [
    'gate/authz/document',
    'gate/authz/matches',
  ]),
)

function withData(d: unknown, memory = maxMemoryBytes): PolicyInstance {
  const data = JSON.stringify({ d })
  return new PolicyInstance({ ...policy, data, maxMemoryBytes: memory, keepHeap: true })
}

/** The document as a rule sees it. */
function seen(instance: PolicyInstance): unknown {
  const text = instance.evaluate(instance.entrypoints.get('gate/authz/document')!, '{}')
  return JSON.parse(text)[0]?.result
}

function matches(instance: PolicyInstance, x: string): boolean {
  const id = instance.entrypoints.get('gate/authz/matches')!
  return instance.evaluate(id, JSON.stringify({ x })) !== '[]'
}

type Json = null | boolean | number | string | Json[] | { [name: string]: Json }

/** A path that is often there, sometimes nearly. Without an empty step: opa trims those, here they are refused. */
function drawPath(chance: Chance, document: Json): string[] {
  const path = ['d']
  let at = document
  while (typeof at === 'object' && at !== null && !chance.once(3)) {
    const names = Array.isArray(at)
      ? [...at.keys(), at.length, '-'].map(String)
      : Object.keys(at).filter((name) => name !== '')
    const name = chance.once(6) || names.length === 0 ? `new${chance.number(4)}` : chance.of(names)
    path.push(name)
    at = (at as Record<string, Json>)[name] ?? null
  }
  return path
}

function drawPatch(chance: Chance, document: Json): object[] {
  const length = 1 + chance.number(3)
  return Array.from({ length }, () => {
    let path = drawPath(chance, document)
    // The whole of it only now and then: little would be left to change.
    while (path.length === 1 && !chance.once(10)) path = drawPath(chance, document)
    const pointer = path
      .map((step) => `/${step.replaceAll('~', '~0').replaceAll('/', '~1')}`)
      .join('')
    const op = chance.of(['add', 'add', 'replace', 'remove'])
    const value = JSON.parse(drawJson(chance, 2))
    return op === 'remove' ? { op, path: pointer } : { op, path: pointer, value }
  })
}

/**
 * One operation after the other: within one change opa 1.22 does not find what an earlier operation has added, and
 * replaces what an earlier one has removed. @returns true when it made them all; otherwise it has the document as before
 */
async function madeByOpa(
  opa: OpaServer,
  patch: readonly object[],
  document: Json,
): Promise<boolean> {
  for (const operation of patch) {
    if (await opa.patch('/v1/data', [operation])) continue
    await opa.put('/v1/data', { d: document })
    return false
  }
  return true
}

t.test(
  `random changes give the document that opa run has, or are refused by both, seed ${seed}`,
  async (t) => {
    const opa = await OpaServer.start()
    t.teardown(() => opa.stop())
    const chance = new Chance(seed)
    let [made, refused] = [0, 0]
    for (let round = 0; round < 8; round++) {
      let document = JSON.parse(
        `{"a":${drawJson(chance, 4)},"b":[${drawJson(chance, 3)}],"c":{"d":${drawJson(chance, 3)}}}`,
      ) as Json
      await opa.put('/v1/data', { d: document })
      const instance = withData(document)
      for (let i = 0; i < 40; i++) {
        const patch = drawPatch(chance, document)
        const text = JSON.stringify(patch)
        const taken = await madeByOpa(opa, patch, document)
        let why: unknown
        try {
          instance.patch(parsePatch(text, 'json-patch'))
          made++
        } catch (error) {
          why = error
          refused++
        }
        if (taken !== (why === undefined))
          t.fail(`opa ${taken}, here ${why}: ${text} on ${JSON.stringify(document)}`)
        const theirs = ((await opa.get('/v1/data')) as { d?: Json }).d
        const ours = JSON.parse(instance.dataText().toString()).d
        if (!t.strictSame(ours, theirs)) t.comment(`${text} on ${JSON.stringify(document)}`)
        t.strictSame(seen(instance), theirs, 'as a rule sees it')
        t.ok(matches(instance, 'aaa') && !matches(instance, 'b'))
        if (theirs === undefined) break
        document = theirs
      }
    }
    t.ok(made > 60 && refused > 10, `${made} made, ${refused} refused`)
  },
)

t.test('a table that grows by changes keeps all its members, and finds them', (t) => {
  const instance = withData({ users: {}, list: [] })
  const users: Record<string, number> = {}
  for (let i = 0; i < 6000; i++) {
    users[`user-${i}`] = i
    instance.patch([
      { op: 'add', path: ['d', 'users', `user-${i}`], value: `${i}` },
      { op: 'add', path: ['d', 'list', '-'], value: `${i}` },
    ])
  }
  for (let i = 0; i < 6000; i += 2) {
    delete users[`user-${i}`]
    instance.patch([{ op: 'remove', path: ['d', 'users', `user-${i}`], value: undefined }])
  }
  t.strictSame(seen(instance), { users, list: Array.from({ length: 6000 }, (_, i) => i) })
  t.end()
})

t.test('all operations of a change are made or none, whatever refuses the last one', (t) => {
  const before = { a: { b: 1 }, list: [1, 2, 3], s: 'x' }
  const first: DataOperation[] = [
    { op: 'add', path: ['d', 'a', 'c'], value: '{"deep":[1,{"x":null}]}' },
    { op: 'remove', path: ['d', 'a', 'b'], value: undefined },
    { op: 'add', path: ['d', 'list', '1'], value: '"new"' },
    { op: 'remove', path: ['d', 'list', '0'], value: undefined },
    { op: 'replace', path: ['d', 's'], value: '7' },
    { op: 'upsert', path: ['d', 'm', 'n', 'o'], value: 'true' },
    ...Array.from(
      { length: 20 },
      (_, i): DataOperation => ({ op: 'add', path: ['d', 'a', `${i}`], value: '0' }),
    ),
  ]
  const last: [name: string, operation: DataOperation, why: RegExp][] = [
    [
      'a path that is not there',
      { op: 'replace', path: ['d', 'x'], value: '1' },
      /there is no \/d\/x/,
    ],
    [
      'a path below a text',
      { op: 'add', path: ['d', 's', 'x'], value: '1' },
      /there is no \/d\/s\/x/,
    ],
    [
      'a path below a list that is no index',
      { op: 'add', path: ['d', 'list', 'x', 'y'], value: '1' },
      /no \/d\/list\/x/,
    ],
    [
      'an index that is too large',
      { op: 'add', path: ['d', 'list', '9'], value: '1' },
      /has 3 elements/,
    ],
    [
      'an index with a zero in front',
      { op: 'replace', path: ['d', 'list', '01'], value: '1' },
      /no \/d\/list\/01/,
    ],
    [
      'the end of a list, removed',
      { op: 'remove', path: ['d', 'list', '-'], value: undefined },
      /no \/d\/list\/-/,
    ],
    [
      'an upsert through a text',
      { op: 'upsert', path: ['d', 's', 'x', 'y'], value: '1' },
      /no \/d\/s/,
    ],
    [
      'the whole document removed',
      { op: 'remove', path: [], value: undefined },
      /cannot be removed/,
    ],
    [
      'a whole document that is a list',
      { op: 'replace', path: [], value: '[]' },
      /must be an object/,
    ],
    [
      'more than the memory',
      { op: 'add', path: ['d', 'x'], value: `"${'x'.repeat(9 << 20)}"` },
      /policy\.max_memory/,
    ],
  ]
  for (const [name, operation, message] of last) {
    const instance = withData(before, 8 << 20)
    const text = instance.dataText().toString()
    const bytes = instance.dataBytes
    t.throws(() => instance.patch([...first, operation]), { message }, name)
    t.equal(instance.dataText().toString(), text, `${name}: nothing is changed`)
    t.equal(instance.dataBytes, bytes, `${name}: nothing is left behind`)
    t.strictSame(seen(instance), before)
    instance.patch(first)
    t.match(seen(instance), { list: ['new', 2, 3], s: 7, m: { n: { o: true } } })
  }
  t.end()
})

t.test('a list whose last place was taken anew by a change that is refused is as before', (t) => {
  const instance = withData([1, 2, 3])
  const refused: DataOperation[] = [
    { op: 'remove', path: ['d', '0'], value: undefined },
    { op: 'add', path: ['d', '-'], value: '4' },
    { op: 'remove', path: ['d', 'x'], value: undefined },
  ]
  t.throws(() => instance.patch(refused), { code: 'ERR_DATA_PATCH' })
  // Its index is read by whatever walks through the list.
  instance.patch([{ op: 'add', path: ['other'], value: '"written over what was given back"' }])
  t.strictSame(seen(instance), [1, 2, 3])
  t.end()
})

t.test('an instance from an image takes the changes since, and is then the same', (t) => {
  const data = JSON.stringify({ d: { users: { alice: 1 } } })
  const first = new PolicyInstance({ ...policy, data, maxMemoryBytes })
  const image = first.image()
  const patches = [
    parsePatch('[{"op":"add","path":"/d/users/bob","value":{"n":1e400}}]', 'json-patch'),
    parsePatch(
      '{"data":[{"op":"upsert","path":"/d/teams/x","value":[12345678901234567890]}]}',
      'delta',
    ),
  ]
  const again = new PolicyInstance({ ...policy, data: image, maxMemoryBytes })
  for (const patch of patches) for (const instance of [first, again]) instance.patch(patch)
  t.equal(again.dataText().toString(), first.dataText().toString())
  t.match(first.dataText().toString(), /1e400.*12345678901234567890|12345678901234567890.*1e400/)
  t.end()
})

t.test('a change is read in one way, or refused', (t) => {
  const one = (text: string) => parsePatch(`[${text}]`, 'json-patch')
  t.strictSame(one('{"op":"add","path":"/a~1b/~0c/-","value":null}'), [
    { op: 'add', path: ['a/b', '~c', '-'], value: 'null' },
  ])
  t.strictSame(one('{"op":"add","path":"/","value":{}}')[0]!.path, [])
  const bad: [text: string, why: RegExp][] = [
    ['{', /not JSON/],
    ['{}', /not a list/],
    ['[1]', /operation 1 is not an object/],
    ['[null]', /operation 1 is not an object/],
    ['[{"op":"test","path":"/a","value":1}]', /op must be add, remove, replace/],
    ['[{"op":"move","from":"/b","path":"/a"}]', /unknown member "from"/],
    ['[{"op":"upsert","path":"/a","value":1}]', /op must be/],
    ['[{"op":"add","path":"/a"}]', /value is missing/],
    ['[{"op":"add","value":1}]', /path is not a text/],
    ['[{"op":"add","path":"/a//b","value":1}]', /JSON pointer/],
    ['[{"op":"add","path":"/a%2Fb","value":1}]', /percent/],
    ['[{"op":"add","path":"/a~2","value":1}]', /JSON pointer/],
    ['[{"op":"add","path":"/\\ud800","value":1}]', /JSON pointer/],
    ['[{"op":"add","op":"remove","path":"/a"}]', /twice/],
    [`[{"op":"add","path":"/a","value":${'['.repeat(600)}${']'.repeat(600)}}]`, /too deep/],
    [`[{"op":"add","path":"${'/a'.repeat(101)}","value":1}]`, /more than 100 steps/],
  ]
  for (const [text, message] of bad)
    t.throws(
      () => parsePatch(text, 'json-patch'),
      { code: 'ERR_DATA_PATCH', message },
      text.slice(0, 60),
    )
  t.throws(() => parsePatch('{"data":[],"x":1}', 'delta'), { message: /unknown member/ })
  t.strictSame(parsePatch('{}', 'delta'), [])
  const many = `[${Array.from({ length: 5001 }, () => '{"op":"remove","path":"/a"}').join(',')}]`
  t.throws(() => parsePatch(many, 'json-patch'), {
    code: 'ERR_BUNDLE_LIMITS',
    message: /5001 operations/,
  })
  t.throws(() => parsePatch(' '.repeat((1 << 20) + 1), 'delta'), {
    code: 'ERR_BUNDLE_LIMITS',
    message: /at most 1048576/,
  })
  t.end()
})

t.test('a large value above the paths of many rules is read once', (t) => {
  const rules = Array.from({ length: 5000 }, (_, i) => ['gate', `p${i}`, 'allow'])
  const users = Array.from({ length: 50_000 }, (_, i) => ({ name: `user-${i}` }))
  const places = { roots: [''], rules }
  const at = (value: object) =>
    misplaced({ op: 'add', path: ['gate'], value: JSON.stringify(value) }, places)
  const began = performance.now()
  t.equal(at({ users }), undefined)
  t.match(at({ users, p4999: { allow: 1 } }), /a rule has this path/)
  const tookMs = performance.now() - began
  t.ok(tookMs < 1000, `${Math.round(tookMs)} ms`)
  t.end()
})

t.test('no change reaches the path of a rule, or data that is not the bundle’s', async (t) => {
  const rego =
    'package gate.authz\n\ndecision if data.gate.x\n\n"odd name"["a.b"] := 1 if input\n\nf(x) := x + 1\n\nother if f(input.n) == 2'.replace(
      '"odd name"["a.b"]',
      'odd["a.b"].c',
    )
  const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }
  const { wasm, places } = await readArchive(
    compile(rego, ['gate/authz/decision', 'gate/authz/odd', 'gate/authz/other']),
    limits,
  )
  const rules = rulePathsOf(wasm)
  t.strictSame(
    new Set(rules.map((rule) => rule.slice(0, 3).join('/'))),
    new Set(['gate/authz/decision', 'gate/authz/odd', 'gate/authz/other', 'gate/authz/f']),
  )
  t.strictSame(places, { roots: [''], rules })
  const of = (path: string, value?: unknown, roots = ['']) =>
    misplaced(
      {
        op: 'add',
        path: path.split('/').filter((s) => s !== ''),
        value: value === undefined ? undefined : JSON.stringify(value),
      },
      { roots, rules },
    )
  t.match(of('/gate/authz/decision', true), /a rule has this path/)
  t.match(of('/gate/authz/decision/x', true), /a rule has this path/)
  t.match(of('/gate/authz/f', 1), /a rule/)
  t.match(of('/gate', { authz: { decision: 1 } }), /a rule/)
  t.match(of('/', { gate: { authz: { other: 1 } } }), /a rule/)
  t.equal(of('/gate', { authz: { x: 1 }, x: true }), undefined)
  t.equal(of('/gate/authz/x', 1), undefined)
  t.equal(of('/gate/x', 1, ['gate']), undefined)
  t.match(of('/gates', 1, ['gate']), /outside the roots/)
  t.match(of('/', {}, ['gate']), /outside the roots/)
})
