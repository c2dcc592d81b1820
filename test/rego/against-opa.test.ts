/**
 * Generated calls, ours against `opa eval` on the same arguments: the same value, or undefined on both sides. What the
 * cases of test/conformance do not reach is looked for here, another seed each time (SEED, CALLS).
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { findOpa, runOpa } from '../../src/bundle/opa.ts'
import { Evaluation } from '../../src/rego/evaluation.ts'
import {
  describe,
  fromJson,
  keyOf,
  parseTerm,
  printTerm,
  type RegoObject,
  toJson,
} from '../../src/rego/values/value.ts'

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
const calls = Number(process.env.CALLS ?? 900)

type Terms = fc.Arbitrary<string>

const text = (...some: string[]): Terms =>
  fc.constantFrom(...some).map((one) => JSON.stringify(one))
const joined = (parts: readonly string[], most: number, between = ''): Terms =>
  fc
    .array(fc.constantFrom(...parts), { maxLength: most })
    .map((all) => JSON.stringify(all.join(between)))
// Characters that every version of Unicode in use knows: which ones can be printed differs between them.
const anyText: Terms = fc
  .oneof(
    fc.string({ maxLength: 8 }),
    fc
      .array(
        fc.constantFrom(
          'a',
          'é',
          'ß',
          'Ω',
          '日',
          '𝄞',
          '\u2006',
          '\u0301',
          '\u200b',
          '"',
          '\\',
          '\n',
          '\x07',
        ),
        { maxLength: 6 },
      )
      .map((all) => all.join('')),
  )
  .map((one) => JSON.stringify(one))
const integer: Terms = fc
  .oneof(fc.integer({ min: -20, max: 400 }), fc.bigInt({ min: -(2n ** 70n), max: 2n ** 70n }))
  .map(String)
const small: Terms = fc.integer({ min: -20, max: 400 }).map(String)
const double: Terms = fc
  .oneof(
    fc.double({ noNaN: true, noDefaultInfinity: true, min: -1e6, max: 1e6 }),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
  )
  .map((one) => (Object.is(one, -0) ? '0' : String(one)))
const scalar: Terms = fc.oneof(anyText, integer, double, fc.constantFrom('null', 'true', 'false'))
const value: Terms = fc.oneof(
  scalar,
  fc.array(scalar, { maxLength: 3 }).map((all) => `[${all.join(',')}]`),
  fc.array(scalar, { minLength: 1, maxLength: 3 }).map((all) => `{${all.join(',')}}`),
  fc
    .array(fc.tuple(anyText, scalar), { maxLength: 3 })
    .map((all) => printTerm(parseTerm(`{${all.map((pair) => pair.join(':')).join(',')}}`))),
)
const ns: Terms = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map(String)
const recent: Terms = fc
  .bigInt({ min: 0n, max: 2_000_000_000n })
  .map((s) => String(s * 1_000_000_007n))
// Rules of summer time before 1970 and after 2037 differ between releases of the time zone data.
const zone = text(
  '',
  'UTC',
  'Europe/Berlin',
  'America/New_York',
  'Asia/Kolkata',
  'Australia/Lord_Howe',
  'Nowhere/Land',
)
const elements = [
  '2006',
  '01',
  '02',
  '15',
  '04',
  '05',
  '.000',
  '.999999999',
  'Jan',
  'January',
  'Mon',
  'Monday',
  'PM',
  'pm',
  '3',
  '03',
  '_2',
  '002',
  '06',
  '1',
  '2',
  '4',
  '5',
  '-0700',
  'Z07:00',
  '-07',
  'Z0700',
  '-07:00:00',
  ' ',
  '-',
  ':',
  'T',
  'x',
]
const layout = joined(elements, 8)
const when = fc.oneof(
  ns,
  recent,
  fc.tuple(recent, zone).map((pair) => `[${pair.join(',')}]`),
  fc.tuple(recent, zone, layout).map((all) => `[${all.join(',')}]`),
)
const address = fc.oneof(
  fc.ipV4(),
  fc.ipV6(),
  fc.constantFrom('::ffff:1.2.3.4', '01.2.3.4', '1.2.3', 'fe80::1%eth0', '::', 'x'),
)
const cidr: Terms = fc
  .tuple(address, fc.integer({ min: -1, max: 130 }))
  .map(([of, bits]) => JSON.stringify(`${of}/${bits}`))
/** Of both versions, mapped ones too, near to each other. */
const nearAddress = fc
  .tuple(
    fc.constantFrom('', '::ffff:', '::FFFF:', '0:0:0:0:0:ffff:', '::', '::fffe:', '64:ff9b::'),
    fc.constantFrom('10.1.2.3', '10.0.0.0', '11.1.2.3', '0.0.0.0', '255.255.255.255', '10.1.2', '010.1.2.3', 'a01:203', 'a00:0', ''),
  )
  .map((parts) => parts.join('')) // biome-ignore format: a table
