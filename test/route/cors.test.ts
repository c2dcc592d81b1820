/** Cross-origin rules of a route, against the Fetch standard: what a browser would be told. */
import t from 'tap'
import { type CorsRules, corsHeaders, preflightHeaders } from '../../src/route/cors.ts'

const rules: CorsRules = {
  origins: ['https://app.example', 'null'],
  headers: ['Authorization', 'X-Step'],
  expose: ['etag'],
  credentials: true,
  max_age: 600_000,
}
const pairs = (flat: readonly string[] | undefined): Record<string, string> =>
  Object.fromEntries(
    (flat ?? []).flatMap((name, i, all) => (i % 2 === 0 ? [[name, all[i + 1]!]] : [])),
  )

t.test('an answer names the one origin that may read it, and always varies', async (t) => {
  t.same(pairs(corsHeaders(rules, 'https://app.example')), {
    vary: 'Origin',
    'access-control-allow-origin': 'https://app.example',
    'access-control-allow-credentials': 'true',
    'access-control-expose-headers': 'etag',
  })
  t.same(pairs(corsHeaders(rules, undefined)), { vary: 'Origin' })
  const strangers = ['https://app.example.evil', 'https://evil-app.example', 'http://app.example']
  for (const origin of [...strangers, 'https://app.example:444', 'HTTPS://APP.EXAMPLE', '*', ''])
    t.same(pairs(corsHeaders(rules, origin)), { vary: 'Origin' }, origin)
  t.equal(pairs(corsHeaders(rules, 'null'))['access-control-allow-origin'], 'null')
})

t.test('a route for every origin answers with a star and never allows credentials', async (t) => {
  const open: CorsRules = { origins: ['*'], credentials: false, max_age: 0 }
  t.same(pairs(corsHeaders(open, 'https://any.example')), { 'access-control-allow-origin': '*' })
})

t.test('a preflight is allowed by origin, method and every header', async (t) => {
  const asked = { origin: 'https://app.example', method: 'PUT', headers: 'authorization, x-step' }
  const answer = pairs(preflightHeaders(rules, ['GET', 'PUT'], asked))
  t.match(answer, {
    vary: /Origin, Access-Control-Request-Method, Access-Control-Request-Headers/,
    'access-control-allow-methods': 'GET, PUT',
    'access-control-allow-headers': 'Authorization, X-Step',
    'access-control-max-age': '600',
    'access-control-allow-origin': 'https://app.example',
  })
  t.equal(preflightHeaders(rules, ['GET'], asked), undefined, 'a method the route has not')
  const off = { ...asked, headers: 'x-other' }
  t.equal(preflightHeaders(rules, ['PUT'], off), undefined, 'a header that is not listed')
  t.equal(preflightHeaders(rules, ['PUT'], { ...asked, origin: 'https://evil' }), undefined)
  t.ok(preflightHeaders(rules, ['PUT'], { ...asked, headers: undefined }), 'no headers asked for')
  t.equal(preflightHeaders({ ...rules, methods: ['GET'] }, ['PUT'], asked), undefined)
})
