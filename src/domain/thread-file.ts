/** Thread file: where the code of a thread lies, beside the code that starts it. */

/**
 * The compiler renames imports to `.js`, but no URL: a thread's file has the ending of the file that starts it, in the
 * checkout (`.ts`) as in the package (`.js`).
 * @param path Without the ending.
 * @param from `import.meta.url` of the caller.
 */
export function threadFile(path: string, from: string): URL {
  return new URL(`${path}${from.slice(from.lastIndexOf('.'))}`, from)
}