const nearNetwork: Terms = fc
  .tuple(nearAddress, fc.constantFrom('0', '7', '8', '9', '32', '33', '80', '90', '95', '96', '103', '104', '112', '128', '129', '008', '00000000008', '-1', '8 ', ''))
  .map(([of, bits]) => JSON.stringify(`${of}/${bits}`)) // biome-ignore format: a table
const nearEither: Terms = fc.oneof(
  nearAddress.map((one) => JSON.stringify(one)),
  nearNetwork,
  fc.oneof(fc.ipV4(), fc.ipV6()).map((one) => JSON.stringify(one)),
)
/** Base64 of some bytes, and what is nearly that. */
const encoded: Terms = fc
  .tuple(
    fc.uint8Array({ maxLength: 9 }),
    fc.constantFrom<BufferEncoding>('base64', 'base64url'),
    fc.constantFrom('', '', '', '=', '==', '===', '\n', '\r\n=', ' ', 'A', '!', 'é', '='.repeat(4)),
    fc.nat(12),
  )
  .map(([bytes, encoding, more, at]) => {
    const plain = Buffer.from(bytes).toString(encoding)
    return JSON.stringify(plain.slice(0, at) + more + plain.slice(at))
  }) // biome-ignore format: a table
const someText = joined(['a', 'ab', 'b', 'é', '日', '𝄞', '\u{10c80}', '\0', '"', ''], 12)
const longText = fc
  .tuple(fc.constantFrom('a', 'é', '𝄞'), fc.constantFrom(0, 1, 1000, 40_000))
  .map(([one, times]) => JSON.stringify(one.repeat(times)))
const nearCidr: Terms = fc
  .tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 24, max: 32 }))
  .map(([of, bits]) => JSON.stringify(`10.0.0.${of * 32}/${bits}`))
const pattern = joined(
  [
    'a',
    'b',
    '(',
    ')',
    '|',
    '*',
    '+',
    '?',
    '[ab]',
    '[^a]',
    '.',
    '^',
    '$',
    '\\\\b',
    '\\\\d',
    '{2}',
    '(?:',
    '(?i)',
    '(?P<n>',
  ],
  6,
)
const subject = joined(['a', 'b', 'A', '1', ' ', 'é', '𝄞', '\n'], 10)
const verbs = joined(
  [
    '%d',
    '%s',
    '%v',
    '%q',
    '%x',
    '%X',
    '%5d',
    '%-5s|',
    '%05d',
    '%+d',
    '%.2f',
    '%8.3f',
    '%e',
    '%g',
    '%t',
    '%T',
    '%c',
    '%U',
    '%b',
    '%o',
    '%%',
    '%[1]d',
    '%[2]v',
    '%*d',
    '%z',
    '%',
    '% x',
    '%#x',
    '%#v',
    '%6.2s',
    '%08.2f',
    'x',
  ],
  4,
)
const version = fc
  .tuple(
    joined(['1', '0', '01', '.', '2', '-', 'a', '+', 'v', '10'], 9),
    text('1.2.3', '1.0.0-alpha.1', '2.0.0+x', '10.20.30-1.a.2'),
  )
  .chain((two) => fc.constantFrom(...two))
const amount = fc
  .tuple(
    fc.constantFrom(
      '1',
      '10',
      '1.5',
      '-3',
      '0.001',
      '1e3',
      '2E-2',
      '',
      '.5',
      '1.',
      '9007199254740993',
      '+4',
    ),
    fc.constantFrom(
      '',
      'k',
      'K',
      'Ki',
      'm',
      'M',
      'Mi',
      'MB',
      'gib',
      'G',
      'e',
      'Ei',
      'b',
      'x',
      'KIB',
    ),
  )
  .map((two) => JSON.stringify(two.join('')))
