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
