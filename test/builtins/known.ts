/** Which documented difference an observed one is of; see src/policy/differences.ts. */
import { fromJson, isArray, keyOf, type Value } from '../../src/rego/values/value.ts'
import type { Difference } from './compare.ts'

const value = (answer: string): Value | undefined =>
  answer.startsWith('[') ? (fromJson(answer) as Value[])[1] : undefined
const text = (answer: string): string => {
  const encoded = value(answer)
  return typeof encoded === 'string' ? Buffer.from(encoded, 'base64').toString() : ''
}
/** One U+FFFD in place of several. */
const shown = (answer: string): string => answer.replace(/\ufffd+/g, '\ufffd')
const isOf = (...names: string[]): RegExp => new RegExp(`^(?:${names.join('|')})$`)
const raw = /[\udc80-\udcff]/
const verdict = (answer: string): string => {
  const pair = value(answer)
  return pair !== undefined && isArray(pair) ? keyOf(pair[0]!) : answer
}

/** Whether a number is a key, and its text too. */
function hasKeysOfOneText(args: string): boolean {
  return Array.from(args.matchAll(/[{,](-?[0-9][0-9.eE+-]*):/g)).some(([, key]) =>
    args.includes(`"${key}":`),
  )
}

/** The id of a documented difference, and what an observed one must look like. */
const kinds: readonly (readonly [id: string, names: RegExp, isIt: (difference: Difference) => boolean])[] = [
  ['bounded-work', /./, ({ ours }) => ours.startsWith('failed: the policy called a builtin with too much work')],
  ['not-utf-8-shown', /./, ({ opa, ours }) => shown(opa) === shown(ours)],
  ['not-utf-8-matched', isOf('regex\\..*', 're_match', 'glob.match', 'indexof', 'indexof_n'), ({ call }) => raw.test(call.args.join())],
  ['number-forms', isOf('time\\..*'), ({ call, ours }) => ours === 'undefined' && /\d\.\d{17}|\d{16}/.test(call.args.join())],
  ['keys-of-one-text', /./, ({ call }) => hasKeysOfOneText(call.args.join())],
  ['yaml-marshal', isOf('yaml.marshal'), ({ call, opa, ours }) => text(ours) !== '' && (opa !== 'undefined' || /[\u0085\u2028\u2029]/.test(call.args.join()))],
  ['yaml-unmarshal', isOf('yaml.unmarshal', 'yaml.is_valid'), ({ call: { args: [given = ''] } }) => /!!|[|>]\\n|\\ud8|[\u2028\u0085]/.test(given)],
  ['template-printf', isOf('strings.render_template'), ({ call: { args: [given = ''] } }) => /printf|\.a\.b/.test(given)],
  ['schema-errors', isOf('json.match_schema'), ({ opa, ours }) => opa !== 'undefined' && verdict(opa) === verdict(ours)],
  ['schema-errors', isOf('json.verify_schema'), ({ opa, ours }) => opa !== 'undefined' && verdict(opa) === verdict(ours)],
  ['jwt-malformed', isOf('io\\.jwt\\.verify_hs\\d+'), ({ opa, ours }) => opa === '["boolean",false]' && ours === 'undefined'],
  ['graphql-texts', isOf('graphql\\..*'), ({ call }) => /mutation/.test(call.args.join())],
] // biome-ignore format: a table

/** @returns undefined for a difference that is not documented. */
export function known(difference: Difference): string | undefined {
  return kinds.find(([, names, isIt]) => names.test(difference.call.name) && isIt(difference))?.[0]
}
