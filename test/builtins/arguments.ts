/**
 * Kinds of arguments for generated calls, as texts of terms: what callers send, and what only an attacker sends. The texts
 * are those of `parseTerm`, so that a set stays a set, a number keeps its digits, and a byte that is not UTF-8 is a lone
 * surrogate (src/rego/values/bytes.ts).
 */
import fc from 'fast-check'
import { parseTerm, printTerm } from '../../src/rego/values/value.ts'

export type Terms = fc.Arbitrary<string>

/** The argument has no value. */
export const undefinedTerm = 'undefined'

const quoted = (text: string): string => `"${JSON.stringify(text).slice(1, -1)}"`
/** A string whose bytes are not UTF-8. */
const raw = (...bytes: number[]): string =>
  `"a${String.fromCharCode(...bytes.map((byte) => 0xdc00 + byte))}b"`
const nested = (depth: number): string => `${'['.repeat(depth)}1${']'.repeat(depth)}`

export const strings: readonly string[] = [
  '', 'a', 'A', 'abc', ' a ', 'a\u0000b', '\u0000', 'é', 'É', 'ß', 'ẞ', 'İ', 'ı', 'ſ', 'K', 'ǅ', 'Σ', 'ς', '日本', '𝄞', '\ufffd', '\ufeff',
  '\u00a0x\u2003', '\u0085', '\u200b', 'e\u0301', '"', '\\', '\n\t\r\b\f\u001f\u007f', '<>&\u2028\u2029', '/', '1', '-1', '1e3', '010', '0x1f',
  '1_000', '0.5', '1e400', '.5', '1.', ' 1', '+1', 'Infinity', 'NaN', 'inf', '-0', 'true', 'null', '{}', '[]', '(', '(?<n>a)', '(?P<n>a)', '[a', 'a*', '*', '**', '{a,b}',
  '.', 'a.b.c', 'a/b/c', '10.0.0.0/8', '::ffff:10.1.2.3', '__proto__', 'constructor', 'ﬀ', 'ŉ', 'ΐ', 'ա', 'ꭰ', 'Ꭰ', '𐐀', '\u{1e921}',
].map(quoted) // biome-ignore format: a table

export const wrongStrings: readonly string[] = [
  raw(0xff),
  raw(0xc3),
  raw(0xed, 0xa0, 0x80),
  raw(0xf0, 0x9f, 0x98),
  raw(0x80),
  raw(0xc0, 0x80),
  raw(0xf4, 0x90, 0x80, 0x80),
]

export const longStrings: readonly string[] = [
  quoted('a'.repeat(5000)),
  quoted('é'.repeat(700)),
  quoted('ab,'.repeat(400)),
]

export const numbers: readonly string[] = [
  '0', '1', '-1', '2', '3', '10', '36', '64', '255', '0.5', '-0.5', '1.5', '2.5', '-2.5', '0.1', '1.0', '1.10', '100', '1e2', '1E+2', '1e-2', '0.0', '-0', '-0.0',
  '2147483647', '2147483648', '-2147483648', '-2147483649', '4294967296', '9007199254740993', '9223372036854775807', '9223372036854775808',
  '-9223372036854775808', '-9223372036854775809', '18446744073709551616', '1e19', '1e20', '1e21', '123456789012345678901234567890',
  '-123456789012345678901234567890', '0.1234567890123456789012345', '1e-7', '1e100', '1e308', '1.8e308', '5e-324', '1e-400', '1e400', '-1e400', '1e1000', '3.0', '7.9999999999999999999',
] // biome-ignore format: a table

const collections: readonly string[] = [
  '[]', '{}', 'set()', '[1]', '[1,2,3]', '["b","a","c"]', '["a","a"]', '{"a":1}', '{"b":1,"a":{"c":2}}', '{"1":"text"}', '{1:"number"}', '{1:"a","1":"b"}', '{1,2}', '{2,1,"a",null,true}',
  '{"x","y","z","aa","b"}', '{"reason one","another","third","4"}', '{{1},{2}}', '{set()}', '{{1,2},{2,3}}', '[{1},{2}]', '{[1,2],[2,1]}', '{{"a":1},{"a":2}}', '{{1:2}:3}', '{[1]:2}', '{{1}:{2}}', '{null:1,true:2}',
  '{1,1.0,1e0}', '{1.5,0.5,-1,10,2}', '{"10","9","1"}', '[null,true,false,0,"",[],{},set()]', '[[1,2],[3]]', '[[1,[2]],[{3}]]', '{"a":[1,{"b":[2]}]}', '{"é":1,"z":2,"日":3,"𝄞":4,"\\uffff":5}', '[1.10,1e2,100]', '{"a":null}', '{"a":[]}',
  '{"k":["v1","v2"]}', '[true]', '[false,true]', '{true}', '{false,true}', '["a",1]', '{"<a>":"&"}',
  '[{"a":1},{"a":{"b":2}},{"a":{"c":3}}]', '[["a"],["b","c"]]', '{"a":["b","c"],"b":["c"],"c":[]}', '{"a":{"b"},"b":{"a"}}',
] // biome-ignore format: a table

