/**
 * Routes where the token is optional: a request without a credential is anonymous, and every other one is verified as
 * where it is required. Tokens in a header of their own: believed from trusted proxies only, and never passed on unread.
 */
import t from 'tap'
import { compile } from '../harness/bundle.ts'
import { type Answer, type AskOptions, TestGate } from '../harness/gate.ts'
import { type Kind, OpenStream, StreamUpstream } from '../harness/streams.ts'
import { until } from '../harness/wait.ts'

const streams = new StreamUpstream()
await streams.open()
const host = '127.0.0.1'
const page = 'https://app.example.com'
const iap = 'x-goog-iap-jwt-assertion'
const shared = {
  origins: [page],
  cors: { origins: [page], headers: ['authorization'] },
  labels: { open: 'yes' },
}
const gate = await TestGate.start({
  bundle: null,
  ready: false,
  config: {
    workers: 1,
    listen: [{ host, port: 0 }, { host, port: 0, trusted_proxies: ['127.0.0.0/8'] }],
  },
  issuer: {
    from: ['authorization', 'cookie:s', 'websocket-protocol', `header:${iap}`],
    claims: { groups: '/groups' },
  },
  routes: [
    { name: 'optional', path: '/optional', auth: 'optional', ...shared },
    { name: 'kept', path: '/optional/kept', auth: 'optional', ...shared, forward: { authorization: 'keep' } },
    { name: 'streams', path: '/optional/streams', auth: 'optional', ...shared, upstream: streams.origin },
    { name: 'required', path: '/required', ...shared },
    { name: 'none', path: '/none', auth: 'none', ...shared },
    { name: 'none-kept', path: '/none/kept', auth: 'none', ...shared, forward: { authorization: 'keep' } },
  ],
}) // biome-ignore format: a table
t.teardown(async () => {
  await gate.stop()
  streams.close()
})
// It says to the upstream what it has seen, and asks anonymous callers to sign in for the rest.
gate.put(
  compile(`
    default decision := {"allowed": false, "http_status": 401}
    decision := {"allowed": true, "headers": {"x-policy-saw": saw}} if may
    may if input.principal.subject
    may if { input.route.labels.open == "yes"; input.parsed_path[1] != "members" }
    default saw := "no token"
    saw := "a token" if input.attributes.request.http.headers["${iap}"]`),
)
await until('ready', () => gate.gate.readiness().ready)
const [direct, behind] = gate.gate.address().ports as [number, number]
const revoker = await gate.revoker()

interface Walked extends Answer {
  /** What the upstream got; undefined when it got nothing. */
  readonly sent: Record<string, string> | undefined
}

async function ask(
  path: string,
  token?: string,
  options: AskOptions = {},
  port = direct,
): Promise<Walked> {
  gate.port = port
  const before = gate.upstream.seen.length
  const answer = await gate.ask(path, token, options)
  const seen = gate.upstream.seen[before]
  return { ...answer, sent: seen === undefined ? undefined : Object.fromEntries(seen.headers) }
}

async function recordOf({ headers, body }: Answer): Promise<Record<string, unknown>> {
  const id = headers['x-dropgate-decision-id'] ?? JSON.parse(body).decision_id
  await until('it is recorded', () => gate.log.some(({ decision_id }) => decision_id === id))
  return gate.log.find(({ decision_id }) => decision_id === id)!.custom
}

