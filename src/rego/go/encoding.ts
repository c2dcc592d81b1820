/** `hex.*`, and the functions of `base64` and `base64url` that OPA does not compile into the module or that are replaced: over the bytes of a text. */

import type { BuiltinTable } from '../builtin.ts'
import { bytesOf, textOf } from '../values/bytes.ts'
import { BuiltinError, text } from '../values/operand.ts'

const foreign = { standard: /[^A-Za-z0-9+/]/, forUrls: /[^A-Za-z0-9_-]/ } as const

/**
 * Decodes base64 as strictly as Go: it must be padded, and may contain only line breaks besides. Unused bits may have
 * any value.
 */
function readBase64(given: string, alphabet: keyof typeof foreign): Buffer | undefined {
  const plain = given.replace(/[\r\n]+/g, '')
  const padding = plain.endsWith('==') ? 2 : plain.endsWith('=') ? 1 : 0
  const digits = plain.slice(0, plain.length - padding)
  if (plain.length % 4 !== 0 || foreign[alphabet].test(digits)) return undefined
  return Buffer.from(digits, 'base64')
}

function fromBase64(given: string, alphabet: keyof typeof foreign): string {
  const bytes = readBase64(given, alphabet)
  if (bytes === undefined) throw new BuiltinError('illegal base64 data')
  return textOf(bytes)
}

/** Adds padding that was left out as a whole. Line breaks count as characters here, as in OPA. */
function padded(given: string): string {
  if (given.endsWith('=')) return given
  const missing = -bytesOf(given).length & 3
  if (missing === 3) throw new BuiltinError('illegal base64url string')
  return given + '='.repeat(missing)
}

export const encodingBuiltins: BuiltinTable = {
  'hex.encode': { call: (args) => bytesOf(text(args, 0)).toString('hex') },
  'hex.decode': {
    call: (args) => {
      const digits = text(args, 0)
      const bytes = Buffer.from(digits, 'hex')
      // Node stops at the first character that is not a hexadecimal digit, so compare the lengths.
      if (digits.length % 2 !== 0 || bytes.length * 2 !== digits.length) {
        throw new BuiltinError('the text is not hexadecimal')
      }
      return textOf(bytes)
    },
  },
  'base64.decode': { call: (args) => fromBase64(text(args, 0), 'standard') },
  'base64.is_valid': {
    call: ([given]) => typeof given === 'string' && readBase64(given, 'standard') !== undefined,
  },
  'base64url.decode': { call: (args) => fromBase64(padded(text(args, 0)), 'forUrls') },
  'base64url.encode_no_pad': { call: (args) => bytesOf(text(args, 0)).toString('base64url') },
}
