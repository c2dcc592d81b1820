/**
 * Reads what an answer says about its use (RFC 9111 and RFC 9110 section 8.8.3). What cannot be read counts as not said:
 * the caller has limits of its own, so that no answer makes the gate ask without a pause, or never again.
 */
type Field = string | string[] | undefined

const maxEtag = 256
const entityTag = /^(?:W\/)?"[\x21\x23-\x7e]*"$/

/** @returns the entity tag, where it can be sent back as it is */
export function etagIn(field: Field): string | undefined {
  return typeof field === 'string' && field.length <= maxEtag && entityTag.test(field)
    ? field
    : undefined
}

/**
 * RFC 9111 section 5.2.2. `no-cache` and `no-store` count as 0: the answer is old at once. `s-maxage` is for caches that
 * several users share, and `expires` needs clocks that agree: both are not read.
 * @returns ms; undefined where the answer does not say
 */
export function freshMsIn(cacheControl: Field, age: Field): number | undefined {
  const directives = [cacheControl ?? []].flat().join().toLowerCase().split(',')
  const times = directives.flatMap((each) => {
    const directive = each.trim()
    if (directive === 'no-cache' || directive === 'no-store') return [0]
    const [, seconds] = /^max-age="?(\d+)"?$/.exec(directive) ?? []
    return seconds === undefined ? [] : [Number(seconds)]
  })
  if (times.length === 0) return undefined
  const spent = typeof age === 'string' && /^\d+$/.test(age) ? Number(age) : 0
  const left = Math.min(...times) - spent
  // NaN where both have more digits than a number can hold.
  return left > 0 ? left * 1000 : 0
}
