/** What a target is read as, and what is refused because it could be read in two ways. */
import fc from 'fast-check'
import t from 'tap'
import { GateError } from '../../src/errors.ts'
import { checkTarget, parseRequestTarget, type Target, withQuery } from '../../src/route/target.ts'
import { pieces } from '../harness/pieces.ts'
import { seedOf } from '../harness/wait.ts'

const read = (raw: string, host = 'api.example.com', method = 'GET'): Target =>
  parseRequestTarget(method, raw, host, { scheme: 'http', maxBytes: 8192 })

/** The rules of a route that accepts nothing by its own word. */
const strict = {
  encoded_slashes: 'refuse',
  matrix_parameters: 'refuse',
  empty_segments: 'refuse',
  stray_percent: 'refuse',
} as const

function codeOf(run: () => unknown): string | undefined {
  try {
    run()
    return undefined
  } catch (error) {
    return (error as GateError).code
  }
}

t.test('an accepted target gives the string sent on and the segments decided on', async (t) => {
  const cases: readonly [raw: string, wire: string, segments: string[]][] = [
    ['/', '/', []],
    ['/orders', '/orders', ['orders']],
    ['/orders/', '/orders/', ['orders', '']],
    ['/orders/7?x=1&y', '/orders/7?x=1&y', ['orders', '7']],
    ['/%6frders', '/orders', ['orders']],
    ['/a%20b', '/a%20b', ['a b']],
    ['/caf%c3%a9', '/caf%C3%A9', ['café']],
    ['/a%2fb', '/a%2Fb', ['a/b']],
    ['/100%25', '/100%25', ['100%']],
    ['/a;v=1/b', '/a;v=1/b', ['a', 'b']],
    ['/...', '/...', ['...']],
    ['/.well-known/x', '/.well-known/x', ['.well-known', 'x']],
    ['/a:b@c', '/a:b@c', ['a:b@c']],
    // Browsers send these as they are.
    ['/[id]/a|b^c', '/%5Bid%5D/a%7Cb%5Ec', ['[id]', 'a|b^c']],
    ['/%5bid%5D', '/%5Bid%5D', ['[id]']],
    ['/a[]?b[]=|^', '/a%5B%5D?b[]=|^', ['a[]']],
    ['/x?', '/x?', ['x']],
    ['/x?a=/../b', '/x?a=/../b', ['x']],
    ['http://api.example.com/orders', '/orders', ['orders']],
    ['HTTP://API.example.com:80/orders', '/orders', ['orders']],
    ['http://api.example.com', '/', []],
    ['http://api.example.com?x=1', '/?x=1', []],
  ]
  for (const [raw, wire, segments] of cases) {
    const target = read(raw)
    t.equal(target.wire, wire, raw)
    t.same(target.segments, segments, raw)
  }
  t.equal(read('*', 'a', 'OPTIONS').wire, '*')
})

t.test('a target that could be read in two ways, or is too long, is refused', async (t) => {
  const malformed = [
    '', 'orders', '*', '/.', '/..', '/a/../b', '/a/./b', '/a/..', '/%2e%2e/b',
    '/%2E./b', '/a%2f..%2fb', '/%252e%252e/b', '/a%2f%2e%2e', '/..;x/b', '/.;/b', '/;x/b', '/a%00b',
    '/a%0ab', '/a%7f', '/a%5cb', '/a\\b', '/%zz', '/%', '/%4', '/%c0%af', '/%ed%a0%80', '/%ff', '/a b',
    '/a#b', '/caf\xe9', '/a?b#c', '/a?b\xe9', '/a"b', '/a<b', '/a`b', '/a{b', '/a//../b', '/a//;b', '//..',
    `/a?${'&'.repeat(1024)}`, 'https://api.example.com/', 'ftp://api.example.com/', 'http:/orders',
    'http://api.example.com\\@evil/', '/%c2%85',
  ] // biome-ignore format: a table
  for (const raw of malformed)
    t.equal(
      codeOf(() => read(raw)),
      'ERR_TARGET_MALFORMED',
      JSON.stringify(raw),
    )
  t.equal(
    codeOf(() => read(`/${'a'.repeat(8192)}`)),
    'ERR_TARGET_TOO_LONG',
  )
  t.equal(
    codeOf(() => read('http://other.example/orders')),
    'ERR_HOST_MALFORMED',
  )
})

t.test('a host is brought to its one spelling, or refused', async (t) => {
  const cases: readonly [raw: string, host: string, authority: string][] = [
    ['API.Example.com', 'api.example.com', 'api.example.com'],
    ['api.example.com.', 'api.example.com', 'api.example.com'],
    ['api.example.com:80', 'api.example.com', 'api.example.com'],
    ['api.example.com:8080', 'api.example.com', 'api.example.com:8080'],
    ['[::1]:8080', '::1', '[::1]:8080'],
    ['127.0.0.1:1', '127.0.0.1', '127.0.0.1:1'],
  ]
  for (const [raw, host, authority] of cases) {
    const target = read('/', raw)
    t.same([target.host, target.authority], [host, authority], raw)
  }
  const bad = [
    '', ' ', 'a b', 'a/b', 'a@b', 'a:0', 'a:65536', 'a:x', 'a:', '::1', '[::1', 'a..b', '.a', '-a', 'a,b',
    'a\tb', 'a%2eb', 'é', 'a#b', 'a?b', 'a\\b', `${'a'.repeat(64)}.b`, '[g::1]', `${'a.'.repeat(127)}a`,
  ] // biome-ignore format: a table
  for (const raw of bad)
    t.equal(
      codeOf(() => read('/', raw)),
      'ERR_HOST_MALFORMED',
      JSON.stringify(raw),
    )
})

