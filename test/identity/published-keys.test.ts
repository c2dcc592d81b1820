/** Where the keys of an issuer are found, and what is sent for them, over real sockets. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { exportJWK, generateKeyPair } from 'jose'
import t from 'tap'
import { listening, newFolder, openKeyStore, openSite } from '../harness/key-store.ts'
import { until } from '../harness/wait.ts'

const certificates = 'test/harness/certificates'
const tls = {
  cert: readFileSync(join(certificates, 'server.pem')),
  key: readFileSync(join(certificates, 'server.key')),
}
const ca = join(process.cwd(), certificates, 'authority.pem')
const { publicKey } = await generateKeyPair('ES256')
const jwk = await exportJWK(publicKey)
const setOf = (kid: string): string => JSON.stringify({ keys: [{ ...jwk, kid }] })

/** Answers what `pages` has at the path, or 404; `asked` has every request. */
function pagesOf(pages: Record<string, object | string | RequestListener>): {
  readonly asked: IncomingMessage[]
  readonly listener: RequestListener
} {
  const asked: IncomingMessage[] = []
  const listener: RequestListener = (req, res) => {
    asked.push(req)
    const page = pages[req.url!]
    if (page === undefined) res.writeHead(404).end()
    else if (typeof page === 'function') page(req, res)
    else res.end(typeof page === 'string' ? page : JSON.stringify(page))
  }
  return { asked, listener }
}

const pathsOf = (asked: readonly IncomingMessage[]): string[] => asked.map(({ url }) => url!)

t.test('an issuer without OpenID Connect is found by RFC 8414', async (t) => {
  const pages: Record<string, object | string> = {}
  const { asked, listener } = pagesOf(pages)
  const origin = await openSite(listener)
  const issuer = `${origin}/tenants/one`
  const [openid, oauth] = [
    '/tenants/one/.well-known/openid-configuration',
    '/.well-known/oauth-authorization-server/tenants/one',
  ]
  pages[oauth] = { issuer, jwks_uri: `${origin}/jwks` }
  pages['/jwks'] = setOf('one')
  const { store, sets } = await openKeyStore({ issuer, keys_refresh: '20ms' })
  t.match(store.status()[0], { keys: 1, code: null })
  t.same(pathsOf(asked).slice(0, 3), [openid, oauth, '/jwks'])
  await until('it is read again', () => asked.length >= 7)
  t.same(pathsOf(asked).slice(3, 5), [oauth, '/jwks'], 'first where it was found')

  // It moves to OpenID Connect, with other keys.
  pages[openid] = { issuer, jwks_uri: `${origin}/other` }
  pages['/other'] = setOf('two')
  delete pages[oauth]
  await until('the other keys', () => sets.at(-1)?.keys[0]?.kid === 'two')

  // The document of another issuer counts as little there as in the first place.
  delete pages[openid]
  pages[oauth] = { issuer: origin, jwks_uri: `${origin}/jwks` }
  await until('refused', () => /names another issuer/.test(store.status()[0]!.message ?? ''))
  delete pages[oauth]
  await until('both places are named', () => {
    const message = store.status()[0]!.message ?? ''
    return [openid, oauth].every((path) => message.includes(`${origin}${path}: status 404`))
  })
  t.equal(store.status()[0]!.keys, 1)
})

t.test('of an issuer without a path both places are at the root', async (t) => {
  const pages: Record<string, object | string> = { '/jwks': setOf('one') }
  const { asked, listener } = pagesOf(pages)
  const origin = await openSite(listener)
  pages['/.well-known/oauth-authorization-server'] = { issuer: `${origin}/`, jwks_uri: `${origin}/jwks` } // biome-ignore format: a line
  const { store } = await openKeyStore({ issuer: `${origin}/` })
  t.match(store.status()[0], { keys: 1, code: null })
  t.equal(asked[0]?.url, '/.well-known/openid-configuration')
})

t.test('only an answer that nothing is there sends the gate to the other place', async (t) => {
  const { asked, listener } = pagesOf({
    '/.well-known/openid-configuration': (_req, res) => res.writeHead(503).end(),
  })
  const { store } = await openKeyStore({ issuer: await openSite(listener) })
  t.match(store.status()[0], { keys: 0, message: /openid-configuration: status 503/ })
  t.equal(asked.length, 1)
})