const insert = async (columns: Record<string, unknown>): Promise<void> => {
  const names = Object.keys(columns)
  await revoker.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()})`,
    Object.values(columns),
  )
}

t.test('without a credential the caller is anonymous, with one it is verified', async (t) => {
  const anonymous = await ask('/optional/a')
  t.equal(anonymous.status, 200)
  t.match(anonymous.sent, {
    'x-dropgate-route': 'optional',
    'x-dropgate-subject': undefined,
    authorization: undefined,
  })
  const token = await gate.issuer.token('alice')
  const known = await ask('/optional/a', token)
  t.equal(known.status, 200)
  t.match(known.sent, { 'x-dropgate-subject': 'alice', authorization: undefined })
  t.match((await ask('/optional/kept', token)).sent, { authorization: `Bearer ${token}` })
  t.match((await ask('/optional/kept')).sent, { authorization: undefined })
  const subjects = (): unknown[] =>
    gate.log.filter(({ custom }) => custom.route === 'optional').map(({ custom }) => custom.subject)
  await until('both are recorded', () => subjects().length >= 2)
  t.same(subjects().slice(0, 2), [undefined, 'alice'])
})

t.test('a policy that asks an anonymous caller to sign in says so without an error', async (t) => {
  const { status, code, headers } = await ask('/optional/members')
  t.same([status, code, headers['www-authenticate']], [401, 'ERR_POLICY_DENIED', 'Bearer'])
  t.equal((await ask('/optional/members', await gate.issuer.token('alice'))).status, 200)
})

t.test('a bad credential is refused as where it is required, and is never anonymous', async (t) => {
  const now = Math.floor(Date.now() / 1000)
  const authorization = (value: string): Record<string, string> => ({ authorization: value })
  const claims = async (over: object): Promise<Record<string, string>> =>
    authorization(
      `Bearer ${await gate.issuer.token('mallory', { claims: over as Record<string, unknown> })}`,
    )
  const cases: [name: string, headers: Record<string, string>, code: string][] = [
    ['expired', await claims({ iat: now - 900, exp: now - 600 }), 'ERR_TOKEN_EXPIRED'],
    ['of another audience', await claims({ aud: 'other' }), 'ERR_TOKEN_AUDIENCE'],
    ['of another issuer', await claims({ iss: 'https://evil.example' }), 'ERR_TOKEN_ISSUER'],
    ['without a subject', await claims({ sub: '' }), 'ERR_TOKEN_CLAIMS'],
    ['bound to a certificate', await claims({ cnf: { 'x5t#S256': 'A'.repeat(43) } }), 'ERR_TOKEN_BOUND'],
    ['of a foreign key', authorization(`Bearer ${await gate.issuer.token('a', { foreign: true })}`), 'ERR_TOKEN_SIGNATURE'],
    ['an ID token', authorization(`Bearer ${await gate.issuer.token('a', { header: { typ: 'JWT' } })}`), 'ERR_TOKEN_TYPE'],
    ['no token at all', authorization('Bearer x'), 'ERR_TOKEN_MALFORMED'],
    ['another scheme', authorization('Basic YTpi'), 'ERR_CREDENTIAL_MISSING'],
    ['a scheme alone', authorization('Bearer'), 'ERR_CREDENTIAL_MISSING'],
    ['a cookie that was emptied', { cookie: 's=' }, 'ERR_TOKEN_MALFORMED'],
    ['a cookie that is no token', { cookie: 'a=1; s=x' }, 'ERR_TOKEN_MALFORMED'],
    ['a subprotocol outside of a handshake', { 'sec-websocket-protocol': 'bearer.x' }, 'ERR_CREDENTIAL_MISSING'],
  ] // biome-ignore format: a table
  for (const [name, headers, code] of cases) {
    for (const path of ['/optional/a', '/required/a']) {
      const answer = await ask(path, undefined, { headers })
      t.same(
        [answer.status, answer.code, answer.sent],
        [401, code, undefined],
        `${name} on ${path}`,
      )
      t.equal(
        answer.headers['www-authenticate'],
        code === 'ERR_CREDENTIAL_MISSING' ? 'Bearer' : 'Bearer error="invalid_token"',
      )
      t.type((await recordOf(answer)).cause, 'string', `${name}: the record says why`)
    }
  }
  t.match(
    await recordOf(
      await ask('/optional/a', undefined, { headers: { authorization: 'Basic YTpi' } }),
    ),
    {
      cause: 'its Authorization has the scheme "Basic", expected Bearer or DPoP and a token',
    },
  )
})

t.test(
  'a row refuses the token, not the anonymous; a block of the network refuses both',
  async (t) => {
    const token = await gate.issuer.token('bob')
    t.equal((await ask('/optional/a', token)).status, 200)
    await insert({ subject: 'bob' })
    await until('revoked', async () => (await ask('/optional/a', token)).code === 'ERR_REVOKED')
    t.equal((await ask('/optional/a')).status, 200)
    await insert({ network: '127.0.0.1/32', reason: 'optional' })
    await until('blocked', async () => (await ask('/optional/a')).code === 'ERR_PEER_REVOKED')
    const lifter = await gate.cluster.client('cli_url')
    await lifter.query("DELETE FROM dropgate.revocations WHERE reason = 'optional'")
    await until('lifted', async () => (await ask('/optional/a')).status === 200)
  },
)

t.test('what is open with a token is cut with it; what is anonymous stays', async (t) => {
  gate.port = direct
  const token = await gate.issuer.token('carol')
  const open = (kind: Kind, name: string, as?: string): OpenStream =>
    new OpenStream(kind, name, direct, as, { path: '/optional/streams' })
  const held = [open('events', 'mine', token), open('websocket', 'mine-ws', token)]
  const others = [open('events', 'open'), open('websocket', 'open-ws')]
  await until('all are open', () => [...held, ...others].every((each) => each.under(streams)))
  await insert({ subject: 'carol' })
  await until('cut', () => held.every(({ ended }) => ended !== undefined))
  t.same(
    held.map(({ ended }) => ended),
    ['cut', 1008],
  )
  const bytes = others.map(({ got }) => got.bytes)
  await until('the others go on', () => others.every(({ got }, i) => got.bytes > bytes[i]!))
  for (const each of others) each.stop()
})

t.test('pages: a preflight needs no token, and a cookie needs its origin', async (t) => {
  const preflight = {
    origin: page,
    'access-control-request-method': 'GET',
    'access-control-request-headers': 'authorization',
  }
  t.equal(
    (await ask('/optional/a', undefined, { method: 'OPTIONS', headers: preflight })).status,
    204,
  )
  const cookie = `s=${await gate.issuer.token('alice')}`
  const post = (headers: Record<string, string>): Promise<Walked> =>
    ask('/optional/a', undefined, { method: 'POST', headers: { cookie, ...headers } })
  t.equal((await post({})).code, 'ERR_ORIGIN_NOT_ALLOWED')
  const foreign = await post({ origin: 'https://evil.example' })
  t.equal(foreign.code, 'ERR_ORIGIN_NOT_ALLOWED')
  t.match(await recordOf(foreign), {
    cause: `its Origin is "https://evil.example", expected one of routes[].origins: ["${page}"]`,
  })
  t.equal((await post({ origin: page })).status, 200)
})

t.test(
  'a token in a header of its own is believed from a trusted proxy, and stripped as any other',
  async (t) => {
    const token = await gate.issuer.token('alice')
    const headers = { [iap]: token }
    for (const path of ['/required/a', '/optional/a']) {
      const { status, sent } = await ask(path, undefined, { headers }, behind)
      t.equal(status, 200)
      t.match(sent, { 'x-dropgate-subject': 'alice', 'x-policy-saw': 'a token', [iap]: undefined })
    }
    const kept = await ask('/optional/kept', undefined, { headers }, behind)
    t.match(kept.sent, { [iap]: token })
    t.match(
      (await ask('/optional/a', undefined, { headers: { [iap]: 'x' } }, behind)).code,
      'ERR_TOKEN_MALFORMED',
    )
    // Everyone else may write such a header: it is no credential, and nobody gets it.
    const stranger = await ask('/required/a', undefined, { headers })
    t.same(
      [stranger.status, stranger.code, stranger.headers['www-authenticate']],
      [401, 'ERR_CREDENTIAL_MISSING', 'Bearer'],
    )
    t.match(await recordOf(stranger), {
      cause: `its ${iap} is read from trusted proxies only, and its sender is none`,
    })
    for (const path of ['/optional/a', '/optional/kept', '/none/a', '/none/kept']) {
      const { status, sent } = await ask(path, undefined, { headers })
      t.equal(status, 200, path)
      t.match(
        sent,
        { 'x-dropgate-subject': undefined, 'x-policy-saw': 'no token', [iap]: undefined },
        path,
      )
    }
    // Where no token is read, it ends as an Authorization does.
    t.match((await ask('/none/a', undefined, { headers }, behind)).sent, {
      'x-policy-saw': 'no token',
      [iap]: undefined,
    })
    t.match((await ask('/none/kept', undefined, { headers }, behind)).sent, { [iap]: token })
    t.notMatch(JSON.stringify(gate.log), token.split('.')[2]!, 'no record has it')
  },
)

t.test(
  'one credential only, also beside the one of a proxy; a browser behind it needs its origin',
  async (t) => {
    const token = await gate.issuer.token('alice')
    const twice = async (headers: Record<string, string>, bearer?: string): Promise<void> => {
      const { status, code, sent } = await ask(
        '/optional/a',
        bearer,
        { headers: { [iap]: token, ...headers } },
        behind,
      )
      t.same([status, code, sent], [400, 'ERR_CREDENTIAL_REPEATED', undefined])
    }
    await twice({}, token)
    await twice({ cookie: `s=${token}` })
    gate.port = behind
    const repeated = await gate.raw(
      `GET /optional/a HTTP/1.1\r\nHost: ${host}\r\n${iap}: ${token}\r\n${iap}: ${token}\r\n\r\n`,
    )
    t.match(repeated, /^HTTP\/1\.1 400 [\s\S]*ERR_CREDENTIAL_REPEATED/)
    const post = async (path: string, origin?: string): Promise<string | number> => {
      const headers = { [iap]: token, ...(origin === undefined ? {} : { origin }) }
      const { status, code } = await ask(path, undefined, { method: 'POST', headers }, behind)
      return code ?? status
    }
    const evil = 'https://evil.example'
    t.same(
      [await post('/optional/a'), await post('/optional/a', page), await post('/optional/a', evil)],
      [200, 200, 'ERR_ORIGIN_NOT_ALLOWED'],
    )
  },
)

t.test(
  'where no token is read, the Authorization of the app passes, and one of the gate ends',
  async (t) => {
    const own = `Bearer ${await gate.issuer.token('alice')}`
    for (const value of [
      'Basic YTpi',
      'Bearer ghp_0123',
      'Token x',
      'AWS4-HMAC-SHA256 Credential=x',
    ]) {
      const { status, sent } = await ask('/none/a', undefined, {
        headers: { authorization: value },
      })
      t.match([status, sent], [200, { authorization: value, 'x-dropgate-subject': undefined }])
    }
    const of = async (path: string): Promise<unknown> =>
      (await ask(path, undefined, { headers: { authorization: own } })).sent?.authorization
    t.same([await of('/none/a'), await of('/none/kept')], [undefined, own])
    t.notMatch(JSON.stringify(gate.log), 'ghp_0123', 'no record has it')
  },
)

t.test('beside a token in a cookie, Basic is the app and Bearer a second credential', async (t) => {
  const cookie = `s=${await gate.issuer.token('alice')}; theme=dark`
  const beside = (authorization: string, path: string): Promise<Walked> =>
    ask(path, undefined, { headers: { cookie, authorization } })
  for (const path of ['/required/a', '/optional/a']) {
    const basic = await beside('Basic YTpi', path)
    t.equal(basic.status, 200)
    t.match(basic.sent, { 'x-dropgate-subject': 'alice', authorization: 'Basic YTpi', cookie: 'theme=dark' })
    for (const value of ['Bearer x', 'Bearer\tx', 'bearer']) {
      const { status, code, sent } = await beside(value, path)
      t.same([status, code, sent], [400, 'ERR_CREDENTIAL_REPEATED', undefined], value)
    }
  }
}) // biome-ignore format: short

t.test('a token of 200 groups passes the limits of a gate that nobody has changed', async (t) => {
  const groups = Array.from({ length: 200 }, () => crypto.randomUUID())
  const filler = 'a'.repeat(1000)
  const token = await gate.issuer.token('dora', { claims: { groups, filler } })
  const browser = {
    cookie: `other=${'a'.repeat(4000)}`,
    'user-agent': 'a'.repeat(200),
    accept: 'a'.repeat(200),
  }
  t.ok(token.length > 12_000, `${token.length} characters`)
  t.equal((await ask('/required/a', token, { headers: browser })).status, 200)
  await insert({ group_value: groups[150] })
  await until(
    'one of them is out',
    async () => (await ask('/required/a', token)).code === 'ERR_REVOKED',
  )
})
