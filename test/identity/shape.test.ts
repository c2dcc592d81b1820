/**
 * Property: a token has the shape of one exactly where a test oracle says so, a second reader with a decoder and a JSON
 * parser of its own (test/oracles).
 */
import fc from 'fast-check'
import t from 'tap'
import { parseTokenShape } from '../../src/identity/shape.ts'
import { seedOf } from '../harness/wait.ts'
import { judgeToken } from '../oracles/judge.ts'
import { jsonWords } from '../oracles/words.ts'

const seed = seedOf()
t.comment(`SEED=${seed}`)

const part = (text: string): string => Buffer.from(text).toString('base64url')
const assert = (tokens: fc.Arbitrary<string>, numRuns: number): void =>
  fc.assert(
    fc.property(tokens, (token) => {
      const said = judgeToken(token)
      if (said !== undefined) throw new Error(said)
    }),
    { seed, numRuns },
  )

t.test('headers and claims of pieces of JSON are read as the oracle reads them', async (t) => {
  const json = fc
    .array(fc.constantFrom(...jsonWords), { maxLength: 10 })
    .map((parts) => parts.join(''))
  const header = fc.oneof(
    json,
    fc.constant('{"alg":"ES256"}'),
    json.map((rest) => `{"alg":"ES256",${rest}}`),
    fc
      .tuple(
        fc.constantFrom('kid', 'typ', 'crit', 'b64', 'zip', 'enc', 'jwk'),
        fc.constantFrom('1', '"a"', 'true', 'null'),
      )
      .map(([name, value]) => `{"alg":"ES256","${name}":${value}}`),
  )
  const claims = fc.oneof(
    json,
    fc.json(),
    json.map((rest) => `{"a":1,${rest}}`),
  )
  assert(
    fc.tuple(header, claims).map(([h, c]) => `${part(h)}.${part(c)}.eA`),
    8000,
  )
  t.pass()
})

t.test('random members, some of them twice, are read as the oracle reads them', async (t) => {
  const name = fc.constantFrom(
    'a',
    'b',
    'c',
    '\\u0061',
    '',
    '__proto__',
    'sub',
    'd"'.replace('"', '\\"'),
  )
  const { object } = fc.letrec<{ value: string; object: string }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 3 },
      fc.constantFrom('1', '"a"', 'null', '"}"', '"\\\\"', '[]', '["a","a"]'),
      tie('object'),
      fc.array(tie('value'), { maxLength: 3 }).map((items) => `[${items.join(',')}]`),
    ),
    object: fc
      .array(fc.tuple(name, tie('value')), { maxLength: 3 })
      .map((members) => `{${members.map(([key, value]) => `"${key}": ${value}`).join(', ')}}`),
  }))
  assert(
    object.map((claims) => `${part('{"alg":"ES256"}')}.${part(claims)}.eA`),
    5000,
  )
  t.pass()
})

t.test('a name with an escape is what it says, whatever was read before', async (t) => {
  // V8 would read the second as the first: the decoded length is the same, and so is the raw text as far as that.
  for (const [before, claims, name] of [
    ['{"n": 1, "\\\\": 1}', '{"n": 1, "\\u0061": 1}', 'a'],
    ['{"n": 1, "\\\\u0": 1}', '{"n": 1, "\\u0073ub": 1}', 'sub'],
    ['{"n": 1, "https:\\\\/": 1}', '{"n": 1, "https:\\/x": 1}', 'https:/x'],
  ] as const) {
    JSON.parse(before)
    const { claims: read } = parseTokenShape(`${part('{"alg":"ES256"}')}.${part(claims)}.eA`)
    t.same(Object.keys(read), ['n', name])
  }
})

t.test('a token with any one edit in its parts is read as the oracle reads it', async (t) => {
  const good = `${part('{"alg":"ES256"}')}.${part('{"a":1}')}.eA`
  const noise = fc.constantFrom(
    '',
    'A',
    'B',
    'E',
    'I',
    'Q',
    '=',
    '+',
    '/',
    '.',
    ' ',
    '\n',
    '_',
    '-',
    '\xe9',
    'Ā',
  )
  const edited = fc
    .tuple(fc.nat(good.length), fc.nat(2), noise)
    .map(([at, cut, with_]) => good.slice(0, at) + with_ + good.slice(at + cut))
  assert(edited, 4000)
  t.pass()
})

t.test('repeated members, too many members and levels are judged as by the oracle', async (t) => {
  const many = (count: number): string =>
    JSON.stringify(Object.fromEntries(Array.from({ length: count }, (_, i) => [`c${i}`, i])))
  const deep = (levels: number): string => `{"a":${'['.repeat(levels)}${']'.repeat(levels)}}`
  for (const claims of [
    '{"sub":"alice","sub":"bob"}', '{"sub":"alice","\\u0073ub":"bob"}', '{"a":{"b":1,"b":1}}', '{"a":[{"b":1},{"b":1}]}', '{"a":"\\"a\\":","b":{"a":1}}',
    '{"":1,"":2}', '{"__proto__":1,"__proto__":2}', many(100), many(101), deep(15), deep(16), deep(500), '\ufeff{}',
  ]) {
    t.equal(judgeToken(`${part('{"alg":"ES256"}')}.${part(claims)}.eA`), undefined, claims.slice(0, 40))
  } // biome-ignore format: a table
  t.equal(judgeToken(`${part('{"alg":"none","alg":"ES256"}')}.${part('{}')}.eA`), undefined)
})

t.test(
  'digits are kept for the policy, and looked at only when the signature is good',
  async (t) => {
    const json = JSON as unknown as { rawJSON: (text: string) => unknown }
    const { rawJSON } = json
    let kept = 0
    json.rawJSON = (text) => {
      kept++
      return rawJSON(text)
    }
    t.teardown(() => {
      json.rawJSON = rawJSON
    })
    const claims = '{"a":[1.50,12345678901234567890]}'
    const { written } = parseTokenShape(`${part('{"alg":"ES256"}')}.${part(claims)}.eA`)
    t.equal(kept, 0)
    t.equal(JSON.stringify(written()), claims)
    t.equal(kept, 2)
  },
)
