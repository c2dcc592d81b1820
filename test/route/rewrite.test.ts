/** Rewritten paths, drawn at random: whole segments, one canonical form, and a way back. `SEED=…` repeats a run. */
import fc from 'fast-check'
import t from 'tap'
import { GateError } from '../../src/errors.ts'
import { rewrittenTarget } from '../../src/route/rewrite.ts'
import { checkTarget, parseRequestTarget } from '../../src/route/target.ts'
import { publicUrlsOf } from '../../src/upstream/public-urls.ts'
import { seedOf } from '../harness/wait.ts'

const seed = seedOf()
t.comment(`SEED=${seed}`)

const rules = {
  encoded_slashes: 'pass',
  matrix_parameters: 'pass',
  empty_segments: 'merge',
  stray_percent: 'encode',
} as const
const options = { scheme: 'http', maxBytes: 8192 } as const
const parse = (path: string) =>
  checkTarget(parseRequestTarget('GET', path, 'a.example', options), rules)

/** Segments as clients spell them: plain, encoded where that is not needed, with parameters, with an encoded slash. */
const segment = fc
  .array(fc.constantFrom('a', 'b', '.', '~', '%61', '%2f', '%C3%A9', '%20', ';', ':', '@', '-', '%25'), {
    minLength: 1,
    maxLength: 4,
  })
  .map((signs) => signs.join('')) // biome-ignore format: short
const path = fc
  .tuple(fc.array(segment, { maxLength: 4 }), fc.boolean(), fc.constantFrom('', '?', '?a=/x&b'))
  .map(
    ([segments, slash, query]) => `/${segments.join('/')}${slash && segments.length > 0 ? '/' : ''}${query}`,
  ) // biome-ignore format: short

/** The target, or undefined for one that is refused. */
function attempt<T>(make: () => T): T | undefined {
  try {
    return make()
  } catch (error) {
    if (error instanceof GateError && error.code === 'ERR_TARGET_MALFORMED') return undefined
    throw error
  }
}

t.test('what is sent has the base and the rest of the segments, and leads back', async (t) => {
  let sentOnes = 0
  const base = fc.constantFrom('', '/v1', '/v1/b%20c')
  const property = fc.property(path, base, fc.nat(3), (asked, base, count) => {
    const target = attempt(() => parse(asked))
    if (target === undefined) return
    const whole = target.segments.length - (target.segments.at(-1) === '' ? 1 : 0)
    const stripped = Math.min(count, whole)
    const prefixPath = target.path.split('/').slice(0, stripped + 1).join('/') // biome-ignore format: short
    const prefix = stripped === 0 ? '' : prefixPath
    const rewrite = { stripped, base, prefix }
    const sent = attempt(() => rewrittenTarget('GET', target, rewrite, rules, options))
    // What was sound stays sound, but for an empty last segment that is left alone, as in `/a/` without `/a`.
    if (sent === undefined) throw new Error(`${asked} cannot be sent`)
    sentOnes++
    const rest = target.segments.slice(stripped)
    const expected = [...(base === '' ? [] : parse(base).segments), ...rest]
    const alone = base === '' && rest.join() === ''
    if (!alone) t.same(sent.segments, target.path === '/' && base !== '' ? [...expected, ''] : expected)
    if (sent.query !== target.query) throw new Error('another query')
    if (parse(sent.wire).wire !== sent.wire) throw new Error(`${sent.wire} is not canonical`)
    const back = publicUrlsOf(
      { config: { upstream: 'http://u.example' }, sentHost: 'u.example', rewrite },
      'a.example',
    )!('location', sent.wire)
    // `/app` itself is sent as `/`, and comes back as `/app/`.
    const same = back === target.wire || (alone && back === target.wire.replace(prefix, `${prefix}/`))
    if (!same) throw new Error(`${asked} → ${sent.wire} → ${back}`)
  }) // biome-ignore format: short
  fc.assert(property, { seed, numRuns: 3000 })
  t.ok(sentOnes > 500, `${sentOnes} were sent`)
})

t.test('empty segments in a prefix are cut off with it', async (t) => {
  const apart = { ...rules, empty_segments: 'pass' } as const
  for (const [asked, sent] of [
    ['/a//b/c', '/c'], ['/a///b/c//d', '/c//d'], ['/a//b', '/'], ['/a//b/', '/'], ['/a/b/c', '/c'], ['/a/b//c', undefined],
  ] as const) {
    const target = checkTarget(parseRequestTarget('GET', asked, 'a.example', options), apart)
    const rewrite = { stripped: 2, base: '', prefix: '/a/b' }
    t.equal(attempt(() => rewrittenTarget('GET', target, rewrite, apart, options))?.wire, sent, asked)
  }
}) // biome-ignore format: short

t.test('a cookie is read in one go, whatever an upstream writes into it', async (t) => {
  const rewrite = { stripped: 1, base: '', prefix: '/a' }
  const route = { config: { upstream: 'http://u.example' }, sentHost: undefined, rewrite }
  const told = publicUrlsOf(route, 'a.example')!
  // A pattern that tried each end of the path would be at it for minutes.
  const spaces = ' '.repeat(400_000)
  t.equal(told('set-cookie', `b=c; path=/${spaces}x`), `b=c; path=/a/${spaces}x`)
  for (const [cookie, own] of [
    ['b=c;PATH =\t/d ;Secure', 'b=c;PATH =\t/a/d ;Secure'], ['path=/d', 'path=/d'], ['b=c; path', 'b=c; path'], ['b=c; path=', 'b=c; path='],
    ['b=c; path=d', 'b=c; path=d'], ['b=c; Path=/; path=/d', 'b=c; Path=/a; path=/a/d'],
  ] as const)
    t.equal(told('set-cookie', cookie), own)
}) // biome-ignore format: short
