/**
 * Quotes strings like Go's `strconv.Quote`; OPA shows strings inside terms in this form.
 */

const escapes: Readonly<Record<string, string>> = {
  '"': '\\"', '\\': '\\\\', '\n': '\\n', '\t': '\\t', '\r': '\\r', '\b': '\\b', '\f': '\\f', '\v': '\\v', '\x07': '\\a',
} // biome-ignore format: a table

/** Returns the text in the form of Go's `strconv.Quote`. */
export function quoted(text: string, ascii = false): string {
  let out = '"'
  for (const char of text) {
    const code = char.codePointAt(0)!
    const known = escapes[char]
    if (known !== undefined) out += known
    else if (code >= 0xdc80 && code <= 0xdcff) out += `\\x${(code - 0xdc00).toString(16)}`
    else if (code < 0x20 || code === 0x7f) out += `\\x${code.toString(16).padStart(2, '0')}`
    else if (code < 0x7f || (!ascii && printable(char))) out += char
    else if (code > 0xffff) out += `\\U${code.toString(16).padStart(8, '0')}`
    else out += `\\u${code.toString(16).padStart(4, '0')}`
  }
  return `${out}"`
}

/** Returns true for letters, marks, numbers, punctuation and symbols, and for the ASCII space only. */
export function printable(char: string): boolean {
  return /^[\p{L}\p{M}\p{N}\p{P}\p{S}]$/u.test(char)
}
