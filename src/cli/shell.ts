/** Texts that are printed to be pasted into a shell. */

/** A text as one word. */
export function shellWord(text: string): string {
  return /^[\w./:@=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
