/**
 * `trace` and `print`: notes for policy authors. A gate has no place to write them, so they are parsed and dropped.
 */

import type { BuiltinTable } from './builtin.ts'
import { text } from './values/operand.ts'

export const diagnosticBuiltins: BuiltinTable = {
  trace: {
    call: (args) => {
      text(args, 0)
      return true
    },
  },
  print: { call: () => true },
  'internal.print': { call: () => true },
  'internal.test_case': { call: () => true },
}