t.test('encoded slashes and matrix parameters only where the route passes them', async (t) => {
  const refuse = { ...strict, encoded_slashes: 'refuse', matrix_parameters: 'refuse' } as const
  const pass = { ...strict, encoded_slashes: 'pass', matrix_parameters: 'pass' } as const
  for (const raw of ['/a%2Fb', '/a%25b', '/a;b']) {
    t.equal(
      codeOf(() => checkTarget(read(raw), refuse)),
      'ERR_TARGET_MALFORMED',
      raw,
    )
    t.equal(
      codeOf(() => checkTarget(read(raw), pass)),
      undefined,
      raw,
    )
  }
})

t.test('what only some routes accept is refused, or brought to the one form that is sent', async (t) => {
  const slashes: readonly [raw: string, merged: string, passed: string | undefined, segments: string[]][] = [
    ['/a//b', '/a/b', '/a//b', ['a', '', 'b']],
    ['/a///b//', '/a/b/', '/a///b//', ['a', '', '', 'b', '', '']],
    ['/get/https://example.com/x', '/get/https:/example.com/x', '/get/https://example.com/x', ['get', 'https:', '', 'example.com', 'x']],
    ['/a//b?c=//', '/a/b?c=//', '/a//b?c=//', ['a', '', 'b']],
    ['/[a]//%62', '/%5Ba%5D/b', '/%5Ba%5D//b', ['[a]', '', 'b']],
    ['//evil.example/a', '/evil.example/a', undefined, []],
    ['//', '/', undefined, []],
  ]
  for (const [raw, merged, passed, segments] of slashes) {
    const asked = read(raw)
    t.equal(codeOf(() => checkTarget(asked, strict)), 'ERR_TARGET_MALFORMED', raw)
    const one = checkTarget(asked, { ...strict, empty_segments: 'merge' })
    t.same([one.wire, one.doubt], [merged, undefined], raw)
    t.same(JSON.stringify(read(merged)), JSON.stringify(one), 'as if it had been written so')
    const pass = { ...strict, empty_segments: 'pass' } as const
    if (passed === undefined) {
      t.equal(codeOf(() => checkTarget(asked, pass)), 'ERR_TARGET_MALFORMED', raw)
      continue
    }
    const apart = checkTarget(asked, pass)
    t.same([apart.wire, apart.segments, apart.doubt], [passed, segments, undefined])
  }
  const percents: readonly [raw: string, wire: string][] = [
    ['/a?100%', '/a?100%25'],
    ['/a?b=%zz&c=%41%4', '/a?b=%25zz&c=%41%254'],
    ['/a?%%41%u0041%', '/a?%25%41%25u0041%25'],
    ['/a?b=%252e', '/a?b=%252e'],
  ]
  for (const [raw, wire] of percents) {
    const asked = read(raw)
    if (raw !== wire) t.equal(codeOf(() => checkTarget(asked, strict)), 'ERR_TARGET_MALFORMED', raw)
    t.equal(checkTarget(asked, { ...strict, stray_percent: 'encode' }).wire, wire, raw)
  }
  const both = { ...strict, stray_percent: 'encode', empty_segments: 'pass' } as const
  t.equal(checkTarget(read('/a//b?%'), both).wire, '/a//b?%25')
  for (const raw of ['/a//b?%', '/a%2F//b', '/a;b//c'])
    t.equal(codeOf(() => checkTarget(read(raw), { ...strict, empty_segments: 'merge' })), 'ERR_TARGET_MALFORMED', raw)
  const change = { set: [['c', '1']], remove: ['b'] } as const
  const passed = checkTarget(read('/a//b?b=2&%'), both)
  t.equal(withQuery('GET', passed, change, { scheme: 'http', maxBytes: 8192 }).wire, '/a//b?%25&c=1', 'a policy changes the query')
  const one = checkTarget(read('/a//b?b=2'), { ...strict, empty_segments: 'merge' })
  t.equal(withQuery('GET', one, change, { scheme: 'http', maxBytes: 8192 }).wire, '/a/b?c=1')
  const long = `/${'['.repeat(4000)}`
  t.equal(codeOf(() => read(long)), 'ERR_TARGET_TOO_LONG', 'the form that is sent counts')
}) // biome-ignore format: a table

t.test(
  'property: canonical form is a fixed point, and holds nothing to disagree about',
  async (t) => {
    const seed = seedOf()
    t.comment(`SEED=${seed}`)
    let accepted = 0
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...pieces), { maxLength: 12 }), (parts) => {
        const raw = `/${parts.join('')}`
        let target: Target
        try {
          target = read(raw)
        } catch (error) {
          return error instanceof GateError && /^ERR_(?:TARGET|HOST)_/.test(error.code)
        }
        accepted++
        const again = read(target.wire)
        return (
          JSON.stringify(again) === JSON.stringify({ ...target, doubt: undefined }) &&
          /^\/[\x21-\x7e]*$/.test(target.wire) &&
          !target.segments.some((s) => /(?:^|\/)\.\.?(?:$|\/)/.test(s) || /[\0-\x1f\\]/.test(s))
        )
      }),
      { numRuns: 20_000, seed },
    )
    t.ok(accepted > 1000, `${accepted} of 20,000 were accepted`)
  },
)
