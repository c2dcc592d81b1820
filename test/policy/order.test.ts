/** Scans in OPA's order, references into base data by path, and collections whose sorting must not take their square. */
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { prepareModule } from '../../src/policy/module.ts'
import { compile } from '../harness/bundle.ts'

const data = {
  users: { '7': { name: 'seven', '1': 'one' }, a: { name: 'letter' } },
  list: ['zero', 'one'],
}

async function instanceOf(rego: string): Promise<(input: object) => unknown> {
  const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }
  const { wasm } = await readArchive(compile(rego, undefined, data), limits)
  const { bytes, initialPages } = prepareModule(wasm)
  const module = await WebAssembly.compile(bytes)
  const given = { module, initialPages, data: JSON.stringify(data), maxMemoryBytes: 1 << 28 }
  const instance = new PolicyInstance(given)
  return (input) => JSON.parse(instance.evaluate(0, JSON.stringify(input)))[0]?.result
}

t.test('members go into arrays in their order, wherever they come from', async (t) => {
  const decide = await instanceOf(`decision := {
    "first": reasons[0],
    "listed": reasons,
    "joined": concat(", ", denied),
    "text": sprintf("%v", [denied]),
    "pairs": [[a, b] | some a in denied; some b in denied; a != b],
    "keys": [k | some k, _ in input.object],
    "functions": [upper(v) | some v in denied],
    "guarded": [v | some v in denied; count([w | some w in denied; w < v]) > 0],
    "walked": [p | walk(input.object, [p, v]); is_string(v)],
  }
  reasons := [reason | some reason in denied]
  denied contains reason if { some reason in input.reasons }`)
  const given = { reasons: ['zeta', '10', 'alpha', '9'], object: { z: 'a', b: { y: 'c', x: 'd' }, '': 'e' } }
  for (let round = 0; round < 3; round++) {
    t.same(decide(given), {
      first: '10',
      listed: ['10', '9', 'alpha', 'zeta'],
      joined: '10, 9, alpha, zeta',
      text: '{"10", "9", "alpha", "zeta"}',
      pairs: ['10', '9', 'alpha', 'zeta'].flatMap((a, _, all) =>
        all.filter((b) => b !== a).map((b) => [a, b]),
      ),
      keys: ['', 'b', 'z'],
      functions: ['10', '9', 'ALPHA', 'ZETA'],
      guarded: ['9', 'alpha', 'zeta'],
      walked: [[''], ['b', 'x'], ['b', 'y'], ['z']],
    })
  }
}) // biome-ignore format: tables

t.test('a reference into base data finds a member by its path, and no other value does', async (t) => {
  const decide = await instanceOf(`decision := {
    "direct": [v | v := data.users[input.id].name],
    "deeper": [v | v := data.users[input.id][input.member]],
    "scanned": [v | v := data.users[_][input.member]],
    "element": [v | v := data.list[input.index]],
    "variable": [v | users := data.users; v := users[input.id].name],
    "made": [v | v := {"7": "made"}[input.id]],
    "input": [v | v := input.users[input.id]],
    "replaced": [v | v := data.users[input.id] with data.users as {"7": "replaced"}],
  }`)
  const nothing = { direct: [], deeper: [], scanned: [], element: [], variable: [], made: [], input: [], replaced: [] }
  t.same(decide({ id: 7, member: 1, index: '1', users: { '7': 'of the input' } }), {
    ...nothing, direct: ['seven'], deeper: ['one'], scanned: ['one'], element: ['one'],
  })
  t.same(decide({ id: '7', member: 'name', index: 0, users: { '7': 'of the input' } }), {
    ...nothing, direct: ['seven'], deeper: ['seven'], scanned: ['seven', 'letter'], element: ['zero'],
    variable: ['seven'], made: ['made'], input: ['of the input'], replaced: ['replaced'],
  })
  t.same(decide({ id: 8, member: null, index: '2', users: {} }), nothing)
}) // biome-ignore format: tables

t.test('sorting and comparing do not take the square of what a caller sends', async (t) => {
  const decide = await instanceOf(`decision := {
    "sorted": count(sort(input.list)),
    "equal": input.object == input.other,
    "sets": {v | some v in input.list} == {v | some v in input.list},
  }`)
  const microseconds = (size: number): number => {
    const list = Array.from({ length: size }, (_, i) => size - i)
    const object = Object.fromEntries(list.map((i) => [`k${(i * 7919) % size}`, i]))
    const other = { ...object }
    const took = [1, 2, 3].map(() => {
      const began = process.cpuUsage()
      t.same(decide({ list, object, other }), { sorted: size, equal: true, sets: true })
      return process.cpuUsage(began).user
    })
    return Math.min(...took)
  }
  microseconds(100)
  const [short, long] = [microseconds(500), microseconds(8000)]
  // 16 times as many members: their square would be 256 times as much.
  t.ok(long < short * 100, `${short} µs for 500, ${long} µs for 8000`)
})
