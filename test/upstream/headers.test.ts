/** Headers for the upstream where the policy has a say: no other spelling of a name that it sets or removes passes by it. */
import t from 'tap'
import { linksOf, passedOn, upstreamHeaders } from '../../src/upstream/headers.ts'

const options = {
  forward: { identity: 'none' },
  withoutAuthorization: true,
  withoutProof: true,
  route: 'a',
  principal: undefined,
  decisionId: 'd',
  clientAddress: '192.0.2.1',
  forwardedFor: '192.0.2.1',
  scheme: 'https',
  host: 'api.example',
  sentHost: 'api.example',
  prefix: '',
} as const

/** Values of the headers that a CGI-like upstream reads under this name. */
function cgi(headers: readonly string[], name: string): string[] {
  const found: string[] = []
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i]!.toUpperCase().replace(/[^A-Z0-9]/g, '_') === name) found.push(headers[i + 1]!)
  }
  return found
}

const spellings = ['x-role', 'x_role', 'x.role', 'x!role']
const client = ['host', 'api.example', 'x-role', 'admin', 'x-other', 'kept']

t.test('a header that the policy sets replaces the one of the client, in every spelling', async (t) => {
  for (const name of spellings) {
    const sent = upstreamHeaders(client, { ...options, policyHeaders: [[name, 'reader']], removed: [] })
    t.same(cgi(sent, 'X_ROLE'), ['reader'], name)
    t.same(cgi(sent, 'X_OTHER'), ['kept'], name)
  }
}) // biome-ignore format: short

t.test('a header that the policy removes is not sent, in no spelling', async (t) => {
  for (const name of spellings) {
    for (const policyHeaders of [[], [['x-role', 'reader']], [['x_role', 'reader']]] as const) {
      const sent = upstreamHeaders(client, { ...options, policyHeaders, removed: [name] })
      t.same(cgi(sent, 'X_ROLE'), [], name)
      t.same(cgi(sent, 'X_OTHER'), ['kept'], name)
    }
  }
})

t.test('X-Real-IP is the client, or what the policy says', async (t) => {
  const sent = (policyHeaders: readonly [string, string][], removed: readonly string[]): string[] =>
    cgi(upstreamHeaders(client, { ...options, policyHeaders, removed }), 'X_REAL_IP')
  t.same(sent([], []), ['192.0.2.1'])
  t.same(sent([['x_real_ip', '::1']], []), ['::1'])
  t.same(sent([], ['x-real-ip']), [])
})

t.test('the port for the upstream is that of the host, or of the scheme', async (t) => {
  for (const [host, scheme, port] of [
    ['a', 'http', '80'], ['a', 'https', '443'], ['a:8080', 'https', '8080'], ['[::1]', 'https', '443'], ['[::1]:81', 'http', '81'],
  ] as const) {
    const made = { ...options, host, scheme, policyHeaders: [], removed: [] }
    t.same(cgi(upstreamHeaders(client, made), 'X_FORWARDED_PORT'), [port], host)
  }
}) // biome-ignore format: short

t.test('a link that Node would read in many ways is not passed on as a hint', async (t) => {
  const passed = ['</a>', '</a>; rel=preload', '</a>;rel="preload" ; as=font; crossorigin', '<https://b.example/?c=d>; rel=preconnect']
  for (const link of passed) t.same(linksOf([Buffer.from('Link'), Buffer.from(link)]), [link])
  for (const link of [
    // Node refuses each of them in the end, the first after 3^30 tries.
    `</a>${';a=b=c'.repeat(30)}"`, `</a>${';a=b'.repeat(50)}"`, '</a>;a=b=c', '</a>; rel=preload, </b>; rel=preload', 'a', '</a>; title="b c"', '</a>\n',
  ])
    t.same(linksOf([Buffer.from('link'), Buffer.from(link)]), [], link)
}) // biome-ignore format: short

t.test('a wish for trailers goes on, but where the route removes it', async (t) => {
  const headers = { pairs: ['te', 'gzip, trailers', 'connection', 'te'], connectionNames: ['te'] } as never
  t.same(passedOn(headers, {}, [], []), ['te', 'trailers'])
  t.same(passedOn(headers, { remove: ['te'] }, [], []), [])
}) // biome-ignore format: short
