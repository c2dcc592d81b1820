/** What is read from `etag`, `cache-control` and `age`, and what is not. */
import t from 'tap'
import { etagIn, freshMsIn } from '../../src/outbound/freshness.ts'

t.test('cache-control says how long an answer may be used', async (t) => {
  const cases: [cacheControl: string | string[] | undefined, age: string | undefined, ms: unknown][] = [
    [undefined, undefined, undefined],
    ['', undefined, undefined],
    ['public', '5', undefined],
    ['max-age=60', undefined, 60_000],
    ['public, Max-Age="60" , must-revalidate', undefined, 60_000],
    ['max-age=60', '20', 40_000],
    ['max-age=60', '61', 0],
    ['max-age=60', 'soon', 60_000],
    ['max-age=60', '-5', 60_000],
    ['no-cache', undefined, 0],
    ['no-store, max-age=60', undefined, 0],
    ['max-age=60, max-age=10', undefined, 10_000],
    [['max-age=60', 'max-age=10'], undefined, 10_000],
    ['max-age=0', undefined, 0],
    // Neither is a time, and 0 would make the gate ask more often than is meant.
    ['max-age=-1', undefined, undefined],
    ['max-age=1e9', undefined, undefined],
    ['max-age', undefined, undefined],
    ['x-max-age=5', undefined, undefined],
    ['s-maxage=5', undefined, undefined],
    [`max-age=${'9'.repeat(400)}`, undefined, Number.POSITIVE_INFINITY],
    [`max-age=${'9'.repeat(400)}`, '9'.repeat(400), 0],
  ] // biome-ignore format: a table
  for (const [cacheControl, age, ms] of cases)
    t.equal(freshMsIn(cacheControl, age), ms, `${cacheControl}, age ${age}`)
})

t.test('an entity tag is sent back only where it has the form and size of one', async (t) => {
  for (const tag of ['"a"', 'W/"a"', '""', `"${'x'.repeat(254)}"`]) t.equal(etagIn(tag), tag)
  const others = ['a', '"a', '"a""b"', 'w/"a"', '"a\u007f"', '"\u00e4"', `"${'x'.repeat(255)}"`]
  for (const other of [...others, ['"a"', '"b"'], undefined]) t.equal(etagIn(other), undefined)
})
