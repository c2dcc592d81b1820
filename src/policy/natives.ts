/**
 * The builtins that OPA compiles into the module (in C) and that the host answers in their place, since the module
 * answers otherwise than `opa eval`, or never ends. With guards, the module answers the arguments for which it is right.
 * test/builtins compares all of them with `opa eval`.
 */
import type { Guard } from './guards.ts'

export interface ReplacedNative {
  /** Name of the function in the module. */
  readonly function: string
  readonly builtin: string
  readonly params: 1 | 2 | 3
  /** One for each parameter; where all of them hold, the module answers. Without guards, the host always does. */
  readonly guards?: readonly (Guard | undefined)[]
}

const hosted = (params: 1 | 2 | 3, name: string, builtin: string): ReplacedNative => ({
  function: name,
  builtin,
  params,
})
const guarded = (
  name: string,
  builtin: string,
  ...guards: (Guard | undefined)[]
): ReplacedNative => ({
  function: name,
  builtin,
  params: guards.length as 1 | 2 | 3,
  guards,
})

/** The host is called with the number `-1 - index`; the module's own builtins have numbers from 0. */
export const replacedNatives: readonly ReplacedNative[] = [
  // Never ends for an empty pattern.
  hosted(3, 'opa_strings_replace', 'replace'),
  // Finds an empty text at 0, where OPA's result is undefined.
  hosted(2, 'opa_strings_indexof', 'indexof'),
  // Finds a mapped address (`::ffff:10.1.2.3`) in no IPv4 network. Also used by `net.cidr_overlap`.
  hosted(2, 'opa_cidr_contains', 'net.cidr_contains'),
  hosted(2, 'opa_cidr_intersects', 'net.cidr_intersects'),
  // Decodes text without padding, and even text that is not base64.
  hosted(1, 'opa_base64_decode', 'base64.decode'),
  hosted(1, 'opa_base64_is_valid', 'base64.is_valid'),
  hosted(1, 'opa_base64_url_decode', 'base64url.decode'),
  // The module frees what it has read, and where that is `true`, `false` or `null` it frees the only one there is: whatever
  // is allocated next is written over it, and no later evaluation of that instance is right.
  hosted(1, 'opa_json_is_valid', 'json.is_valid'),
  // The module reads the beginning of a text that is no JSON as a whole, and an escaped lone surrogate ends the evaluation.
  hosted(1, 'opa_json_unmarshal', 'json.unmarshal'),
  // Writes the members of sets and objects in the order of their hashes, and `<`, `>`, `&` unescaped.
  hosted(1, 'opa_json_marshal', 'json.marshal'),
  // An empty path writes over memory that is not its own.
  hosted(2, 'builtin_json_filter', 'json.filter'),
  hosted(2, 'builtin_json_remove', 'json.remove'),
  // OPA rounds fractions to 64 bits; the module does not.
  guarded('opa_arith_plus', 'plus', 'integer', 'integer'),
  guarded('opa_arith_minus', 'minus', 'integer', 'integer'),
  guarded('opa_arith_multiply', 'mul', 'integer', 'integer'),
  hosted(2, 'opa_arith_divide', 'div'),
  guarded('opa_arith_rem', 'rem', 'integer', 'integer'),
  guarded('opa_arith_abs', 'abs', 'integer'),
  guarded('opa_arith_round', 'round', 'integer'),
  guarded('opa_arith_ceil', 'ceil', 'integer'),
  guarded('opa_arith_floor', 'floor', 'integer'),
  guarded('opa_agg_sum', 'sum', 'integers'),
  // As long as its result has digits, in time.
  hosted(1, 'opa_agg_product', 'product'),
  // Takes `3.0` for no integer.
  guarded('opa_bits_and', 'bits.and', 'integer', 'integer'),
  guarded('opa_bits_or', 'bits.or', 'integer', 'integer'),
  guarded('opa_bits_xor', 'bits.xor', 'integer', 'integer'),
  guarded('opa_bits_negate', 'bits.negate', 'integer'),
  // As long as the shift is wide, in time and memory.
  hosted(2, 'opa_bits_shiftleft', 'bits.lsh'),
  hosted(2, 'opa_bits_shiftright', 'bits.rsh'),
  hosted(2, 'opa_strings_format_int', 'format_int'),
  // Fills the memory with a wide range.
  hosted(2, 'opa_numbers_range', 'numbers.range'),
  // Takes texts that are no numbers, which end the evaluation later.
  hosted(1, 'opa_to_number', 'to_number'),
  guarded('opa_array_slice', 'array.slice', undefined, 'integer', 'integer'),
  // No objects at all make OPA's empty object.
  hosted(1, 'builtin_object_union_n', 'object.union_n'),
  // Joins the members of a set in the order of their hashes.
  guarded('opa_strings_concat', 'concat', undefined, 'array'),
  // Texts that are not ASCII: bytes that are not UTF-8 end the evaluation, and the tables of letters are of another Unicode.
  guarded('opa_strings_lower', 'lower', 'text'),
  guarded('opa_strings_upper', 'upper', 'text'),
  guarded('opa_strings_reverse', 'strings.reverse', 'text'),
  guarded('opa_strings_split', 'split', 'text', 'text'),
  guarded('opa_strings_substring', 'substring', 'text', 'integer', 'integer'),
  guarded('opa_strings_trim', 'trim', 'text', 'text'),
  guarded('opa_strings_trim_left', 'trim_left', 'text', 'text'),
  guarded('opa_strings_trim_right', 'trim_right', 'text', 'text'),
  guarded('opa_strings_trim_space', 'trim_space', 'text'),
  // Counts what is no whole character otherwise.
  guarded('opa_agg_count', 'count', 'text'),
  // Sorts the patterns by insertion.
  hosted(2, 'opa_strings_replace_n', 'strings.replace_n'),
  hosted(1, 'opa_template_string', 'internal.template_string'),
  // RE2 is not Go's regexp: it takes `\C`, not `(?<name>`, and reads a pattern to its first byte 0.
  guarded('opa_regex_match', 'regex.match', 'pattern', 'text'),
  guarded('opa_regex_is_valid', 'regex.is_valid', 'pattern'),
  hosted(3, 'opa_regex_find_all_string_submatch', 'regex.find_all_string_submatch_n'),
  // Takes `(`, `)`, `^` and `$` for parts of a pattern of RE2, whose dots are no line breaks: `/admin/**` would miss a path.
  guarded('opa_glob_match', 'glob.match', 'glob', undefined, 'line'),
  // Sorts by insertion, whose time grows with the square.
  guarded('opa_agg_sort', 'sort', 'short'),
] // biome-ignore format: a table

/** Functions that are no builtins, which call the host with these numbers; it answers with what they return as it is. */
export const hostFunctions = {
  /** `(collection, previous key) => next key`, in OPA's order. */
  nextKey: -200,
  /** `(collection, key) => value` of base data, where the key may stand for another one. */
  otherKey: -201,
  /** `(a, b) => -1, 0 or 1` for large sets or objects, which the module sorts by insertion. */
  compare: -202,
} as const
