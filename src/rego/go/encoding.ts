/**
 * `hex.*` and `base64url.encode_no_pad`: encode and decode the bytes of a text.
 */

import type { BuiltinTable } from '../registry.ts'
import { bytesOf, textOf } from '../values/bytes.ts'
import { BuiltinError, text } from '../values/operand.ts'

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
  'base64url.encode_no_pad': { call: (args) => bytesOf(text(args, 0)).toString('base64url') },
}
