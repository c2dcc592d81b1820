/**
 * What is not as in `opa eval` of OPA 1.22.2, the whole list. test/builtins compares generated calls of every builtin with
 * `opa eval`, and every difference that it finds must be of one of these kinds. docs/builtins.md is written from it. What
 * a policy is likely to meet is warned of when its bundle is built and when it is activated.
 */
import { functionNames } from './binary.ts'
import { replacedNatives } from './natives.ts'

/** The version of OPA that builtins are compared with. */
export const comparedWith = 'v1.22.2'

export interface BuiltinDifference {
  readonly id: string
  /** Names of builtins; none where it is about the language or about all of them. */
  readonly builtins: readonly string[]
  /** For which arguments. */
  readonly when: string
  readonly opa: string
  readonly ours: string
  readonly why: string
  /** True when a policy that uses the builtin is likely to meet it. */
  readonly warn?: true
}

const matching = [
  'indexof',
  'indexof_n',
  'glob.match', 'regex.find_all_string_submatch_n', 'regex.find_n', 'regex.is_valid', 'regex.match', 're_match', 'regex.replace', 'regex.split', 'regex.template_match', 'regex.globs_match',
] // biome-ignore format: a list

export const differences: readonly BuiltinDifference[] = [
  {
    id: 'bounded-work',
    builtins: [],
    when: 'work without reasonable bound: a pattern of more than 4096 characters, a time of more than 1000, a range of more than 100,000 numbers, a shift by more than 100,000 bits, YAML of more than 65,536 characters, …',
    opa: 'computes, however long it takes',
    ours: 'the evaluation ends, which denies',
    why: 'one request must not hold a gate. It is no undefined, which a policy that negates it would take for leave',
  },
  {
    id: 'opa-dies',
    builtins: ['bits.lsh', 'net.cidr_merge', 'json.patch', 'io.jwt.decode_verify'],
    when: 'arguments of which OPA’s own process panics: a shift by 2^40, networks of both versions, a patch of the whole document after its removal, constraints whose key is no text',
    opa: 'no answer',
    ours: 'undefined, an answer, or the end of the evaluation',
    why: 'there is nothing to be equal to',
  },
  {
    id: 'set-literal',
    builtins: [],
    when: 'an array comprehension over a set that is written with variables: `[v | some v in {a, b}]`',
    opa: 'visits the members in the order of the variables’ generated names',
    ours: 'visits them in the order of their values, as every other set',
    why: 'the names are not in a compiled module. A set that is written down is seldom scanned into an array',
  },
  {
    id: 'fraction-as-index',
    builtins: [],
    when: 'an element of an array of the input, or of one that a rule has made, by a whole number that is written as a fraction: `input.list[1.0]`',
    opa: 'finds the element',
    ours: 'undefined',
    why: 'the index comes from the input or from a fraction that a rule computes. In arrays of `data` the element is found',
  },
  {
    id: 'numbers-of-two-spellings',
    builtins: [],
    when: 'numbers from 2^63 on that are spelt in two ways, as members of one set or keys of one object: 1e19 and 10000000000000000000',
    opa: 'has one member',
    ours: 'has two; `==` is true between them',
    why: 'the module keeps such numbers as their digits, and finds members by them',
  },
  {
    id: 'not-utf-8-shown',
    builtins: [],
    when: 'bytes that are not UTF-8 in the text of a decision',
    opa: 'shows one U+FFFD for each byte',
    ours: 'may show one for several bytes',
    why: 'they are shown as the target of the request is shown, so that a policy can compare them. Inside an evaluation the bytes are kept',
  },
  {
    id: 'not-utf-8-matched',
    builtins: matching,
    when: 'bytes that are not UTF-8 in the text that is searched',
    opa: 'matches each as the character U+FFFD',
    ours: 'matches each as a character by itself: `.` matches it, `\\x{fffd}` does not',
    why: 'no pattern tells them apart but one that names U+FFFD or a class that holds it',
  },
  {
    id: 'keys-of-one-text',
    builtins: [],
    when: 'a decision with an object that has a number and its text as keys, 1 and "1"',
    opa: 'shows the member of the text',
    ours: 'may show both, of which readers of JSON take one',
    why: 'JSON has no such object. Inside an evaluation both are there',
  },
  {
    id: 'to-number-text',
    builtins: ['to_number'],
    when: 'texts that JSON does not know as numbers: `+1`, `010`, `.5`, `1_000`',
    opa: 'keeps the text, and cannot write the answer as JSON',
    ours: 'the number that it means: 1, 10, 0.5, 1000',
    why: 'it compares and computes as in OPA; only what is shown differs',
  },
  {
    id: 'number-forms',
    builtins: ['time.clock', 'time.date', 'time.format', 'time.weekday', 'time.add_date', 'time.diff'],
    when: 'a number of nanoseconds with a fraction that a double does not hold, 7.9999999999999999999; years, months or days beyond 2^53',
    opa: 'rounds it; counts beyond the range and begins again',
    ours: 'undefined',
    why: 'a time of nanoseconds has no fraction, and no calendar such days',
  },
  {
    id: 'yaml-marshal',
    builtins: ['yaml.marshal'],
    when: 'texts that may be quoted or not, lists in lists and in objects of objects, line breaks of Unicode (U+0085, U+2028, U+2029)',
    opa: 'quotes and indents as Go’s library does',
    ours: 'quotes and indents otherwise; both read the same. Line breaks of Unicode are kept, where OPA is undefined or makes spaces of them',
    why: 'another library writes it',
    warn: true,
  },
  {
    id: 'yaml-unmarshal',
    builtins: ['yaml.unmarshal', 'yaml.is_valid'],
    when: 'tags (`!!set`, `!!binary`, `!!null x`), a text block at the end of the text without a line break, an escaped lone surrogate, U+2028 at an end',
    opa: 'reads them as Go’s library does',
    ours: 'undefined for a tag; a text block ends with a line break; the surrogate becomes U+FFFD; U+2028 is kept',
    why: 'another library reads it. Numbers, dates, keys and aliases are read as in OPA',
    warn: true,
  },
  {
    id: 'template-printf',
    builtins: ['strings.render_template'],
    when: '`printf` of what is no text and no number of the template itself; a member of what is not there',
    opa: 'prints Go’s forms: `%!d(<nil>)`, `map[b:1]`',
    ours: 'prints Rego’s forms: `null`, `{"b": 1}`; undefined for the member',
    why: 'the forms of Go’s types mean nothing in a policy',
    warn: true,
  },
  {
    id: 'schema-errors',
    builtins: ['json.match_schema', 'json.verify_schema'],
    when: 'the list of errors beside a failed `oneOf`, `anyOf` or `allOf`, and texts of some errors',
    opa: 'lists the errors of the alternative that comes nearest as well',
    ours: 'lists the failed keyword; the verdict is the same',
    why: 'the verdict is what a policy decides by',
  },
  {
    id: 'graphql-texts',
    builtins: ['graphql.is_valid', 'graphql.parse', 'graphql.parse_and_verify', 'graphql.parse_query', 'graphql.parse_schema', 'graphql.schema_is_valid'],
    when: 'an operation of a kind for which the schema has no type, where it has no query type either',
    opa: 'decides about the operation',
    ours: 'not valid',
    why: 'the reference implementation of GraphQL is in use',
  },
  {
    id: 'jwt-malformed',
    builtins: ['io.jwt.verify_hs256', 'io.jwt.verify_hs384', 'io.jwt.verify_hs512'],
    when: 'a token whose header is no JSON',
    opa: 'false, or undefined, depending on the algorithm and the signature',
    ours: 'undefined',
    why: 'neither is true',
  },
  {
    id: 'zone-local',
    builtins: ['time.clock', 'time.date', 'time.diff', 'time.format', 'time.weekday'],
    when: 'the zone `Local`; rules of summer time before 1970 and after 2037; letters of later versions of Unicode',
    opa: 'asks the machine, and the tables that Go was built with',
    ours: '`Local` is UTC; the tables are those of Node.js',
    why: 'two gates must decide alike',
  },
] // biome-ignore format: texts

