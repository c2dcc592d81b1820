/**
 * The policy corpus (test/harness/policy-corpus.ts) answers alike on `opa eval` and on the gate's engine. Here every second
 * policy gets a share of requests from a seed; `make soak` asks a thousand and more of each.
 */
import t from 'tap'
import { compareCorpus, corpus, corpusFolders } from '../harness/policy-corpus.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const each = Number(process.env.EACH ?? 100)

t.test('every folder of policies is asked', async (t) => {
  t.same(corpusFolders(), Object.keys(corpus).sort())
  t.ok(Object.keys(corpus).length >= 12)
})

/** Every second one, by the seed: `make soak` asks all of them. */
const asked = Object.keys(corpus).filter((_, i) => (i + seed) % 2 === 0)

for (const name of asked) {
  t.test(`${name}: opa and the engine answer ${each} requests alike (SEED=${seed})`, async (t) => {
    const { allowed, differences } = await compareCorpus(name, seed, each)
    t.same(differences.slice(0, 3), [])
    t.ok(allowed > 0 && allowed < each, `${allowed} allowed`)
  })
}