/** Keys of equal hash in the module: the hash of an array is the sum of those of its members. */
const colliding = `{${Array.from({ length: 12 }, (_, i) => `[${i},${11 - i}]`).join(',')}}`
const many = `{${Array.from({ length: 40 }, (_, i) => `"k${i * 7919}":${i}`).join(',')}}`
const manyMembers = `{${Array.from({ length: 40 }, (_, i) => `"${(i * 7919) % 1000}"`).join(',')}}`
const larges: readonly string[] = [
  colliding,
  many,
  manyMembers,
  nested(60),
  `{"a":${nested(30)}}`,
  `[${Array.from({ length: 200 }, (_, i) => 200 - i).join(',')}]`,
]

const anyOf = (...lists: (readonly string[])[]): Terms => fc.constantFrom(...lists.flat())

const integer: Terms = fc
  .oneof(fc.integer({ min: -20, max: 400 }), fc.bigInt({ min: -(2n ** 70n), max: 2n ** 70n }))
  .map(String)
const double: Terms = fc
  .double({ noNaN: true, noDefaultInfinity: true })
  .map((one) => (Object.is(one, -0) ? '0' : String(one)))
// Characters that every version of Unicode in use knows: which ones can be printed differs between them.
const someText: Terms = fc
  .array(
    fc.constantFrom('a', 'b', 'A', ' ', '.', '/', 'é', 'ß', 'Ω', '日', '𝄞', '\u2006', '\u0301', '"', '\\', '\n', '\x07'),
    { maxLength: 7 },
  )
  .map((all) => quoted(all.join(''))) // biome-ignore format: a table

export const aNumber: Terms = fc.oneof(anyOf(numbers), integer, double)
export const aString: Terms = fc.oneof(
  { arbitrary: anyOf(strings), weight: 6 },
  { arbitrary: someText, weight: 4 },
  { arbitrary: anyOf(wrongStrings), weight: 1 },
  { arbitrary: anyOf(longStrings), weight: 1 },
)
const scalar: Terms = fc.oneof(anyOf(strings), aNumber, anyOf(['null', 'true', 'false']))
const once = (text: string): string => printTerm(parseTerm(text))
export const anArray: Terms = fc
  .array(fc.oneof(scalar, anyOf(collections)), { maxLength: 4 })
  .map((all) => `[${all.join(',')}]`)
export const aSet: Terms = fc
  .array(fc.oneof(scalar, anyOf(collections)), { maxLength: 5 })
  .map((all) => (all.length === 0 ? 'set()' : once(`{${all.join(',')}}`)))
export const anObject: Terms = fc
  .array(fc.tuple(fc.oneof({ arbitrary: anyOf(strings), weight: 4 }, { arbitrary: scalar, weight: 1 }), fc.oneof(scalar, anyOf(collections))), { maxLength: 4 })
  .map((all) => once(`{${all.map((pair) => pair.join(':')).join(',')}}`)) // biome-ignore format: one expression
export const anything: Terms = fc.oneof(
  scalar,
  anyOf(wrongStrings),
  anyOf(collections),
  anyOf(larges),
  anArray,
  aSet,
  anObject,
  fc.constant(undefinedTerm),
)

/** An argument of a declared type (`opa capabilities`), seldom of another. */
export function ofType(type: string): Terms {
  const own = type.split('|').map((one) => byType[one] ?? anything)
  return fc.oneof({ arbitrary: fc.oneof(...own), weight: 9 }, { arbitrary: anything, weight: 1 })
}

const list = (of: Terms): Terms => fc.array(of, { maxLength: 5 }).map((all) => `[${all.join(',')}]`)
const setOf = (of: Terms): Terms =>
  fc
    .array(of, { maxLength: 6 })
    .map((all) => (all.length === 0 ? 'set()' : once(`{${all.join(',')}}`)))
const namedCollections = (opening: RegExp): Terms =>
  anyOf([...collections, ...larges].filter((text) => opening.test(text)))
const isSet = (text: string): boolean => /^(?:set|\{(?!.*:))/.test(text)

const byType: Readonly<Record<string, Terms>> = {
  any: anything,
  string: aString,
  number: aNumber,
  boolean: anyOf(['true', 'false']),
  null: anyOf(['null']),
  array: fc.oneof(anArray, namedCollections(/^\[/)),
  strings: list(fc.oneof(anyOf(strings), someText)),
  numbers: list(aNumber),
  set: fc.oneof(aSet, anyOf([...collections, ...larges].filter(isSet))),
  stringset: setOf(fc.oneof(anyOf(strings), someText)),
  numberset: setOf(aNumber),
  setset: setOf(fc.oneof(aSet, anyOf(['{1,2,3}', '{2,3}', 'set()']))),
  object: fc.oneof(anObject, anyOf([...collections, ...larges].filter((text) => text.startsWith('{') && !isSet(text)))),
  objects: list(anObject),
} // biome-ignore format: a table
