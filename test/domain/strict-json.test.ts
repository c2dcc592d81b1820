/** JSON with one reading: what each reader's limits let through, to the last allowed one and the first beyond it. */
import t from 'tap'
import { type StrictJson, strictJson } from '../../src/domain/strict-json.ts'

const rules: StrictJson = {
  maxDepth: 3,
  maxMembers: 2,
  maxNumber: { characters: 5, exponent: 40 },
  escapedNames: 'keep',
  refuse: (why) => new Error(why),
}
const kept = (text: string): string => strictJson(text, rules)
const writtenOut = (text: string): string =>
  strictJson(text, { ...rules, escapedNames: 'write-out' })

t.test('what has one reading comes back as it is', async (t) => {
  for (const text of [
    '{}',
    '[]',
    '"a"',
    'null',
    '-12.5',
    '[[[]]]',
    '{"a":{"a":{"b":1}}}',
    '{"a":1,"b":2}',
    '[{"a":1},{"a":1}]',
    '{"a":"{\\"a\\":","b":"\\\\"}',
    '[1e40,-1e-4]',
    '{"a":["a","a","a"],"b":"a"}',
    '"123456"',
    '{"a" : 1 , "A" : 2}',
  ]) {
    // biome-ignore format: a table
    t.equal(kept(text), text)
    t.equal(writtenOut(text), text)
  }
})

t.test('what two readers may take differently is refused', async (t) => {
  for (const [text, why] of [
    ['{"a":1,"a":2}', /twice/],
    ['{"a":{"b":1,"b":1}}', /twice/],
    ['[{"b":[],"b":1}]', /twice/],
    ['{"a":1,"\\u0061":2}', /twice/],
    ['{"a":"}","a":1}', /twice/],
    ['[[[[]]]]', /deep/],
    ['{"a":{"a":{"a":{}}}}', /deep/],
    ['{"a":1,"b":1,"c":1}', /many/],
  ] as const) {
    // biome-ignore format: a table
    t.throws(() => kept(text), why, text)
    t.throws(() => writtenOut(text), why, text)
  }
  for (const text of ['123456', '[-12345]', '{"a":1e41}', '1e-41', '1E+41'])
    t.throws(() => kept(text), /number/, text)
  t.equal(strictJson('[123456,1e41]', { ...rules, maxNumber: undefined }), '[123456,1e41]')
})

t.test('names with an escape', async (t) => {
  t.equal(kept('{"\\u0061\\n":1}'), '{"\\u0061\\n":1}')
  t.throws(() => kept('{"\\ud800":1,"\\udfff":1}'), /twice/)
  t.equal(writtenOut('{"\\u0061" :1,"b":"\\u0061"}'), '{"a" :1,"b":"\\u0061"}')
  t.equal(writtenOut('{"a":{"\\u0062":1},"\\u0063":2}'), '{"a":{"b":1},"c":2}')
  for (const name of ['\\n', '\\"', '\\\\', '\\u0000'])
    t.throws(() => writtenOut(`{"${name}":1}`), /escape/, name)
})

t.test(
  'where loose readers come after: names without case, no NUL, no half character',
  async (t) => {
    const loose = (text: string): string =>
      strictJson(text, { ...rules, maxMembers: 9, maxDepth: 9, loose: true })
    for (const text of [
    '{"a":1,"b":{"A":2}}', '[{"a":1},{"A":1}]', '{"a":"A","A\u0308":1}', '{"\\u00e9":1,"e":2}', '{"x":"\\ud83d\\ude00"}', '{"\\ud83d\\ude00":1}',
    '{"x":"\\\\u0000"}', '{"x":"\\\\ud800"}', '{"x":"\\u0001\\u00000"}'.replace('\\u0000', '\\u0002'), '{"\u00e9":1,"e\u0301":2}',
  ]) // biome-ignore format: a table
      t.equal(loose(text), text)
    for (const [text, why] of [
    ['{"role":1,"Role":2}', /case/], ['{"role":1,"ROLE":2}', /case/], ['{"a":[{"b":1,"x":0,"B":2}]}', /case/], ['{"a":1,"\\u0041":2}', /case/],
    // Unicode simple folding, as Go does it: the Kelvin sign, the long s; and letters that are not ASCII.
    ['{"k":1,"\u212a":2}', /case/], ['{"s":1,"\u017f":2}', /case/], ['{"\u00e9":1,"\u00c9":2}', /case/], ['{"\u03c3":1,"\u03c2":2}', /case/], ['{"\u00df":1,"\u1e9e":2}', /case/],
    ['{"role":1,"role":2}', /twice/], ['{"a\\u0000":1}', /NUL/], ['{"a":"b\\u0000c"}', /NUL/], ['["\\\\\\u0000"]', /NUL/],
    ['{"\\ud800":1}', /surrogate/], ['{"a":"\\udc00"}', /surrogate/], ['["\\ud83d\\ud83d\\ude00"]', /surrogate/], ['{"a":"\\uDFFF\\uD800"}', /surrogate/],
  ] as const) // biome-ignore format: a table
      t.throws(() => loose(text), why, text)
  },
)
