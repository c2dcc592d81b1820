/** Inputs made to break an engine: what each of them may be answered is known, and only one of them may pass. */
import type { Chance } from './compared.ts'

/** Allows `who: alice` alone, after everything that a body can provoke in it. */
export const hostilePolicy = `
default decision := false

decision if {
	input.parsed_body.who == "alice"
	not provoked
}

# Two answers at once, where the caller chooses them: a conflict, which ends the evaluation.
decision := choice if some choice in input.parsed_body.clash

rule[key] := value if some [key, value] in input.parsed_body.pairs

provoked if count(rule) > 1000

provoked if to_number(input.parsed_body.number) + 1 == 7

provoked if json.unmarshal(input.parsed_body.json).deep == 7

provoked if regex.match(input.parsed_body.pattern, "aaaaaaaaaaaaaaaaaaaaaaaa!")

provoked if count(numbers.range(1, input.parsed_body.range)) == 7

provoked if units.parse(input.parsed_body.unit) == 7

provoked if time.parse_rfc3339_ns(input.parsed_body.time) == 7

provoked if sprintf(input.parsed_body.format, [input.parsed_body.who]) == "7"

provoked if base64.decode(input.parsed_body.base64) == "7"

provoked if {
	walk(input.parsed_body, [_, value])
	value == "walked 7"
}
`

const nested = (open: string, close: string, depth: number): string =>
  open.repeat(depth) + close.repeat(depth)
const strange = [
  '\\ud800',
  '\\udfff',
  '\\ud83d',
  '\\u0000',
  '\\ufffe',
  '\u2028',
  '\u{10ffff}',
  '%',
  '%s%s%s%d%v',
  '\\\\',
  '\\"',
]
const names = [
  '__proto__',
  'constructor',
  'toString',
  'hasOwnProperty',
  'who',
  'length',
  '',
  '\\ud800',
  '\\u0000',
]
const numbers = [
  '1e400',
  '-1e400',
  '1e99999',
  '1e-99999',
  '1e999999999',
  '9007199254740993',
  '-0',
  '0.1e-30',
  `${'9'.repeat(5000)}`,
  '1.7976931348623157e308',
]

/** @returns JSON text (or almost) of a body, and whether it is the one that may pass. */
export function hostileBody(chance: Chance): { readonly text: string; readonly good: boolean } {
  if (chance.once(10)) return { text: '{"who":"alice"}', good: true }
  const text = (() => {
    switch (chance.number(14)) {
      case 0:
        return `{"who":"${chance.of(strange)}"}`
      case 1:
        return `{"${chance.of(names)}":{"who":"alice"},"${chance.of(names)}":1}`
      case 2:
        return `{"who":"${chance.of(['alice', 'bob'])}","clash":[false,${chance.of(['true', '"x"', '{}', 'null'])}]}`
      case 3:
        return `{"pairs":[["a",1],["a",2]],"who":"alice"}`
      case 4: {
        const [open, close] = chance.of([
          ['[', ']'],
          ['{"a":[', ']}'],
        ] as const)
        return `{"who":"bob","deep":${nested(open, close, chance.of([5, 33, 100, 2000]))}}`
      }
      case 5:
        return `{"who":"bob",${Array.from({ length: chance.of([10, 256, 300, 1000]) }, (_, i) => `"k${i * 65536}":${i}`).join(',')}}`
      case 6: {
        const quote = chance.of(['"', ''])
        return `{"who":"bob","number":${quote}${chance.of(numbers)}${quote}}`
      }
      case 7:
        return `{"who":"bob","json":${JSON.stringify(chance.of([nested('[', ']', 900), '{"a":1,"a":2}', '{', '"\\ud800"', 'NaN', '']))}}`
      case 8:
        return `{"who":"bob","pattern":${JSON.stringify(chance.of(['(a+)+$', '(', '(?=a)', '(a|a)*b', 'a{1000}{1000}', '\\', 'x'.repeat(500)]))}}`
      case 9:
        return `{"who":"bob","range":${chance.of(['100000', '-5', '1.5', '"x"', '1e3'])}}`
      case 10:
        return `{"who":"bob","unit":"${chance.of(['1K', 'x', '-', '1e400Mi', ''])}","time":"${chance.of(['2026-13-01T00:00:00Z', '9999-12-31T23:59:59Z', 'x'])}"}`
      case 11:
        return `{"who":"bob","format":"${chance.of(['%s', '%d', '%!', '%', '%999999999d', '%[3]d', '%*d'])}","base64":"${chance.of(['=', 'YQ', 'Y', '____'])}"}`
      case 12:
        return chance.of([
          '{"who":"alice"',
          '',
          'null',
          '[]',
          '"alice"',
          '{"who":"alice",}',
          '{"who":["alice"]}',
          '{"Who":"alice"}',
          "{'who':'alice'}",
          '{"who":"alice"}{',
        ])
      default:
        return `{"who":"${chance.of(['Alice', 'alice ', 'bob', ''])}","x":"${'y'.repeat(chance.number(3000))}"}`
    }
  })()
  return { text, good: false }
}
