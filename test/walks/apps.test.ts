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
    { name: 'optional', path: '/optional', auth: 'optional', origins },
  ],
})
t.teardown(() => gate.stop())
gate.put(
  compile(`
    default decision := {"allowed": false}
    decision := {"allowed": true, "headers": {"x-policy-saw": scheme}} if not "secret" in input.parsed_path
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
