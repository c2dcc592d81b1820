/**
 * What ordinary apps and browsers send through a gate that takes its tokens from a cookie: an `Authorization` of their
 * own. The cases come from public bug reports of proxies, see docs/apps.md.
 */
import t from 'tap'
import { compile } from '../harness/bundle.ts'
import { type Answer, type AskOptions, TestGate } from '../harness/gate.ts'
import { until } from '../harness/wait.ts'

const page = 'https://app.example.com'
const origins = [page]
const gate = await TestGate.start({
  bundle: null,
  ready: false,
  config: { workers: 1 },
  issuer: { from: ['cookie:s'] },
  routes: [
    { name: 'page', path: '/page', host: 'app.example.com', origins },
    { name: 'app', path: '/app', origins },
    { name: 'bytes', path: '/bytes', origins, non_ascii_headers: 'pass' },
    { name: 'fetch', path: '/fetch', origins, empty_segments: 'pass' },
    { name: 'joined', path: '/joined', origins, empty_segments: 'merge', stray_percent: 'encode' },
    { name: 'optional', path: '/optional', auth: 'optional', origins },
  ],
})
t.teardown(() => gate.stop())
gate.put(
  compile(`
    default decision := {"allowed": false}
    decision := {"allowed": true, "headers": saw} if not "secret" in input.parsed_path
    saw["x-policy-cookie"] := urlquery.encode(input.attributes.request.http.headers.cookie)
    saw["x-policy-a"] := urlquery.encode(concat("|", input.header_values["x-a"]))
    saw["x-policy-path"] := concat("|", [input.attributes.request.http.path, concat(",", [urlquery.encode(each) | some each in input.parsed_path])])
    saw["x-policy-query"] := urlquery.encode(json.marshal(input.parsed_query))
    saw["x-policy-saw"] := scheme
    default scheme := "none"
    scheme := split(input.attributes.request.http.headers.authorization, " ")[0]`),
)
await until('ready', () => gate.gate.readiness().ready)
const token = await gate.issuer.token('alice')
const cookie = `s=${token}`

interface Walked extends Answer {
  /** What the upstream got; undefined when it got nothing. */
  readonly sent: Record<string, string> | undefined
}

async function ask(
  path: string,
  headers: Record<string, string>,
  options: AskOptions = {},
): Promise<Walked> {
  const before = gate.upstream.seen.length
  const answer = await gate.ask(path, undefined, { ...options, headers })
  const seen = gate.upstream.seen[before]
  return { ...answer, sent: seen === undefined ? undefined : Object.fromEntries(seen.headers) }
}

t.test(
  'the Authorization of an app passes beside the cookie of the gate, as the policy saw it',
  async (t) => {
    for (const authorization of ['Bearer of-the-app', 'Basic YTpi', `Bearer ${token}`]) {
      const { status, sent } = await ask('/app/a', {
        cookie: `${cookie}; theme=dark`,
        authorization,
      })
      t.equal(status, 200)
      t.match(sent, {
        authorization,
        'x-policy-saw': authorization.split(' ')[0],
        cookie: 'theme=dark',
        'x-dropgate-subject': 'alice',
      })
    }
    const anonymous = await ask('/optional/a', { authorization: 'Bearer of-the-app' })
    t.match(anonymous.sent, { authorization: 'Bearer of-the-app', 'x-dropgate-subject': undefined })
    const without = await ask('/app/a', { authorization: 'Bearer of-the-app' })
    t.same([without.status, without.code, without.sent], [401, 'ERR_CREDENTIAL_MISSING', undefined])
    await until('all are recorded', () => gate.log.length >= 5)
    t.notMatch(JSON.stringify(gate.log), /of-the-app|YTpi/, 'no record has it')
  },
)

t.test(
  'a form under no-referrer, whose browser hides the origin, is posted from its own host',
  async (t) => {
    const post = async (host: string, headers: Record<string, string>): Promise<unknown> => {
      const { status, code } = await ask(
        '/page',
        { cookie, host, origin: 'null', ...headers },
        { method: 'POST', body: 'a=b' },
      )
      return code ?? status
    }
    const own = { 'sec-fetch-site': 'same-origin' }
    t.equal(await post('app.example.com', own), 200)
    for (const site of ['none', 'same-site', 'cross-site'])
      t.equal(
        await post('app.example.com', { 'sec-fetch-site': site }),
        'ERR_ORIGIN_NOT_ALLOWED',
        site,
      )
    t.equal(await post('app.example.com', {}), 'ERR_ORIGIN_NOT_ALLOWED')
    t.equal(await post('app.example.com:8443', own), 'ERR_ORIGIN_NOT_ALLOWED')
  },
)

