/** Tokens drawn at random, by the gate and by oauth4webapi; `make soak` draws 20,000 more (test/soak/tokens.soak.ts). */
import t from 'tap'
import { compareTokens } from '../harness/token-oracle.ts'
import { seedOf } from '../harness/wait.ts'

t.test('what oauth4webapi refuses the gate refuses, but what the documents list', async (t) => {
  const seed = seedOf()
  t.comment(`SEED=${seed}`)
  const { counts, wrong } = await compareTokens(seed, 1000)
  t.comment(JSON.stringify(counts))
  t.same(wrong, [])
  // A run in which one side refused everything would prove nothing.
  t.ok(counts['both accept']! > 100 && counts['both refuse']! > 100)
})