/** A site whose documents have entity tags. */
async function taggedSite() {
  const state = { kid: 'one', tag: '"1"', where: '/jwks', answer: undefined as string | undefined }
  const requests: { path: string; tag: string | undefined; status: number }[] = []
  const origin = await openSite((req, res) => {
    const isSet = req.url !== '/.well-known/openid-configuration'
    const tag = isSet ? state.tag : `"${state.where}"`
    const asked = req.headers['if-none-match']
    const status = asked === tag ? 304 : 200
    requests.push({ path: req.url!, tag: asked, status })
    res.writeHead(status, { etag: tag })
    const metadata = JSON.stringify({ issuer: origin, jwks_uri: `${origin}${state.where}` })
    res.end(status === 304 ? undefined : isSet ? (state.answer ?? setOf(state.kid)) : metadata)
  })
  return { origin, state, requests }
}

t.test('what has not changed is not sent again, and counts as fetched', async (t) => {
  const { origin, state, requests } = await taggedSite()
  const folder = newFolder()
  const { store, sets } = await openKeyStore({ issuer: origin, keys_refresh: '20ms' }, folder)
  const first = store.status()[0]!.last_success!
  const keptAt = (): string => {
    const name = readdirSync(folder).find((each) => each.endsWith('.json'))
    return name === undefined ? '' : JSON.parse(readFileSync(join(folder, name), 'utf8')).fetched_at
  }
  await until('it was kept again', () => keptAt() > first)
  t.match(store.status()[0], { keys: 1, version: 1, code: null })
  t.ok(store.status()[0]!.last_success! > first)
  t.same(requests.slice(0, 4).map(({ status }) => status), [200, 200, 304, 304]) // biome-ignore format: a line
  state.kid = 'two'
  state.tag = '"2"'
  await until('the new set', () => sets.at(-1)?.keys[0]?.kid === 'two')
  t.equal(sets.length, 2)
})

t.test('a tag belongs to one address, and to a set that was good', async (t) => {
  const { origin, state, requests } = await taggedSite()
  const { store } = await openKeyStore({ issuer: origin, keys_refresh: '20ms' })
  await until('a 304', () => requests.at(-1)?.status === 304)
  state.where = '/moved'
  await until('it has moved', () => requests.some(({ path }) => path === '/moved'))
  t.match(
    requests.find(({ path }) => path === '/moved'),
    { tag: undefined, status: 200 },
  )

  // A broken answer with a tag of its own: were it remembered, it would be "not changed" for ever.
  state.answer = '{}'
  state.tag = '"broken"'
  await until('refused', () => store.status()[0]!.code === 'ERR_OUTBOUND')
  const { length } = requests
  await until('asked again', () => requests.length > length + 3)
  t.notOk(
    requests.slice(length).some(({ status }) => status === 304),
    'with whole answers from then on',
  )
  state.answer = undefined
  await until('good again', () => store.status()[0]!.code === null)
})

t.test('a 304 that was not asked for is no set', async (t) => {
  const origin = await openSite((_req, res) => res.writeHead(304, { etag: '"a"' }).end())
  const { store } = await openKeyStore({ issuer: 'https://a.example', jwks_uri: origin })
  t.match(store.status()[0], { keys: 0, code: 'ERR_OUTBOUND', message: /status 304/ })
})

/** Resolves with the times of the first fetches, by `performance.now()`. */
async function fetchTimes(headers: object, options: object, count: number): Promise<number[]> {
  const times: number[] = []
  const origin = await openSite((_req, res) => {
    times.push(performance.now())
    res.writeHead(200, { ...headers }).end(setOf('one'))
  })
  const { store } = await openKeyStore({ issuer: 'https://a.example', jwks_uri: origin, ...options }) // biome-ignore format: a line
  await until(`${count} fetches`, () => times.length >= count)
  await store.close()
  return times
}

t.test('an issuer may ask for a sooner fetch, but not for a hammer or a long sleep', async (t) => {
  const far = { 'cache-control': 'max-age=99999999999999999999' }
  const none = { 'cache-control': 'no-store, no-cache, max-age=0' }
  const soon = { 'cache-control': 'max-age=61', age: '60' }
  const [, , late, often, asked] = await Promise.all([
    // Neither a long life nor nonsense puts off the fetch that the configuration wants.
    fetchTimes(far, { keys_refresh: '20ms' }, 4),
    fetchTimes({ 'cache-control': 'max-age=-5, ,=,"' }, { keys_refresh: '20ms' }, 4),
    fetchTimes(none, { keys_cooldown: '1500ms' }, 2),
    fetchTimes(none, { keys_cooldown: '0s' }, 3),
    fetchTimes(soon, { keys_cooldown: '100ms' }, 2),
  ])
  // A timer may be a millisecond early by this clock.
  t.ok(late[1]! - late[0]! >= 1490, 'no sooner than keys_cooldown')
  t.ok(often[2]! - often[0]! >= 1990, 'nor than a second')
  t.ok(asked[1]! - asked[0]! >= 990, 'after the second that was left')
})

