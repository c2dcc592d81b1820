/**
 * Generated calls of every builtin that a module may call, native or from the host, and of some expressions of the
 * language beside them. Each is a rule of one policy that takes its arguments from the input.
 */
import fc from 'fast-check'
import { findOpa, runOpa } from '../../src/bundle/opa.ts'
import { refused } from '../../src/rego/registry.ts'
import { resolved } from '../harness/builtins.ts'
import { ofType, type Terms } from './arguments.ts'
import { likely } from './likely.ts'

export interface Call {
  readonly name: string
  /** Texts of terms. */
  readonly args: readonly string[]
}

interface Callable {
  readonly name: string
  readonly types: readonly string[]
  /** The call in Rego, of the variables `a`, `b`, `c`, `d`. */
  readonly rego: string
}

/** Their answer is another one each time. */
const changing = [
  'time.now_ns',
  'rand.intn',
  'uuid.rfc4122',
  'io.jwt.encode_sign',
  'io.jwt.encode_sign_raw',
]
/** They have no value, or none but `true`. */
const silent = ['print', 'internal.print', 'internal.test_case', 'assign', 'eq']

/** OPA's own process dies of some arguments, or fills the memory: they get likely arguments alone. See limits.test.ts. */
const dangerousToOpa = [
  'bits.lsh',
  'numbers.range',
  'numbers.range_step',
  'net.cidr_merge',
  'net.cidr_expand',
  'json.patch',
  'internal.template_string',
  'io.jwt.decode_verify',
  'to_number',
  'look up data',
  'look up list',
]

/** Expressions that are no builtin. */
const expressions: readonly Callable[] = [
  { name: 'iterate', types: ['set|object|array'], rego: '[v | some v in a]' },
  { name: 'iterate keys', types: ['object|set'], rego: '[k | some k, _ in a]' },
  { name: 'nested', types: ['set|object', 'set|array'], rego: '[[v, w] | some v in a; some w in b]' },
  { name: 'look up', types: ['object|array|set', 'any'], rego: 'a[b]' },
  { name: 'look up data', types: ['any'], rego: 'data.stuff[a]' },
  { name: 'look up list', types: ['any'], rego: 'data.list[a]' },
  { name: 'add to a constant', types: ['number'], rego: '[a + 5000000000, 5000000000 + 1, a * 1e3, -9007199254740993 - a]' },
  { name: 'keys of a comprehension', types: ['set|array'], rego: '{v: v | some v in a}' },
  { name: 'members of a comprehension', types: ['set|array', 'set|array'], rego: '[v | some v in {w | some w in a} | {w | some w in b}]' },
] // biome-ignore format: a table

const letters = ['a', 'b', 'c', 'd']

interface Declared {
  readonly type: string
  readonly of?: Declared | readonly Declared[]
  readonly dynamic?: Declared
  readonly static?: readonly Declared[]
}

/** The name of a declared type for `ofType`. */
function kindOf(type: Declared): string {
  if (type.type === 'any')
    return Array.isArray(type.of) ? (type.of as Declared[]).map(kindOf).join('|') : 'any'
  const inner = type.type === 'set' ? (type.of as Declared | undefined) : type.dynamic
  const kind = inner === undefined ? '' : `${inner.type}${type.type}`
  return { stringarray: 'strings', numberarray: 'numbers', objectarray: 'objects', stringset: 'stringset', numberset: 'numberset', setset: 'setset' }[kind] ?? type.type
} // biome-ignore format: a table

/** Every builtin that `opa` knows and that is asked here, with the types of its arguments. */
export function callables(): readonly Callable[] {
  const { builtins } = JSON.parse(
    runOpa(findOpa(process.cwd()), ['capabilities', '--current']),
  ) as { builtins: { name: string; decl: { args?: Declared[] }; relation?: boolean }[] }
  const without = new Set([...changing, ...silent, ...Object.keys(refused), ...resolved])
  const called = builtins
    .filter(({ name }) => !without.has(name))
    .map(({ name, decl, relation }) => {
      const types = (decl.args ?? []).map(kindOf)
      const args = letters.slice(0, types.length).join(', ')
      return { name, types, rego: relation ? `[p | ${name}(${args}, p)]` : `${name}(${args})` }
    })
  return [...called, ...expressions]
}

/** About `count` calls, as many of each builtin. The same seed gives the same calls. */
export function sampleCalls(all: readonly Callable[], seed: number, count: number): Call[] {
  const each = Math.ceil(count / all.length)
  return all.flatMap(({ name, types }, i) => {
    const general: Terms[] = types.map(ofType)
    const own = likely[name] ?? []
    const args = dangerousToOpa.includes(name) ? fc.tuple(...own) : own.length === 0 ? fc.tuple(...general) : fc.oneof(
      { arbitrary: fc.tuple(...own), weight: 3 },
      { arbitrary: fc.tuple(...general), weight: 2 },
    ) // biome-ignore format: one expression
    return fc
      .sample(args, { numRuns: each, seed: seed + i })
      .map((given) => ({ name, args: given }))
  })
}
