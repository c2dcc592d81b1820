/** Likely arguments of single builtins, as texts of terms: what the declared types alone would seldom hit. */
import fc from 'fast-check'
import { parseTerm, printTerm, toJson } from '../../src/rego/values/value.ts'
import type { Terms } from './arguments.ts'

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

const few = fc.integer({ min: -3, max: 12 }).map(String)
const listOf = (of: Terms, most = 4): Terms =>
  fc.array(of, { maxLength: most }).map((all) => `[${all.join(',')}]`)
const base = fc.constantFrom('2', '8', '10', '16', '3', '0', '10.0', '1e1')
const close = fc.constantFrom(
  '-21',
  '-1',
  '0',
  '1',
  '2',
  '7',
  '2.5',
  '3.0',
  '1e2',
  '0.1',
  '0.2',
  '0.3',
  '100',
  '4294967295',
  '4294967296',
  '9223372036854775807',
  '1e18',
  '123456789012345678901',
  '-7',
  '-7.5',
  '6',
  '1e-3',
)
const pathText = fc.constantFrom(
  '"a"',
  '"a/b"',
  '"a/b/0"',
  '"b"',
  '"/a"',
  '""',
  '"a~1b"',
  '"0"',
  '["a"]',
  '["a","b"]',
  '["a","b",0]',
  '["a","b","0"]',
  '[]',
  '[1]',
)
const tree = fc.constantFrom(
  '{"a":{"b":[1,2],"c":3},"b":[{"a":1},2],"a/b":7}',
  '{"a":1,"b":{"a":2}}',
  '{"a":[{"b":1}]}',
  '{"a":{"b":{"0":1}}}',
  '{1:2,"1":3}',
  '{"0":[0,[1]]}',
)
const template = fc
  .constantFrom(
    '*',
    'a*',
    '*.com',
    '**',
    'a/**',
    'a/*/c',
    '?',
    'a?c',
    '[abc]',
    '[!a]',
    '[a-c]*',
    '{a,b}',
    '{a,b*}',
    '{a,{b,c}}',
    '\\\\*',
    '*{a}*',
    '[a',
    '{a',
    '',
    'é*',
    '?é',
    '*a*b',
    'a**b',
    '{,a}',
    '[*]',
    '[^a]',
    '*.*',
    '{*,a}',
    'A*',
  )
  .map((one) => JSON.stringify(one))
const globbed = fc
  .constantFrom(
    'a',
    'abc',
    'a/b/c',
    'a.com',
    'x.a.com',
    '',
    'b',
    'aé',
    'é',
    'ab',
    '*',
    'a.b.c',
    '日',
    'a\nb',
    '/',
    'a/',
    'A',
  )
  .map((one) => JSON.stringify(one))
