/**
 * The kinds of values that options have: what each looks like in the file, and what a reader is told who wrote something
 * else. options.ts is the table that is made of them.
 */
import { objectOf, shape } from './shape.ts'

export type Unit = 'duration' | 'size' | 'workers' | 'path' | 'pem'

/** Description and default of one option. `default` has the form in which the option is written in the file. */
interface Facts {
  readonly why: string
  readonly default?: unknown
}

/** Facts of a duration or size. */
interface UnitFacts extends Facts {
  /**
   * What 0 means: no limit, an act that is never done, or nothing of it. `why` says so too. Where 0 could not work it is
   * absent, and 0 is refused.
   */
  readonly zero?: 'no limit' | 'never' | 'nothing'
  /** True for a duration that no timer waits for: it may be longer than `longestTimerMs`. */
  readonly compared?: true
}

/** Longest time in ms for which Node can set a timer; a longer one would end at once. */
export const longestTimerMs = 2 ** 31 - 1

export const duration = (facts: UnitFacts) =>
  shape<number>({
    type: 'string',
    pattern: '^\\d+(?:\\.\\d+)?(?:ms|s|m|h|d)$',
    'x-unit': 'duration',
    'x-expected': 'a duration such as 500ms, 5s, 15m or 24h',
    ...units(facts),
    ...shown(facts),
  })

export const size = (facts: UnitFacts) =>
  shape<number>({
    type: 'string',
    pattern: '^\\d+(?:B|KiB|MiB|GiB)$',
    'x-unit': 'size',
    'x-expected': 'a size such as 64KiB or 16MiB',
    ...units(facts),
    ...shown(facts),
  })

export const whole = (facts: Facts, minimum: number, maximum: number) =>
  shape<number>({
    type: 'integer',
    minimum,
    maximum,
    'x-expected': `a whole number from ${minimum} to ${maximum}`,
    ...shown(facts),
  })

export const text = (facts: Facts, expected = 'a non-empty text', pattern?: string) =>
  shape<string>({
    type: 'string',
    minLength: 1,
    ...(pattern === undefined ? {} : { pattern }),
    'x-expected': expected,
    ...shown(facts),
  })

export const path = (facts: Facts) =>
  shape<string>({
    type: 'string',
    minLength: 1,
    'x-unit': 'path',
    'x-expected': 'a path, relative to the configuration file',
    ...shown(facts),
  })

/** A PEM file. The configuration holds the file's text, so that a reload applies certificates and routes together. */
export const pem = (facts: Facts) =>
  shape<string>({
    type: 'string',
    minLength: 1,
    'x-unit': 'pem',
    'x-expected': 'the path of a PEM file, relative to the configuration file',
    ...shown(facts),
  })

export const flag = (facts: Facts) =>
  shape<boolean>({ type: 'boolean', 'x-expected': 'true or false', ...shown(facts) })

export const choice = <const T extends string>(values: readonly T[], facts: Facts) =>
  shape<T>({ enum: values, 'x-expected': `one of ${values.join(', ')}`, ...shown(facts) })

export const texts = (facts: Facts, expected: string, pattern = '^.+$') =>
  shape<readonly string[]>({
    type: 'array',
    minItems: 1,
    items: { type: 'string', pattern, 'x-expected': expected },
    'x-expected': `a list: ${expected}`,
    ...shown(facts),
  })

export const labels = (facts: Facts) =>
  shape<Readonly<Record<string, string>>>({
    type: 'object',
    additionalProperties: { type: 'string', 'x-expected': 'a text' },
    'x-expected': 'a mapping of names to texts',
    ...shown(facts),
  })

export const group = <P extends Parameters<typeof objectOf>[0]>(
  properties: P,
  expected = 'a mapping',
) => objectOf(properties, expected)

function shown({ why, default: standard }: Facts): Record<string, unknown> {
  return standard === undefined ? { description: why } : { description: why, default: standard }
}

function units({ zero, compared }: UnitFacts): Record<string, unknown> {
  return {
    ...(zero === undefined ? {} : { 'x-zero': zero }),
    ...(compared === undefined ? {} : { 'x-compared': true }),
  }
}
