/**
 * Property: headers are refused, and sent on, as a test oracle says: a second reader that was written from the rules of
 * docs/boundary.md alone (test/oracles).
 */
import fc from 'fast-check'
import t from 'tap'
import { seedOf } from '../harness/wait.ts'
import { judgeHeaders } from '../oracles/judge.ts'
import { headerNames, headerValues } from '../oracles/words.ts'

const seed = seedOf()
t.comment(`SEED=${seed}`)

t.test('headers are refused, and sent on, as the oracle says', async (t) => {
  const text = fc.string({ unit: 'binary', maxLength: 6 })
  const odd = fc.tuple(
    fc.oneof(
      { weight: 19, arbitrary: fc.constantFrom(...headerNames) },
      { weight: 1, arbitrary: text },
    ),
    fc.oneof(
      { weight: 19, arbitrary: fc.constantFrom(...headerValues) },
      { weight: 1, arbitrary: text },
    ),
  )
  // Most requests are right but for one thing or none, so that as much is sent as is refused.
  const plain = fc.tuple(
    fc.constantFrom(
      'X-A',
      'X-B',
      'X-C',
      'Accept',
      'Cookie',
      'X-Real-IP',
      'Forwarded',
      'X-Hop',
      'Connection',
      'Authorization',
    ),
    fc.constantFrom('a', 'x-hop', 'x-a, x-c', 'close'),
  )
  const host = fc.constant(['Host', 'api.example.com'] as [string, string])
  const few = fc
    .tuple(host, fc.array(plain, { maxLength: 6 }), fc.array(odd, { maxLength: 1 }))
    .map(([first, right, wrong]) => [first, ...right, ...wrong])
  const many = fc
    .tuple(host, fc.integer({ min: 97, max: 102 }))
    .map(([first, count]) => [
      first,
      ...Array.from({ length: count }, (_, i) => [`x-${i}`, ''] as [string, string]),
    ])
  const pairs = fc.oneof(
    { weight: 50, arbitrary: few },
    { weight: 30, arbitrary: fc.array(odd, { maxLength: 6 }) },
    {
      weight: 10,
      arbitrary: fc
        .tuple(host, odd)
        .map(
          ([first, [name, value]]) => [first, [name, value], [name, value]] as [string, string][],
        ),
    },
    { weight: 1, arbitrary: many },
  )
  const version = fc.constantFrom('1.0' as const, '1.1' as const)
  const property = fc.property(pairs, version, (given, which) => {
    const said = judgeHeaders(given, which)
    if (said !== undefined) throw new Error(said)
  })
  fc.assert(property, { seed, numRuns: 8000 })
  t.pass()
})
