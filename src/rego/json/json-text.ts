/** JSON as Go's `encoding/json` reads and writes it, where a builtin's text is JSON. */
import { BuiltinError } from '../values/operand.ts'
import { fromJson, toJson, type Value } from '../values/value.ts'

/** @throws BuiltinError when it is not JSON. */
export function readJson(text: string): Value {
  try {
    return fromJson(text)
  } catch (error) {
    if (error instanceof SyntaxError) throw new BuiltinError(`not JSON: ${error.message}`)
    throw error
  }
}

const escaped: Readonly<Record<string, string>> = {
  '<': '\\u003c',
  '>': '\\u003e',
  '&': '\\u0026',
  '\u2028': '\\u2028',
  '\u2029': '\\u2029',
}

/** What HTML would read as markup is escaped; these characters stand in strings only. */
export function writeJson(value: Value): string {
  return toJson(value).replace(/[<>&\u2028\u2029]/g, (char) => escaped[char]!)
}