const delimiters = fc.constantFrom(
  '[]',
  'null',
  '["."]',
  '["/"]',
  '["/","."]',
  '["ab"]',
  '[""]',
  '["é"]',
)
const graph = fc.constantFrom(
  '{"a":["b","c"],"b":["c"],"c":[]}',
  '{"a":{"b"},"b":{"a"}}',
  '{"a":["x"]}',
  '{1:[2],2:[1]}',
  '{"a":"b","b":null}',
)
const roots = fc.constantFrom('["a"]', '{"b","c"}', '[]', '["x","a"]', '{1}')
const nearPattern = fc.oneof(
  pattern,
  fc
    .constantFrom(
      '(?<n>a)',
      '(?P<n>a)',
      '(?i)É',
      '\\\\pL+',
      '\\\\p{Greek}',
      '[[:alpha:]]',
      '\\\\C',
      'a{1001}',
      'a{1000}',
      '(?U)a+',
      '\\\\Qa.b\\\\E',
      '\\\\z',
      '\\\\Z',
      '(?s).',
      '(?-s).',
      '\\\\x{10FFFF}',
      '\\\\07',
      '(a{500}){3}',
      '\\\\bé',
      '[^\\\\x00-\\\\x7f]',
      '(?:a|b)*?',
      '(?m)^a$',
      '\\\\d',
      '(?=a)',
      '(?i)k',
      '[a-é]',
      '[z-a]',
      'a**',
      '^*',
      '(|a)+',
      'x*',
      '\\\\pN',
      '\\\\h',
      '(?i:ſ)',
      '.',
      '\\\\u0041',
      '[\\\\d-z]',
      '()',
      'a\\\\',
    )
    .map((one) => `"${one}"`),
)
const nearSubject = fc.oneof(
  subject,
  fc
    .constantFrom('', 'a.b', 'K', 'k', 'ſ', 'Σς', 'É', '\n', 'a\nb', '٣', 'a1', 'aab', '𝄞a', 'é')
    .map((one) => JSON.stringify(one)),
  fc.constantFrom('"a\udcffb"', '"\udcc3"'),
)
const words = fc.constantFrom(
  '"a"',
  '"ab"',
  '"b"',
  '""',
  '"é"',
  '"日本"',
  '" "',
  '"abab"',
  '"A"',
  '"𝄞"',
  '"\udcffa"',
  '"aé𝄞b"',
  '"  a b "',
  '"\u00a0a\u2003"',
  '"\u0085a"',
  '"\u180ea"',
  '"\ufeffa"',
  '"\t\u000b\fa\u001c"',
)
const yamlText = fc
  .constantFrom(
    'a: 1',
    '1_000',
    '010',
    '0o10',
    '0x1F',
    '0b11',
    '1e3',
    '.5',
    '1.',
    '.inf',
    '-.INF',
    '.nan',
    '~',
    'null',
    'Null',
    'yes',
    'on',
    'y',
    'Y',
    'no',
    'True',
    'TRUE',
    '2001-12-14',
    '2001-12-14t21:59:43.10-05:00',
    '12:30:45',
    '- a\n- b',
    'a: {b: [1, 2]}',
    'a: &x 1\nb: *x',
    '<<: {a: 1}\nb: 2',
    '? a\n: b',
    '1: a',
    'true: a',
    'null: a',
    '1.5: a',
    '!!str 1',
    '!!int "1"',
    '!!binary YQ==',
    'a: |\n  x\n  y',
    'a: >\n  x\n  y',
    "'a''b'",
    '"\\x41"',
    '--- a\n--- b',
    '',
    '#c',
    'a: 1\na: 2',
    '[1, 2',
    '{a: 1',
    '\ta: 1',
    '%YAML 1.1\n--- 1',
    '0777',
    '08',
    '0o8',
    '+1',
    '-0',
    '-1_0',
    '0x_1',
    '1__0',
    '1e400',
    '123456789012345678901',
    '1.0',
    '1.10',
    '-0.0',
    '9007199254740993',
    '0.1e-5',
    'a:b',
    'a: b: c',
    '@a',
    '`a',
    'é: 日',
    '"\\ud800"',
    '[a, b, ]',
    '- - a',
    '!!set {a, b}',
    '!!float 1',
    '!foo a',
    '=',
    '0.',
    '1E3',
    '1e+3',
    '1.5e3',
    '0b',
    '0xg',
    'NO',
    'Off',
    'nULL',
    'a: !!null x',
  )
  .map((one) => JSON.stringify(one))
const jwtKey = fc.constantFrom('"secret"', '"other"', '""', '"é"')
const schemaText = fc.constantFrom(
  '{"type":"object"}',
  '{"type":"string"}',
  '{"properties":{"a":{"type":"number"}},"required":["a"]}',
  '{"enum":[1,"a",null]}',
  '{"minimum":1}',
  '{"pattern":"^a"}',
  '{"items":{"type":"integer"},"maxItems":2}',
  '{"oneOf":[{"type":"string"},{"minimum":3}]}',
  '{"type":"x"}',
  '{"multipleOf":0.1}',
  '{"additionalProperties":false}',
  '[]',
  'true',
  '{"format":"date"}',
  '{"not":{}}',
  '{"minLength":2}',
  '{"const":1}',
  '{"uniqueItems":true}',
)
const schemaForm = fc.oneof(
  schemaText,
  schemaText.map((one) => JSON.stringify(one)),
)
const gqlQuery = fc
  .constantFrom(
    '{a}',
    '{a{b}}',
    'query q($x:Int){a(x:$x)}',
    '{',
    '',
    'mutation{a}',
    '{a @skip(if:true)}',
    'fragment f on A{b} {a{...f}}',
    '{a(x:1){b c}}',
    '{é}',
  )
  .map((one) => JSON.stringify(one))
