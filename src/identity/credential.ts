/** Finds the caller's credential; says nothing about whether it is any good. */
const bearer = /^bearer +(.*)$/i

/**
 * The bearer token of the only `Authorization` header (RFC 6750 section 2.1); undefined where there is none or it is
 * of another scheme.
 * @param pairs Flat name, value list; a second `authorization` was refused with the headers.
 */
export function findCredential(pairs: readonly string[]): string | undefined {
  for (let i = 0; i < pairs.length; i += 2) {
    if (pairs[i] === 'authorization') return bearer.exec(pairs[i + 1]!)?.[1]
  }
  return undefined
}
