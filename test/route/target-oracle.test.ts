/**
 * Property: src/route/target.ts understands targets and hosts as a test oracle does, a second reader that was written
 * from the rules alone (test/oracles).
 */
import fc from 'fast-check'
import t from 'tap'
import { seedOf } from '../harness/wait.ts'
import { judgeHost, judgeTarget } from '../oracles/judge.ts'
import { hostWords, targetWords } from '../oracles/words.ts'

const seed = seedOf()
t.comment(`SEED=${seed}`)
const byte = fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code))
const method = fc.constantFrom('GET', 'OPTIONS')

function words(from: readonly string[], maxLength: number): fc.Arbitrary<string> {
  const piece = fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom(...from) },
    { weight: 1, arbitrary: byte },
  )
  return fc.array(piece, { maxLength }).map((parts) => parts.join(''))
}

t.test('a target means here what it means to the oracle', async (t) => {
  const raw = fc.oneof(
    { weight: 20, arbitrary: words(targetWords, 10).map((text) => `/${text}`) },
    { weight: 10, arbitrary: words(targetWords, 10) },
    { weight: 10, arbitrary: words(targetWords, 4).map((text) => `http://api.example.com${text}`) },
    {
      weight: 1,
      arbitrary: fc.integer({ min: 8180, max: 8200 }).map((length) => `/${'a'.repeat(length)}`),
    },
  )
  const property = fc.property(method, raw, (how, text) => {
    const said = judgeTarget(how, text)
    if (said !== undefined) throw new Error(said)
  })
  fc.assert(property, { seed, numRuns: 8000 })
  t.pass()
})

t.test('a host means here what it means to the oracle', async (t) => {
  const property = fc.property(words(hostWords, 9), (raw) => {
    const said = judgeHost(raw)
    if (said !== undefined) throw new Error(said)
  })
  fc.assert(property, { seed, numRuns: 8000 })
  fc.assert(
    fc.property(
      fc.oneof(
        fc.ipV4(),
        fc.ipV6().map((address) => `[${address}]`),
        fc.domain(),
      ),
      (raw) => {
        const said = judgeHost(raw)
        if (said !== undefined) throw new Error(said)
      },
    ),
    { seed, numRuns: 2000 },
  )
  t.pass()
})