const gqlSchema = fc
  .constantFrom(
    'type Query{a:Int}',
    'type A{b:Int c:String} type Query{a(x:Int):A}',
    'type Query{a:B}',
    '',
    'schema{query:Q} type Q{a:Int}',
    'type Query{',
    'enum E{A B} type Query{a:E}',
    'scalar D type Query{a:D}',
  )
  .map((one) => JSON.stringify(one))
const templated = fc.tuple(
  fc
    .constantFrom(
      '{{.a}}',
      'x {{ .a }} y',
      '{{range .l}}{{.}},{{end}}',
      '{{if .a}}1{{else}}2{{end}}',
      '{{.missing}}',
      '{{',
      '{{.a.b}}',
      '{{printf "%d" .n}}',
      '{{len .l}}',
      '{{index .l 0}}',
      '{{.a | printf "%q"}}',
      '{{with .a}}{{.}}{{end}}',
    )
    .map((one) => JSON.stringify(one)),
  fc.constantFrom(
    '{}',
    '{"a":"x","l":[1,"b"],"n":3}',
    '{"a":{"b":1},"l":[]}',
    '{"a":true}',
    '{"a":null,"l":{"s"}}',
  ),
)

export const likely: Readonly<Record<string, readonly Terms[]>> = {
  abs: [close], ceil: [close], floor: [close], round: [close], plus: [close, close], minus: [close, close], mul: [close, close], div: [close, close], rem: [close, close],
  'bits.and': [close, close], 'bits.or': [close, close], 'bits.xor': [close, close], 'bits.negate': [close], 'bits.lsh': [close, few], 'bits.rsh': [close, few],
  format_int: [close, base],
  'io.jwt.decode_verify': [fc.constantFrom('"eyJhbGciOiJIUzI1NiJ9.e30.n1JCYzZCXTqpZzzmN3PAEgMBHJHVYYIRnkYTxZ7ddbU"', '"a.b.c"', '""', '"eyJhbGciOiJub25lIn0.e30."'), fc.constantFrom('{"secret":"secret"}', '{"secret":"x"}', '{}', '{"secret":"secret","alg":"HS256"}', '{"secret":"secret","aud":"a"}', '{"secret":"secret","time":-1}', '{"cert":"x"}', '{"secret":1}', '{"iss":"x","secret":"secret"}')],
  'internal.template_string': [listOf(fc.oneof(fc.constantFrom('"a "', '"é"', 'set()', '{"x"}', '{1.0}', '{null}', '{{"b","a"}}', '{[1,"a"]}', '{{"b":1,"a":2}}', '{"<&>"}'), value.map((one) => `{${one}}`)))],
  'array.slice': [fc.constantFrom('[]', '[1,2,3,4]', '["a",{1}]'), few, few],
  substring: [words, few, few],
  concat: [words, fc.oneof(listOf(words), fc.constantFrom('{"b","a","c","10","9"}', '{"é","z","","𝄞"}', '{"reason z","reason a"}', '["a",1]', '{"a",1}'))],
  contains: [words, words], startswith: [words, words], endswith: [words, words], split: [words, words], trim: [words, words], trim_left: [words, words], trim_right: [words, words],
  trim_prefix: [words, words], trim_suffix: [words, words], trim_space: [words], lower: [words], upper: [words], 'strings.reverse': [words],
  'strings.replace_n': [fc.constantFrom('{"a":"b"}', '{"a":"b","b":"a"}', '{"":"-"}', '{"ab":"x","a":"y"}', '{"":"-","a":"b"}', '{"é":"e"}', '{"a":1}', '{1:"a"}', '{"日":""}'), words],
  'glob.match': [template, delimiters, globbed],
  'regex.match': [nearPattern, nearSubject], 'regex.is_valid': [nearPattern], re_match: [nearPattern, nearSubject],
  'regex.find_all_string_submatch_n': [nearPattern, nearSubject, fc.integer({ min: -2, max: 3 }).map(String)],
  'json.filter': [tree, listOf(pathText, 3)], 'json.remove': [tree, listOf(pathText, 3)],
  'object.filter': [tree, fc.constantFrom('["a"]', '{"a","b"}', '{"a":1}', '[1]', '["1",1]', '{1}')], 'object.remove': [tree, fc.constantFrom('["a"]', '{"a","b"}', '{"a":1}', '[1]', '["1",1]', '{1}')],
  'object.get': [tree, fc.constantFrom('"a"', '["a","b"]', '["a","b",0]', '["b",0,"a"]', '1', '"1"', '[]', '["x"]', '["a","c","d"]', '1.0', '["a","b","0"]'), fc.constantFrom('"default"', 'null')],
  'object.union': [tree, tree], 'object.union_n': [listOf(tree, 3)],
  'numbers.range': [fc.oneof(few, close.filter((one) => one.length < 4)), few],
  'numbers.range_step': [few, few, fc.integer({ min: -1, max: 9 }).map(String)],
  'net.cidr_overlap': [nearNetwork, nearEither],
  'graph.reachable': [graph, roots], 'graph.reachable_paths': [graph, roots],
  'yaml.unmarshal': [fc.oneof(yamlText, jsonText)], 'yaml.is_valid': [fc.oneof(yamlText, jsonText)],
  to_number: [(fc.constantFrom('"1"', '"1e400"', '"1e3"', '"0x10"', '" 1"', '"-"', '"-0"', '"1e"', '"0b1"', '"Inf"', '"nan"', '"1.10"', '"1E5"', '"-1.5e-3"', '"9007199254740993"', '"1e-400"', 'null', 'true', 'false', '1.50', '1e400', '"١"', '"0.1e1"', '"1e+5"', '"--1"'))],
  'io.jwt.verify_hs256': [fc.constantFrom('"eyJhbGciOiJIUzI1NiJ9.e30.n1JCYzZCXTqpZzzmN3PAEgMBHJHVYYIRnkYTxZ7ddbU"', '"a.b.c"', '""'), jwtKey],
  'json.match_schema': [fc.oneof(value, value.map((one) => JSON.stringify(toJson(parseTerm(one))))), schemaForm],
  'json.verify_schema': [schemaForm],
  'graphql.parse': [gqlQuery, gqlSchema], 'graphql.is_valid': [gqlQuery, gqlSchema], 'graphql.parse_and_verify': [gqlQuery, gqlSchema], 'graphql.parse_query': [gqlQuery], 'graphql.parse_schema': [gqlSchema], 'graphql.schema_is_valid': [gqlSchema],
  'strings.render_template': [templated.map(([one]) => one), templated.map(([, one]) => one)],
  iterate: [fc.constantFrom('{"b","a","c","10","9","z","é"}', '{3,1,2.5,"x",null}', '{{2},{1}}', '{"b":1,"a":2}', '[3,1,2]', '{[2],[1],[1,1]}')],
  'iterate keys': [fc.constantFrom('{"b":1,"a":2,"c":3,"10":4}', '{3:1,1:2,"x":3,[1]:4}', '[3,1]', '{"b","a"}')],
  nested: [fc.constantFrom('{"b":{"y","x"},"a":{"z","w","q"}}', '[{"b","a"},{"d","c","e"}]', '{{"b","a"},{"d","c","e"}}'), fc.constantFrom('{"p","o","n"}', '{"b":1,"a":2}', '[2,1]')],
  'look up': [tree, fc.constantFrom('"a"', '1', '"1"', '1.0', '"0"', '0', 'null')],
  'look up data': [fc.constantFrom('"1"', '1', '1.0', '"a"', 'true', '"true"', 'null', '"null"', '0', '"0"', '"[1]"', '2', '"-1"', '-1')],
  'look up list': [fc.constantFrom('"1"', '1', '1.0', '0', '"0"', '-1', '1e0', '0.5', '"a"', '2', '1e400', '3')],
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
  'json.unmarshal': [fc.oneof(jsonText, brokenJson)],
  'json.is_valid': [fc.oneof(jsonText, brokenJson, value)],
  'io.jwt.decode': [joined(['eyJhbGciOiJub25lIn0', '.', 'e30', 'eyJhIjoxfQ', '', '=', 'x'], 5)],
  'glob.quote_meta': [subject],
  'uuid.parse': [fc.uuid().map((one) => JSON.stringify(one))],
} // biome-ignore format: a table
