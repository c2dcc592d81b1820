/** `hex.*` and `base64url.encode_no_pad`, over the bytes of a text. */
import { bytesOf, textOf } from './bytes.ts'
import { BuiltinError, text } from './operand.ts'
import type { BuiltinTable } from './table.ts'

export const encodingBuiltins: BuiltinTable = {
  'hex.encode': { call: (args) => bytesOf(text(args, 0)).toString('hex') },
  'hex.decode': {
    call: (args) => {
      const digits = text(args, 0)
      const bytes = Buffer.from(digits, 'hex')
      // Node stops at the first digit that is none.
      if (digits.length % 2 !== 0 || bytes.length * 2 !== digits.length) {
        throw new BuiltinError('not hexadecimal')
      }
      return textOf(bytes)
    },
  },
  'base64url.encode_no_pad': { call: (args) => bytesOf(text(args, 0)).toString('base64url') },
}