t.test(
  'a cookie with an accent arrives as it was sent, and the policy sees the text',
  async (t) => {
    const raw = async (...lines: string[]): Promise<Walked> => {
      const before = gate.upstream.seen.length
      const answer = await gate.raw(
        `GET /${lines[0]} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n${lines.slice(1).join('\r\n')}\r\n\r\n`,
      )
      const sent = gate.upstream.seen[before]
      return {
        status: Number(answer.slice(9, 12)),
        sent: sent && Object.fromEntries(sent.headers),
      } as Walked
    }
    // The last byte of à is 0xA0, a space to whoever trims bytes as text.
    const name = 'name=Zo\xc3\xab; city=Bo\xc3\xa0'
    const { status, sent } = await raw('app/a', `Cookie: ${cookie}; ${name}`)
    t.equal(status, 200)
    t.match(sent, {
      cookie: name,
      'x-policy-cookie': encodeURIComponent(`${cookie}; name=Zoë; city=Boà`).replaceAll('%20', '+'),
    })
    t.equal((await raw('app/a', `Cookie: ${cookie}; name=Zo\xeb`)).status, 400)
    t.equal((await raw('app/a', `Cookie: ${cookie}`, 'X-A: Zo\xc3\xab')).status, 400)
    const bytes = await raw('bytes', `Cookie: ${cookie}`, 'X-A: Zo\xc3\xab')
    t.match(bytes.sent, { 'x-a': 'Zo\xc3\xab', 'x-policy-a': encodeURIComponent('Zoë') })
    const latin = await raw('bytes', `Cookie: ${cookie}`, 'X-A: Zo\xeb')
    t.match(latin.sent, { 'x-a': 'Zo\xeb', 'x-policy-a': encodeURIComponent('Zoë') })
  },
)

t.test(
  'paths and queries as browsers and apps write them: what is decided on is what is sent',
  async (t) => {
    const cases: [raw: string, sent: string, segments: string[], query: object][] = [
    ['/app/routes/[id]/+page.svelte', '/app/routes/%5Bid%5D/+page.svelte', ['app', 'routes', '[id]', '+page.svelte'], {}],
    ['/app/a|b^c?x[]=1|2', '/app/a%7Cb%5Ec?x[]=1|2', ['app', 'a|b^c'], { 'x[]': ['1|2'] }],
    ['/fetch/https://example.com//a', '/fetch/https://example.com//a', ['fetch', 'https:', '', 'example.com', '', 'a'], {}],
    ['//joined//a///b?q=100%', '/joined/a/b?q=100%25', ['joined', 'a', 'b'], { q: ['100%'] }],
  ] // biome-ignore format: a table
    for (const [raw, sent, segments, query] of cases) {
      const before = gate.upstream.seen.length
      const answer = await gate.raw(
        `GET ${raw} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nCookie: ${cookie}\r\n\r\n`,
      )
      t.match(answer, /^HTTP\/1\.1 200/, raw)
      const seen = gate.upstream.seen[before]!
      t.equal(seen.requestLine, `GET ${sent} HTTP/1.1`)
      const told = Object.fromEntries(seen.headers)
      const encoded = (text: string): string => encodeURIComponent(text).replaceAll('%20', '+')
      t.equal(told['x-policy-path'], `${sent}|${segments.map(encoded).join(',')}`)
      t.same(JSON.parse(decodeURIComponent(told['x-policy-query']!.replaceAll('+', ' '))), query)
    }
    for (const raw of ['/fetch//secret/a', '/joined//secret', '/joined/a/%73ecret'])
      t.match(
        await gate.raw(
          `GET ${raw} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nCookie: ${cookie}\r\n\r\n`,
        ),
        /^HTTP\/1\.1 403/,
        raw,
      )
  },
)
