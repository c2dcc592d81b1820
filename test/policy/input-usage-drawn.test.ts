/**
 * What the analysis can be fooled by: drawn policies answer alike with the whole input and with what it says that they
 * read. `make soak` draws a hundred times as many.
 */
import t from 'tap'
import { sweepReads } from '../harness/read-policies.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))

t.test(`a policy gets all that it reads (SEED=${seed})`, async (t) => {
  const { policies, narrow, asked, answers, differences } = await sweepReads(seed, 60, 60)
  t.same(differences.slice(0, 2), [])
  t.ok(narrow > policies / 8, `of ${policies} policies, ${narrow} do not read all`)
  t.ok(answers > policies * 2, `${asked} inputs had ${answers} answers`)
})
