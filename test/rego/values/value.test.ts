/** What crosses between the module and a builtin arrives as it was sent. */
import fc from 'fast-check'
import t from 'tap'
import {
  compare,
  describe,
  fromJson,
  keyOf,
  parseTerm,
  printTerm,
  RegoNumber,
  RegoObject,
  RegoSet,
  toJson,
  type Value,
} from '../../../src/rego/values/value.ts'

t.test('numbers keep their digits, sets stay sets, keys keep their types', async (t) => {
  for (const text of [
    '9007199254740993',
    '-1.50',
    '1e400',
    'set()',
    '{}',
    '[]',
    '{1}',
    '{"a":{1,2},"b":[null,true]}',
    '{1:2,[3]:set()}',
    '"\\u0000\\"\\\\é𝄞"',
    '""',
  ]) {
    t.equal(printTerm(parseTerm(text)), text)
  }
  t.equal(printTerm(parseTerm('{"a": {1, 2}, "b": [ ]}')), '{"a":{1,2},"b":[]}')
  t.equal(printTerm('\ud800'), '"\ufffd"', 'a lone surrogate would abort the module')
  for (const bad of ['', '{', '[1,]', '{1:}', '"', '"\\"', 'tru', '1 2', 'set(', '{1,2:3}']) {
    t.throws(() => parseTerm(bad), bad)
  }
})

t.test('in JSON sets become arrays and keys texts; what is not JSON is refused', async (t) => {
  t.equal(toJson(parseTerm('{1:{3,2},"a":[{"b","a"}]}')), '{"1":[2,3],"a":[["a","b"]]}')
  t.equal(printTerm(fromJson('{"a":9007199254740993}')), '{"a":9007199254740993}')
  for (const bad of ['set()', '{1}', '{1:2}', '01', '1.', '+1']) t.throws(() => fromJson(bad), bad)
})

t.test('equal numbers are one member, whatever their digits', async (t) => {
  t.equal(new RegoSet(['1', '1.0', '10e-1', '0.1e1'].map((n) => new RegoNumber(n))).size, 1)
  t.equal(new RegoSet(['0', '-0', '0e9', '0.00'].map((n) => new RegoNumber(n))).size, 1)
  const numbers = ['-1e1000000000', '-2', '-1.5', '0', '1e-999999999', '9007199254740992', '9007199254740993', '1e400']
  const values = numbers.map((n) => new RegoNumber(n))
  t.same(values.toReversed().sort(compare), values)
}) // biome-ignore format: a table

const anyValue: fc.Arbitrary<Value> = fc.letrec<{ value: Value }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom<Value>(null, true, false),
    fc.string({ unit: 'binary' }).map((text): Value => text.toWellFormed()),
    fc.oneof(fc.bigInt(), fc.double({ noNaN: true, noDefaultInfinity: true })).map((n): Value => new RegoNumber(n)),
    fc.array(tie('value')),
    fc.array(tie('value')).map((items): Value => new RegoSet(items)),
    fc.array(fc.tuple(tie('value'), tie('value'))).map((items): Value => new RegoObject(items)),
  ),
})).value // biome-ignore format: a list of kinds

t.test('any value comes back from its text, and its order agrees with its key', async (t) => {
  fc.assert(
    fc.property(anyValue, anyValue, (a, b) => {
      const again = parseTerm(printTerm(a))
      t.equal(printTerm(again), printTerm(a))
      t.equal(keyOf(again), keyOf(a))
      if (compare(again, a) !== 0) throw new Error('not equal to itself')
      if ((compare(a, b) === 0) !== (keyOf(a) === keyOf(b))) throw new Error('order and key differ')
      if (Math.sign(compare(a, b)) !== -Math.sign(compare(b, a))) throw new Error('no order')
      JSON.parse(toJson(a))
      describe(a)
    }),
    { numRuns: 500, verbose: true },
  )
})