const url = joined(
  [
    'http',
    'https',
    ':',
    '//',
    '/',
    '?',
    '#',
    '@',
    'a.b',
    '[::1]',
    ':80',
    '%41',
    '%zz',
    ' ',
    'é',
    'a=b',
    '&',
    ';',
    '..',
    '%2f',
  ],
  7,
)
const jsonText = fc.oneof(
  value.map((one) => JSON.stringify(toJson(parseTerm(one)))),
  text('{', '[1,2', '{"a":1,"a":2}', '1 2'),
)
const brokenJson = joined(
  ['{', '}', '[', ']', ':', ',', '"a"', '"a":', '"', '\\', 'true', 'false', 'x', '0', '1', '1.', '.5', '-', '1e5', 'E', '9e40000', '-1e-30103', '1e30102', '"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\x"', '\t', ' ', '\u00a0', 'set()'],
  5,
) // biome-ignore format: a table
const duration = joined(
  ['1', '1.5', '.5', 'h', 'm', 's', 'ms', 'us', 'µs', 'ns', 'd', 'w', 'y', '-', '+', '0'],
  6,
)
// Never the whole document: opa's own process dies of a patch that goes on after removing it.
const path = joined(['/', 'a', 'b', '0', '1', '-', '~1', '~0'], 4).map((one) => `"/${one.slice(1)}`)
const patch = fc
  .array(
    fc
      .tuple(
        fc.constantFrom('add', 'remove', 'replace', 'move', 'copy', 'test'),
        path,
        path,
        scalar,
      )
      .map(([op, to, from, of]) => `{"op":"${op}","path":${to},"from":${from},"value":${of}}`),
    { maxLength: 3 },
  )
  .map((all) => `[${all.join(',')}]`)
const document = fc.constantFrom(
  '{"a":{"b":[1,2]},"b":[{"a":1},2]}',
  '[1,[2,3],{"a":1}]',
  '{"a":1}',
  '{1,2}',
)

const generated: Readonly<Record<string, readonly Terms[]>> = {
  sprintf: [verbs, fc.array(value, { maxLength: 4 }).map((all) => `[${all.join(',')}]`)],
  'time.format': [when],
  'time.date': [when],
  'time.clock': [when],
  'time.weekday': [when],
  'time.add_date': [when, fc.integer({ min: -40, max: 40 }).map(String), fc.integer({ min: -40, max: 40 }).map(String), fc.integer({ min: -400, max: 400 }).map(String)],
  'time.diff': [when, when],
  'time.parse_ns': [layout, joined(['2024', '12', '31', '01', '02', '23', '5', '59', '.5', 'Feb', 'May', 'Fri', 'AM', 'pm', '+0100', 'Z', '-07:30', ' ', '-', ':', 'T', 'x'], 8)],
  'time.parse_rfc3339_ns': [fc.date({ noInvalidDate: true }).map((one) => JSON.stringify(one.toISOString()))],
  'time.parse_duration_ns': [duration],
  'net.cidr_is_valid': [fc.oneof(cidr, nearNetwork)],
  'net.cidr_contains': [nearNetwork, nearEither],
  'net.cidr_intersects': [nearNetwork, fc.oneof(nearNetwork, nearEither)],
  replace: [fc.oneof(someText, longText), joined(['', 'a', 'b', 'é', '𝄞', 'ab'], 2), joined(['', '-', 'é', '𝄞', '$&'], 2)],
  'base64.decode': [encoded],
  'base64.is_valid': [fc.oneof(encoded, value)],
  'base64url.decode': [encoded],
  // Of version 4 only: opa's own process dies of some networks of version 6.
  'net.cidr_merge': [fc.array(nearCidr, { maxLength: 5 }).map((all) => `[${all.join(',')}]`)],
  'net.cidr_contains_matches': [nearCidr, fc.array(nearCidr, { maxLength: 4 }).map((all) => `[${all.join(',')}]`)],
  'net.cidr_expand': [nearCidr],
  'regex.replace': [subject, pattern, joined(['$1', '${1}', '$n', '$$', 'x', '$'], 3)],
  'regex.split': [pattern, subject],
  'regex.find_n': [pattern, subject, fc.integer({ min: -1, max: 3 }).map(String)],
  'regex.template_match': [joined(['a', '{', '}', 'b', '.', '[ab]+', ':'], 5), subject, text('{'), text('}')],
  'regex.globs_match': [joined(['a', 'b', '.', '*', '+', '[ab]', '[a-c]'], 5), joined(['a', 'b', '.', '*', '+', '[b]', '[a-z]'], 5)],
  'semver.compare': [version, version],
  'semver.is_valid': [version],
  'units.parse': [amount],
  'units.parse_bytes': [amount],
  'uri.parse': [url],
  'uri.is_valid': [url],
  'urlquery.encode': [anyText],
  'urlquery.decode': [url],
  'urlquery.decode_object': [url],
  'urlquery.encode_object': [fc.array(fc.tuple(anyText, fc.oneof(anyText, fc.array(anyText, { maxLength: 2 }).map((all) => `[${all.join(',')}]`))), { maxLength: 3 }).map((all) => printTerm(parseTerm(`{${all.map((pair) => pair.join(':')).join(',')}}`)))],
  'hex.encode': [anyText],
  'base64url.encode_no_pad': [anyText],
  'crypto.sha256': [anyText],
  'crypto.hmac.sha512': [anyText, anyText],
  'strings.count': [subject, joined(['a', 'b'], 2)],
  'strings.split_n': [subject, joined(['a', 'b'], 1), fc.integer({ min: -3, max: 3 }).map(String)],
  'strings.any_prefix_match': [fc.array(subject, { maxLength: 3 }).map((all) => `[${all.join(',')}]`), fc.array(joined(['a', 'b'], 2), { maxLength: 3 }).map((all) => `[${all.join(',')}]`)],
  indexof: [fc.oneof(someText, longText), joined(['', 'a', 'b', 'é', '𝄞', 'ab'], 2)],
  indexof_n: [subject, joined(['a', 'b', '𝄞'], 2)],
  'json.patch': [document, patch],
  'json.marshal_with_options': [value, fc.constantFrom('{}', '{"pretty":true}', '{"indent":"  ","prefix":"> "}', '{"pretty":false,"indent":" "}')],
  'object.subset': [value, value],
  'numbers.range_step': [small, small, fc.integer({ min: -1, max: 9 }).map(String)],
  'graph.reachable_paths': [fc.constantFrom('{"a":["b","c"],"b":["c"],"c":[]}', '{"a":{"b"},"b":{"a"}}', '{"a":["x"]}'), fc.constantFrom('["a"]', '{"b","c"}', '[]')],
  'json.unmarshal': [fc.oneof(jsonText, brokenJson)],
  'json.is_valid': [fc.oneof(jsonText, brokenJson, value)],
  'yaml.unmarshal': [jsonText],
  'yaml.is_valid': [jsonText],
  'io.jwt.decode': [joined(['eyJhbGciOiJub25lIn0', '.', 'e30', 'eyJhIjoxfQ', '', '=', 'x'], 5)],
  'glob.quote_meta': [subject],
  'uuid.parse': [fc.uuid().map((one) => JSON.stringify(one))],
} // biome-ignore format: a table

