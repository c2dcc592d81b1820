/**
 * `uuid.*`: parses and creates identifiers of RFC 4122.
 */

import type { BuiltinTable } from '../builtin.ts'
import { integer, text } from '../values/operand.ts'
import { RegoNumber, RegoObject, type Value } from '../values/value.ts'

/** Number of 100 ns intervals between the start of the Gregorian calendar and 1970. */
const gregorian = 0x01b21dd213814000n

/** @returns Undefined if the text is not a UUID. */
function read(given: string): Buffer | undefined {
  let digits: string
  if (given.length === 32) digits = given
  else {
    const whole =
      given.length === 45 && given.slice(0, 9).toLowerCase() === 'urn:uuid:'
        ? given.slice(9)
        : given.length === 38
          ? given.slice(1, 37)
          : given
    if (!/^.{8}-.{4}-.{4}-.{4}-.{12}$/s.test(whole)) return undefined
    digits = whole.replaceAll('-', '')
  }
  return /^[0-9a-fA-F]{32}$/.test(digits) ? Buffer.from(digits, 'hex') : undefined
}

function variant(byte: number): string {
  if ((byte & 0xc0) === 0x80) return 'RFC4122'
  if ((byte & 0xe0) === 0xc0) return 'Microsoft'
  return (byte & 0xe0) === 0xe0 ? 'Future' : 'Reserved'
}

function scope(byte: number): string {
  const local = (byte & 2) !== 0 ? 'local' : 'global'
  return `${local}:${(byte & 1) !== 0 ? 'multicast' : 'unicast'}`
}

function parse(given: string): Value | undefined {
  const bytes = read(given)
  if (bytes === undefined) return undefined
  const version = bytes[6]! >> 4
  const out = new RegoObject([
    ['version', new RegoNumber(version)],
    ['variant', variant(bytes[8]!)],
  ])
  if (version !== 1 && version !== 2) return out
  const node = bytes.subarray(10)
  const time =
    BigInt(bytes.readUInt32BE(0)) |
    (BigInt(bytes.readUInt16BE(4)) << 32n) |
    (BigInt(bytes.readUInt16BE(6) & 0x0fff) << 48n)
  // Times of identifiers before 1677 wrap around, as in OPA's 64-bit numbers.
  out.set('time', new RegoNumber(BigInt.asIntN(64, (time - gregorian) * 100n)))
  out.set('nodeid', node.toString('hex').match(/../g)!.join('-'))
  out.set('macvariables', scope(node[0]!))
  out.set('clocksequence', new RegoNumber(bytes.readUInt16BE(8) & 0x3fff))
  if (version === 2) {
    const domain = bytes[9]!
    out.set('id', new RegoNumber(bytes.readUInt32BE(0)))
    out.set('domain', ['Person', 'Group', 'Org'][domain] ?? `Domain${domain}`)
  }
  return out
}

function random(bytes: Buffer): string {
  bytes[6] = (bytes[6]! & 0x0f) | 0x40
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  const digits = bytes.toString('hex')
  return [
    digits.slice(0, 8),
    digits.slice(8, 12),
    digits.slice(12, 16),
    digits.slice(16, 20),
    digits.slice(20),
  ].join('-')
}

export const uuidBuiltins: BuiltinTable = {
  'uuid.parse': { call: (args) => parse(text(args, 0)) },
  'uuid.rfc4122': {
    call: (_args, context) => random(context.random(16)),
    pinned: 'recorded',
  },
  'rand.intn': {
    call: (args, context) => {
      text(args, 0)
      const most = Math.abs(integer(args, 1))
      if (most === 0) return new RegoNumber(0)
      // 128 random bits modulo a range of at most 53 bits: no value is more likely than another by more than 2^-75.
      const bits = BigInt(`0x${context.random(16).toString('hex')}`)
      return new RegoNumber(bits % BigInt(most))
    },
    pinned: 'recorded',
  },
}
