/**
 * `semver.*`: Semantic Versioning 2.0.0, with an optional leading `v`.
 */

import type { BuiltinTable } from '../builtin.ts'
import { BuiltinError, text } from '../values/operand.ts'
import { compareTexts, RegoNumber } from '../values/value.ts'

interface Version {
  readonly core: readonly [bigint, bigint, bigint]
  /** Pre-release identifiers; empty for a release. */
  readonly pre: readonly string[]
}

const identifiers = /^[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*$/
const numeric = /^(?:0|[1-9][0-9]*)$/
const int64 = 1n << 63n

/** @returns Undefined if the text is not a version. */
function read(given: string): Version | undefined {
  const whole = given.startsWith('v') ? given.slice(1) : given
  const plus = whole.indexOf('+')
  if (plus !== -1 && !identifiers.test(whole.slice(plus + 1))) return undefined
  const named = plus === -1 ? whole : whole.slice(0, plus)
  const dash = named.indexOf('-')
  const pre = dash === -1 ? [] : named.slice(dash + 1).split('.')
  if (dash !== -1 && !identifiers.test(named.slice(dash + 1))) return undefined
  if (pre.some((each) => /^0[0-9]+$/.test(each))) return undefined
  const core = (dash === -1 ? named : named.slice(0, dash)).split('.')
  if (core.length !== 3 || !core.every((each) => numeric.test(each) && each.length < 20))
    return undefined
  const numbers = core.map(BigInt) as [bigint, bigint, bigint]
  return numbers.every((each) => each < int64) ? { core: numbers, pre } : undefined
}

function compareVersions(a: Version, b: Version): number {
  for (const i of [0, 1, 2] as const) {
    if (a.core[i] !== b.core[i]) return a.core[i] < b.core[i] ? -1 : 1
  }
  if (a.pre.length === 0 || b.pre.length === 0) {
    return Math.sign(b.pre.length - a.pre.length)
  }
  for (let i = 0; i < Math.min(a.pre.length, b.pre.length); i++) {
    const by = compareIdentifiers(a.pre[i]!, b.pre[i]!)
    if (by !== 0) return by
  }
  return Math.sign(a.pre.length - b.pre.length)
}

/** Compares pre-release identifiers; numbers come before words. */
function compareIdentifiers(a: string, b: string): number {
  const [aIsNumber, bIsNumber] = [a, b].map((each) => /^[0-9]+$/.test(each))
  if (aIsNumber !== bIsNumber) return aIsNumber ? -1 : 1
  if (aIsNumber && a.length !== b.length) return a.length < b.length ? -1 : 1
  return Math.sign(compareTexts(a, b))
}

function required(given: string): Version {
  const version = read(given)
  if (version === undefined) throw new BuiltinError(`string ${given} is not a valid SemVer`)
  return version
}

export const semverBuiltins: BuiltinTable = {
  'semver.is_valid': {
    call: ([value]) => typeof value === 'string' && read(value) !== undefined,
  },
  'semver.compare': {
    call: (args) =>
      new RegoNumber(compareVersions(required(text(args, 0)), required(text(args, 1)))),
  },
}