interface Call {
  readonly name: string
  readonly args: readonly string[]
}

/** The values that opa gives, by place; a call without one is undefined. */
function theirs(sample: readonly Call[]): RegoObject {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-calls-'))
  try {
    // opa does not know the type of what is looked up by a key of the input, so it compiles every call.
    const rules = sample.map(({ name, args }, i) => {
      const looked = args.map((arg) => `object.get({"v": ${arg}}, input.key, null)`)
      return `answers["${i}"] := value if value := ${name}(${looked.join(', ')})`
    })
    writeFileSync(join(folder, 'calls.rego'), `package calls\n\n${rules.join('\n\n')}\n`)
    writeFileSync(join(folder, 'input.json'), '{"key":"v"}')
    const out = runOpa(
      findOpa(process.cwd()),
      ['eval', '-d', 'calls.rego', '-i', 'input.json', '-f', 'json', 'data.calls.answers'],
      folder,
    )
    const result = (fromJson(out) as RegoObject).get('result') as RegoObject[]
    const [expression] = result[0]!.get('expressions') as RegoObject[]
    return expression!.get('value') as RegoObject
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function sampled(of: number, count: number): Call[] {
  const names = Object.keys(generated)
  return names.flatMap((name, i) =>
    fc
      .sample(fc.tuple(...generated[name]!), {
        numRuns: Math.ceil(count / names.length),
        seed: of + i,
      })
      .map((args) => ({ name, args: args as string[] })),
  )
}

// opa takes far longer over one file of many rules than over many files of some.
const batch = 1500

for (let from = 0; from < calls; from += batch) {
  const of = seed + from
  t.test(`generated calls answer as opa does (SEED=${of})`, async (t) => {
    const sample = sampled(of, Math.min(batch, calls - from))
    const answers = theirs(sample)
    for (const [i, { name, args }] of sample.entries()) {
      const answer = new Evaluation().call(name, args)
      // Bytes that are no text cannot be seen in opa's JSON.
      if (typeof answer === 'object') continue
      const ours = answer === undefined ? undefined : fromJson(toJson(parseTerm(answer)))
      const other = answers.get(String(i))
      const isSame =
        ours === undefined || other === undefined ? ours === other : keyOf(ours) === keyOf(other)
      if (!isSame) {
        const [one, another] = [ours, other].map((value) =>
          value === undefined ? 'undefined' : describe(value),
        )
        t.fail(`${name}(${args.join(', ')}): ours ${one}, theirs ${another}`)
      }
    }
    t.ok(answers.size > sample.length / 4, `${answers.size} of ${sample.length} have a value`)
  })
}
