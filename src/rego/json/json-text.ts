/**
 * Reads and writes JSON like Go's `encoding/json`, for builtins whose results are JSON text.
 */
import { BuiltinError } from '../values/operand.ts'
import { fromJson, toJson, type Value } from '../values/value.ts'

/** @throws BuiltinError when the text is not JSON. */
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

/** Escapes the characters that HTML would treat as markup. In JSON text they occur only inside strings. */
export function writeJson(value: Value): string {
  return toJson(value).replace(/[<>&\u2028\u2029]/g, (char) => escaped[char]!)
}