t.test('without a cooldown an issuer that fails is not asked without a pause', async (t) => {
  const times: number[] = []
  const origin = await openSite((_req, res) => {
    times.push(performance.now())
    res.writeHead(503).end()
  })
  const options = { issuer: 'https://a.example', jwks_uri: origin, keys_cooldown: '0s' }
  const { store } = await openKeyStore(options)
  await until('5 fetches', () => times.length >= 5)
  await store.close()
  t.ok(times[4]! - times[0]! >= 390, `${times[4]! - times[0]!}`)
})

t.test('a pause longer than a timer can be is not a pause of a millisecond', async (t) => {
  let fetches = 0
  const origin = await openSite((_req, res) => {
    fetches++
    res.end(setOf('one'))
  })
  const long = { keys_refresh: '24d', keys_max_stale: '60d' }
  await openKeyStore({ issuer: 'https://a.example', jwks_uri: origin, ...long })
  const other = await fetchTimes({}, { keys_refresh: '20ms' }, 5)
  t.equal(other.length >= 5 && fetches, 1)
})

t.test('keys behind a private authority, and behind no other', async (t) => {
  const { listener } = pagesOf({ '/jwks': setOf('one') })
  const origin = await openSite(listener, { tls })
  const where = { issuer: 'https://a.example', jwks_uri: `${origin}/jwks` }
  const closed = await openKeyStore(where)
  t.match(closed.store.status()[0], { keys: 0, message: /unable to verify|self.signed|issuer/i })
  t.match(closed.logged[0], /issuers\[\]\.fetch\.tls\.ca/, 'the hint names the option')
  const open = await openKeyStore({ ...where, fetch: { tls: { ca } } })
  t.match(open.store.status()[0], { keys: 1, code: null })
  const stranger = join(process.cwd(), certificates, 'stranger.pem')
  const other = await openKeyStore({ ...where, fetch: { tls: { ca: stranger } } })
  t.equal(other.store.status()[0]!.keys, 0)
})

t.test('headers go to the origin that the configuration names, and to no other', async (t) => {
  const elsewhere = pagesOf({ '/jwks': setOf('one') })
  const other = await openSite(elsewhere.listener)
  const pages: Record<string, object | string> = {}
  const own = pagesOf(pages)
  const origin = await openSite(own.listener)
  pages['/.well-known/openid-configuration'] = { issuer: origin, jwks_uri: `${other}/jwks` }
  const headers = { 'X-Api-Key': 'secret-1', Accept: 'application/jwk-set+json' }
  t.match((await openKeyStore({ issuer: origin, fetch: { headers } })).store.status(), [
    { keys: 1 },
  ])
  t.match(own.asked[0]?.headers, { 'x-api-key': 'secret-1', accept: 'application/jwk-set+json' })
  t.equal(elsewhere.asked[0]?.headers['x-api-key'], undefined)
  t.equal(elsewhere.asked[0]?.headers.accept, 'application/json')

  // Where the address of the keys is configured, its origin is the one.
  await openKeyStore({ issuer: origin, jwks_uri: `${other}/jwks`, fetch: { headers } })
  t.equal(elsewhere.asked[1]?.headers['x-api-key'], 'secret-1')

  // And the keys of the same origin get them, as they do for providers that guard both.
  pages['/.well-known/openid-configuration'] = { issuer: origin, jwks_uri: `${origin}/jwks` }
  pages['/jwks'] = setOf('one')
  await openKeyStore({ issuer: origin, fetch: { headers } })
  t.equal(own.asked.at(-1)?.headers['x-api-key'], 'secret-1')
})

