/** JSON text as it crosses between rooms: nothing of it may be lost, and nothing end an evaluation. */

const surrogateEscape =
  /\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\[\s\S]/g

/** JSON text without lone surrogates, which end an evaluation: they become U+FFFD. */
export function wellFormedJson(text: string): string {
  if (!/\\u[dD][89a-fA-F]/.test(text)) return text
  return text.replace(surrogateEscape, (found) => (found.length === 6 ? '\\ufffd' : found))
}

const needsEscape = /[^\x20\x21\x23-\x5b\x5d-\x7e]/

/** A JSON string. What goes into inputs and log lines is nearly always plain: half the price of `JSON.stringify`. */
export function quote(text: string): string {
  return needsEscape.test(text) ? JSON.stringify(text) : `"${text}"`
}

/** JSON.parse reviver: numbers that a double would change stay as written. */
export function keepDigits(_key: string, value: unknown, context?: { source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value
  return context?.source === undefined ? value : JSON.rawJSON(context.source)
}
