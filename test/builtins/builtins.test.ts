/**
 * Generated calls of every builtin, and of some expressions, beside `opa eval`: the same answer, or a documented
 * difference. Another seed each time (SEED, CALLS); 200,000 calls: test/soak/builtins.soak.ts.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { opaVersion } from '../../src/bundle/opa.ts'
import {
  comparedWith,
  differences,
  differencesOf,
  usedBuiltins,
  warningsOf,
} from '../../src/policy/differences.ts'
import { compile } from '../harness/bundle.ts'
import { callables, sampleCalls } from './calls.ts'
import { Comparison } from './compare.ts'
import { known } from './known.ts'

// The soak takes minutes; a test as a whole has a limit.
t.setTimeout(1_200_000)

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
const count = Number(process.env.CALLS ?? 3000)
const batch = 10_000
const ids = new Set(differences.map(({ id }) => id))

t.test(`generated calls answer as opa does (SEED=${seed}, CALLS=${count})`, async (t) => {
  t.equal(comparedWith, opaVersion)
  const all = callables()
  const comparison = new Comparison(all)
  await comparison.open()
  const found = new Map<string, number>()
  let asked = 0
  for (let of = seed; asked < count; of += 1000) {
    const calls = sampleCalls(all, of, Math.min(batch, count - asked))
    asked += calls.length
    for (const difference of comparison.differences(calls)) {
      const id = known(difference)
      if (id !== undefined && ids.has(id)) found.set(id, (found.get(id) ?? 0) + 1)
      else {
        const { call, opa, ours } = difference
        t.fail(`${call.name}(${call.args.join(', ').slice(0, 300)}): OPA ${opa.slice(0, 300)}, here ${ours.slice(0, 300)}`)
      }
    }
  }
  t.comment(`${asked} calls; documented differences: ${[...found].map((pair) => pair.join(' ')).join(', ')}`)
  t.ok(comparison.defined > asked / 2, `${comparison.defined} of ${asked} have a value`)
  t.ok(comparison.slowestMs < 5000, `the slowest call took ${Math.round(comparison.slowestMs)} ms of CPU`)
}) // biome-ignore format: messages

t.test('each difference is in docs/builtins.md', async (t) => {
  const page = readFileSync('docs/builtins.md', 'utf8').replaceAll('\\|', '|')
  for (const { when, ours } of differences)
    t.ok(page.includes(when) && page.includes(ours), when.slice(0, 60))
})

t.test('a bundle that uses a builtin of the list is known to use it', async (t) => {
  const of = async (rego: string): Promise<{ used: string[]; hazards: readonly string[] }> => {
    const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }
    const { wasm, hazards } = await readArchive(compile(rego), limits)
    return { used: usedBuiltins(wasm), hazards }
  }
  const one = await of(
    'decision := yaml.marshal(input.a) if regex.match("a", input.b)\ndecision := false if not regex.match("a", input.b)',
  )
  t.same(one.used.sort(), ['regex.match', 'yaml.marshal'])
  t.same(
    differencesOf(one.used).map(({ id }) => id),
    ['not-utf-8-matched', 'yaml-marshal'],
  )
  t.match(one.hazards, [/^yaml\.marshal is not in all as in OPA/])
  t.same(warningsOf(one.used), one.hazards)
  const other = await of('decision := input.a == "regex.matches"')
  t.same([other.used, other.hazards], [[], []])
})
