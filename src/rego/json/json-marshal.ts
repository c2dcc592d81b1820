/**
 * `json.marshal` and `json.marshal_with_options`: write JSON text, optionally with a prefix and an indent on each line.
 */

import type { BuiltinTable } from '../builtin.ts'
import { type Args, BuiltinError, object, refuseWork } from '../values/operand.ts'
import { writeJson } from './json-text.ts'

const maxOutput = 1 << 24

function marshal(args: Args): string {
  let [prefix, indent]: [string, string] = ['', '\t']
  let pretty: boolean | undefined
  for (const [key, value] of object(args, 1)) {
    if (key === 'pretty' && typeof value === 'boolean') pretty = value
    else if (key === 'prefix' && typeof value === 'string') prefix = value
    else if (key === 'indent' && typeof value === 'string') indent = value
    else throw new BuiltinError('object contained an unknown key or a value of another type')
  }
  const asked = object(args, 1).has('prefix') || object(args, 1).has('indent')
  const text = writeJson(args[0]!)
  return (pretty ?? asked) ? prefix + indented(text, prefix, indent) : text
}

/** Indents compact JSON text like Go's `json.Indent`. */
function indented(text: string, prefix: string, indent: string): string {
  let [out, depth, inString] = ['', 0, false]
  const line = (): string => `\n${prefix}${indent.repeat(depth)}`
  for (let i = 0; i < text.length; i++) {
    const char = text[i]!
    if (inString) {
      out += char
      if (char === '\\') out += text[++i]!
      else if (char === '"') inString = false
    } else if ('{['.includes(char)) {
      depth++
      out += char
      if (!'}]'.includes(text[i + 1]!)) out += line()
    } else if ('}]'.includes(char)) {
      depth--
      out += ('{['.includes(text[i - 1]!) ? '' : line()) + char
    } else if (char === ',') out += char + line()
    else if (char === ':') out += ': '
    else {
      out += char
      inString = char === '"'
    }
    if (out.length > maxOutput) refuseWork('json.marshal_with_options would write over 16 MiB')
  }
  return out
}

export const jsonMarshalBuiltins: BuiltinTable = {
  'json.marshal': { call: (args) => writeJson(args[0]!) },
  'json.marshal_with_options': { call: marshal },
}