const natives = new Map(replacedNatives.map(({ function: name, builtin }) => [name, builtin]))

/**
 * The builtins of the list that a module uses. OPA leaves out of a module what its policy does not call, and names the
 * builtins of the host in its data.
 */
export function usedBuiltins(wasm: Uint8Array): string[] {
  const names = functionNames(wasm)
  const native = Array.from(names.values(), (name) => natives.get(name)).filter(
    (name) => name !== undefined,
  )
  const bytes = Buffer.from(wasm.buffer, wasm.byteOffset, wasm.length)
  const listed = new Set(differences.flatMap(({ builtins }) => builtins))
  const host = [...listed].filter((name) => bytes.includes(`\0${name}\0`))
  return [...new Set([...native, ...host])]
}

/** What is to be warned of for a policy that uses these builtins, a sentence for each difference. */
export function warningsOf(used: readonly string[]): string[] {
  return differencesOf(used)
    .filter(({ warn }) => warn === true)
    .map(({ builtins, when, opa, ours }) => {
      const names = builtins.filter((name) => used.includes(name)).join(' and ')
      return `${names} is not in all as in OPA, for ${when}: OPA ${opa}; here: ${ours}`
    })
}

export function differencesOf(used: readonly string[]): readonly BuiltinDifference[] {
  return differences.filter(({ builtins }) => builtins.some((name) => used.includes(name)))
}