t.test(
  'Kubernetes: the key set of the cluster, with its authority and a token that is renewed',
  async (t) => {
    let expected = 'Bearer token.of.pod-1'
    const guarded: RequestListener = (req, res) => {
      if (req.headers.authorization === expected) res.end(setOf('cluster'))
      else res.writeHead(401).end()
    }
    const { listener } = pagesOf({ '/openid/v1/jwks': guarded })
    const origin = await openSite(listener, { tls })
    const file = join(newFolder(), 'token')
    writeFileSync(file, 'token.of.pod-1\n')
    const { store, sets, logged } = await openKeyStore({
      issuer: 'https://kubernetes.default.svc.cluster.local',
      preset: 'kubernetes',
      jwks_uri: `${origin}/openid/v1/jwks`,
      fetch: { tls: { ca }, token_file: file },
      keys_refresh: '20ms',
    })
    t.match(sets, [{ keys: [{ kid: 'cluster' }] }])
    const code = (): string | null => store.status()[0]!.code
    expected = 'Bearer token.of.pod-2'
    await until('the old token is refused', () => code() === 'ERR_OUTBOUND')
    writeFileSync(file, 'token.of.pod-2')
    await until('the new one is sent', () => code() === null)
    for (const bad of ['', 'two tokens', 'x\r\ny: z', 'a'.repeat(20_000)]) {
      writeFileSync(file, bad)
      await until('no such thing is sent', () => code() === 'ERR_CONFIG_FILE')
      writeFileSync(file, 'token.of.pod-2')
      await until('good again', () => code() === null)
    }
    t.notMatch(JSON.stringify([logged, store.status()]), /token\.of|two tokens/)
  },
)

/** A real proxy for CONNECT that asks for a password. */
async function openProxy(): Promise<{ readonly port: number; readonly targets: string[] }> {
  const targets: string[] = []
  const proxy = createServer((_req, res) => res.writeHead(405).end())
  proxy.on('connect', (req, socket) => {
    targets.push(req.url!)
    socket.on('error', () => {})
    const login = Buffer.from('gate:pass word-1').toString('base64')
    if (req.headers['proxy-authorization'] !== `Basic ${login}`) {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n')
      return
    }
    const [name, port] = req.url!.split(':')
    const behind = connect(Number(port), name, () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      behind.pipe(socket).pipe(behind)
    })
    behind.on('error', () => socket.destroy())
  })
  return { port: (await listening(proxy)).port, targets }
}

t.test('through a proxy, whose password is in no message', async (t) => {
  const { port, targets } = await openProxy()
  const pages: Record<string, object | string> = {}
  const { asked, listener } = pagesOf(pages)
  const issuer = await openSite(listener, { tls })
  pages['/.well-known/openid-configuration'] = { issuer, jwks_uri: `${issuer}/jwks` }
  pages['/jwks'] = setOf('one')
  const through = (login: string) => ({
    issuer,
    fetch: { tls: { ca }, proxy: `http://${login}@127.0.0.1:${port}`, headers: { 'x-key': 'k' } },
  })
  const good = await openKeyStore(through('gate:pass%20word-1'))
  t.match(good.store.status()[0], { keys: 1, code: null })
  t.same([...new Set(targets)], [new URL(issuer).host])
  t.equal(asked.at(-1)?.headers['x-key'], 'k')
  const bad = await openKeyStore(through('gate:wrong-2'))
  t.match(bad.store.status()[0], { keys: 0, message: /407/ })
  // The environment of a test machine has no say either: nothing goes there.
  process.env.HTTPS_PROXY = `http://127.0.0.1:${port}`
  t.teardown(() => delete process.env.HTTPS_PROXY)
  const { length } = targets
  t.match((await openKeyStore({ issuer, fetch: { tls: { ca } } })).store.status(), [{ keys: 1 }])
  t.equal(targets.length, length)

  // An issuer that names its keys on plain http would have the proxy fetch them in the clear.
  pages['/.well-known/openid-configuration'] = { issuer, jwks_uri: `http://127.0.0.1:${port}/` }
  const clear = await openKeyStore(through('gate:pass%20word-1'))
  t.match(clear.store.status()[0], { keys: 0, message: /jwks_uri/ })
  const told = JSON.stringify([good, bad, clear].map(({ logged, store }) => [logged, store.status()])) // biome-ignore format: a line
  t.notMatch(told, /wrong-2|word-1|gate:/)
})

t.test('a query of the address of the keys is not logged', async (t) => {
  const origin = await openSite((_req, res) => res.writeHead(403).end())
  const uri = `${origin}/jwks?api_key=secret-3`
  const { store, logged } = await openKeyStore({ issuer: 'https://a.example', jwks_uri: uri })
  t.match(store.status()[0]!.message, /status 403/)
  t.notMatch(JSON.stringify([logged, store.status()]), /secret-3/)
})
