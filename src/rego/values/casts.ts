/**
 * `cast_*`: the deprecated builtins that assert a type.
 */

import type { BuiltinTable } from '../builtin.ts'
import { array, BuiltinError, boolean, members, object, text } from './operand.ts'
import { RegoSet } from './value.ts'

export const castBuiltins: BuiltinTable = {
  cast_array: { call: (args) => members(args, 0) },
  cast_set: {
    call: (args) => (args[0] instanceof RegoSet ? args[0] : new RegoSet(array(args, 0))),
  },
  cast_string: { call: (args) => text(args, 0) },
  cast_boolean: { call: (args) => boolean(args, 0) },
  cast_object: { call: (args) => object(args, 0) },
  cast_null: {
    call: ([value]) => {
      if (value !== null) throw new BuiltinError('operand 1 must be null')
      return null
    },
  },
}
