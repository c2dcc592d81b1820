/** From which pages a browser may use what it adds by itself: a cookie, or the token of a proxy that knows its cookie. */
import t from 'tap'
import type { GateError } from '../../src/errors.ts'
import { checkOrigin, type OriginCheck } from '../../src/route/origin.ts'

const page = 'https://app.example.com'
const evil = 'https://evil.example'

function allows(
  origins: readonly string[] | undefined,
  origin: string | undefined,
  check: Partial<OriginCheck>,
): boolean {
  try {
    const route = origins === undefined ? {} : { origins }
    checkOrigin(route, origin, {
      method: 'POST',
      upgrade: false,
      ambient: undefined,
      authority: 'app.example.com',
      fetchSite: undefined,
      ...check,
    })
    return true
  } catch (error) {
    const { code, cause } = error as GateError
    t.equal(code, 'ERR_ORIGIN_NOT_ALLOWED')
    t.match(cause, /^its Origin is ("|missing).* expected one of /)
    if (check.fetchSite !== undefined) t.match(cause, `Sec-Fetch-Site "${check.fetchSite}"`)
    return false
  }
}

t.test('a page may use the credential where the route lists it, and nowhere else', async (t) => {
  for (const ambient of ['cookie', 'proxy'] as const)
    for (const upgrade of [false, true])
      for (const method of ['GET', 'POST']) {
        t.ok(allows([page], page, { ambient, upgrade, method }))
        t.notOk(allows([page], evil, { ambient, upgrade, method }))
        t.notOk(allows(undefined, page, { ambient, upgrade, method }), 'a route that lists none')
      }
})

t.test('without an Origin a cookie serves safe requests, and a proxy also programs', async (t) => {
  const cases: [ambient: OriginCheck['ambient'], method: string, upgrade: boolean, fine: boolean][] = [
    ['cookie', 'GET', false, true],
    ['cookie', 'POST', false, false],
    ['cookie', 'GET', true, false],
    ['proxy', 'GET', false, true],
    ['proxy', 'POST', false, true],
    ['proxy', 'GET', true, true],
    [undefined, 'POST', false, true],
  ] // biome-ignore format: a table
  for (const [ambient, method, upgrade, fine] of cases)
    for (const origins of [[page], undefined])
      t.equal(
        allows(origins, undefined, { ambient, method, upgrade }),
        fine,
        `${ambient} ${method}`,
      )
})

t.test(
  'a credential that a page adds itself needs an origin where the route lists some',
  async (t) => {
    t.ok(allows(undefined, evil, { upgrade: true }))
    t.notOk(allows([page], evil, { upgrade: true }))
  },
)

t.test('a hidden origin counts where the browser says that the page is of this very host', async (t) => {
  const fine = { ambient: 'cookie', fetchSite: 'same-origin' } as const
  for (const ambient of ['cookie', 'proxy'] as const)
    for (const method of ['GET', 'POST', 'DELETE'])
      t.ok(allows([page], 'null', { ...fine, ambient, method }), `${ambient} ${method}`)
  t.ok(allows(['http://app.example.com'], 'null', fine), 'behind a proxy that ends TLS')
  t.ok(allows(['https://app.example.com:8443'], 'null', { ...fine, authority: 'app.example.com:8443' }))
  for (const fetchSite of ['none', 'same-site', 'cross-site', 'Same-Origin', 'same-origin, same-origin', ''])
    t.notOk(allows([page], 'null', { ...fine, fetchSite }), fetchSite)
  t.notOk(allows([page], 'null', { ambient: 'cookie' }), 'a browser that does not say')
  t.notOk(allows([page], 'null', { ...fine, upgrade: true }), 'a handshake, whose origin is never hidden')
  t.notOk(allows([page], evil, fine), 'an origin that is not hidden')
  t.notOk(allows([page], undefined, fine), 'no origin')
  t.notOk(allows([page], 'null', { ...fine, authority: 'api.example.com' }), 'a host whose pages are not listed')
  t.notOk(allows([page], 'null', { ...fine, authority: 'app.example.com:8443' }))
  t.notOk(allows(undefined, 'null', fine), 'a route that lists none')
}) // biome-ignore format: a table
