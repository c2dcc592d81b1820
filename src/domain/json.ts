/** JSON text as it crosses between rooms: nothing of it may be lost, and nothing end an evaluation. */

const surrogateEscape =
  /\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\[\s\S]/g

/** JSON text without lone surrogates, which end an evaluation: they become U+FFFD. */
export function wellFormedJson(text: string): string {
  if (!/\\u[dD][89a-fA-F]/.test(text)) return text
  return text.replace(surrogateEscape, (found) => (found.length === 6 ? '\\ufffd' : found))
}

/** JSON.parse reviver: numbers that a double would change stay as written. */
export function keepDigits(_key: string, value: unknown, context?: { source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value
  return context?.source === undefined ? value : JSON.rawJSON(context.source)
}
