/** Routes whose upstream has another path or host than its clients see, or is a socket; preflights that pass. */
import { rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import t from 'tap'
import { compile } from '../harness/bundle.ts'
import { type DecisionEvent, TestGate } from '../harness/gate.ts'
import { ok, type Seen } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'

const open = { auth: 'none' }
const socketPath = `/tmp/dropgate-paths-${process.pid}.sock`
const both = { strip_prefix: true, base_path: '/v1/a%20b' }
const policy = `
default decision := false

decision := {"allowed": allowed, "query_parameters_to_set": {"by": "policy"}} if input.parsed_query.add
decision := allowed if not input.parsed_query.add

default allowed := false
allowed if { input.route.name != "secret"; input.route.name != "cors" }
allowed if { input.route.name == "secret"; not startswith(input.sent_target, "/v1/admin"); input.parsed_path[0] == "secret" }
allowed if { input.route.name == "cors"; input.attributes.request.http.method == "OPTIONS"; not input.principal }
allowed if { input.route.name == "cors"; input.principal }
`
const gate = await TestGate.start({
  config: { workers: 1 },
  bundle: null,
  prepare: (folder) => writeFileSync(join(folder, 'bundles', 'gate.tar.gz'), compile(policy)),
  routes: [
    { name: 'plain', path: '/', ...open },
    { name: 'strip', path: '/app', ...open, strip_prefix: true, encoded_slashes: 'pass', matrix_parameters: 'pass' },
    { name: 'deep', path: '/a/b', ...open, strip_prefix: true },
    { name: 'base', path: '/base', ...open, base_path: '/v1' },
    { name: 'both', path: '/both', ...open, ...both },
    { name: 'exact', path: '=/exact', ...open, strip_prefix: true },
    { name: 'secret', path: '/secret', ...open, strip_prefix: true, base_path: '/v1' },
    { name: 'named', path: '/named', ...open, forward: { host: 'app.internal:8080' } },
    { name: 'upstream', path: '/upstream', ...open, strip_prefix: true, forward: { host: 'upstream' } },
    { name: 'socket', path: '/socket', ...open, upstream: `unix:${socketPath}`, strip_prefix: true },
    { name: 'away', path: '/away', ...open, upstream: 'unix:/nonexistent/app.sock' },
    { name: 'cors', path: '/cors', preflight: 'pass', methods: ['GET'] },
    { name: 'closed', path: '/closed' },
  ],
}) // biome-ignore format: a table
t.teardown(() => gate.stop())
t.beforeEach(() => {
  gate.upstream.seen.length = 0
  gate.upstream.answer = ok
})
const host = `127.0.0.1:${gate.port}`

const headerOf = (seen: Seen | undefined, name: string): string[] =>
  (seen?.headers ?? []).filter(([each]) => each === name).map(([, value]) => value)

async function recorded(seen: Seen | undefined): Promise<DecisionEvent> {
  const [id] = headerOf(seen, 'x-dropgate-decision-id')
  const find = (): DecisionEvent | undefined => gate.log.find((each) => each.decision_id === id)
  await until('the record', () => find() !== undefined)
  return find()!
}

t.test('a prefix is cut off, and a base path put in front, by whole segments', async (t) => {
  const table: [asked: string, sent: string][] = [
    ['/app', '/'], ['/app/', '/'], ['/app?a=/app', '/?a=/app'], ['/app/x', '/x'], ['/app/app/', '/app/'], ['/%61pp/x', '/x'],
    ['/app/%2Fx', '/%2Fx'], ['/app/a%2fb', '/a%2Fb'], ['/app;v=1/x;w=2', '/x;w=2'], ['/application', '/application'], ['/app%2Fx', '/app%2Fx'],
    ['/a/b', '/'], ['/a/b/c/d?q', '/c/d?q'], ['/a/bc', '/a/bc'],
    ['/base', '/v1/base'], ['/base/x?a=1', '/v1/base/x?a=1'],
    ['/both', '/v1/a%20b'], ['/both/', '/v1/a%20b/'], ['/both/x', '/v1/a%20b/x'],
    ['/exact', '/'], ['/exact?a', '/?a'], ['/upstream/x', '/x'],
  ] // biome-ignore format: a table
  for (const [asked, sent] of table) {
    gate.upstream.seen.length = 0
    const { status } = await gate.ask(asked)
    // What no prefix covers is the other route's, which passes no encoded slash.
    if (asked === '/app%2Fx') t.equal(status, 400)
    else t.same([status, gate.upstream.seen[0]?.target], [200, sent], asked)
  }
  for (const asked of ['/app/../x', '/app/%2e%2e/x', '/app//x', '/app/..;/x', '/app/%2F../x'])
    t.equal((await gate.ask(asked)).status, 400, asked)
})

t.test(
  'the policy sees both targets, the log too, and the upstream is told the prefix',
  async (t) => {
    t.equal((await gate.ask('/secret/orders?token=abc')).status, 200)
    const [seen] = gate.upstream.seen
    t.same(headerOf(seen, 'x-forwarded-prefix'), ['/secret'])
    const event = await recorded(seen)
    t.equal(event.custom.sent_target, '/v1/orders?token=***')
    t.match(event.input, { parsed_path: ['secret', 'orders'], sent_target: '/v1/orders?token=***' })
    t.equal((await gate.ask('/secret/admin')).status, 403, 'by what is sent')
    await until('the record', () => gate.log.some(({ custom }) => custom.status === 403))
    const denied = gate.log.find(({ custom }) => custom.status === 403)!
    t.match(denied.input, { sent_target: '/v1/admin' })
    t.notOk('sent_target' in denied.custom, 'nothing was sent')
    t.equal((await gate.ask('/both/x?add=1')).status, 200)
    t.equal(gate.upstream.seen.at(-1)!.target, '/v1/a%20b/x?add=1&by=policy')
    t.equal((await gate.ask('/plain')).status, 200)
    const plain = await recorded(gate.upstream.seen.at(-1))
    t.match(plain.input, { sent_target: '/plain' }, 'never absent for a rule')
    t.notOk('sent_target' in plain.custom)
    t.same(headerOf(gate.upstream.seen.at(-1), 'x-forwarded-prefix'), [])
  },
)

t.test(
  'Location and cookie paths are those of clients, where they are the upstream’s own',
  async (t) => {
    const { origin } = gate.upstream
    const own = origin.slice('http://'.length)
    const table: [path: string, header: string, told: string, value: string][] = [
    ['/app/x', 'Location', '/login?next=/x', '/app/login?next=/x'], ['/app/x', 'Location', '/', '/app/'], ['/app/x', 'Location', 'login', 'login'],
    ['/app/x', 'Location', '?a=1', '?a=1'], ['/app/x', 'Location', `${origin}/login#a`, '/app/login#a'], ['/app/x', 'Location', origin, '/app/'],
    ['/app/x', 'Location', `http://${host}/login`, '/app/login'], ['/app/x', 'Location', `https://${host}/login`, '/app/login'],
    ['/app/x', 'Location', `//${host}/login`, '/app/login'], ['/app/x', 'Location', 'https://other.example/login', 'https://other.example/login'],
    ['/app/x', 'Location', '//other.example/login', '//other.example/login'], ['/app/x', 'Location', `http://${own}.evil/x`, `http://${own}.evil/x`],
    ['/app/x', 'Location', `http://${own}@evil/x`, `http://${own}@evil/x`], ['/app/x', 'Location', '', ''], ['/app/x', 'Content-Location', '/x.json', '/app/x.json'],
    ['/base/x', 'Location', '/v1/base/y', '/base/y'], ['/base/x', 'Location', '/v1', '/'], ['/base/x', 'Location', '/v12', '/v12'], ['/base/x', 'Location', '/other', '/other'],
    ['/base/x', 'Location', '/v1//evil.example', '/v1//evil.example'], ['/base/x', 'Location', '/v1/\\evil.example', '/v1/\\evil.example'],
    ['/base/x', 'Location', '/v1/\t/evil.example', '/v1/\t/evil.example'], ['/named/x', 'Location', 'http://app.internal:8080//evil.example', 'http://app.internal:8080//evil.example'],
    ['/app/x', 'Location', '//evil.example', '//evil.example'], ['/app/x', 'Location', `${origin}//evil.example`, '/app//evil.example'],
    ['/both/x', 'Location', '/v1/a%20b/y', '/both/y'], ['/both/x', 'Location', '/v1/a%20b', '/both'],
    ['/named/x', 'Location', 'http://app.internal:8080/named/y', '/named/y'], ['/named/x', 'Location', `${origin}/named/y`, '/named/y'],
    ['/upstream/x', 'Location', `${origin}/y`, '/upstream/y'], ['/plain/x', 'Location', `${origin}/y`, `${origin}/y`], ['/plain/x', 'Location', '/y', '/y'],
    ['/app/x', 'Set-Cookie', 'a=1; Path=/; HttpOnly', 'a=1; Path=/app; HttpOnly'], ['/app/x', 'Set-Cookie', 'a=/; path=/x', 'a=/; path=/app/x'],
    ['/app/x', 'Set-Cookie', 'a=1', 'a=1'], ['/app/x', 'Set-Cookie', '__Host-a=1; Secure; Path=/', '__Host-a=1; Secure; Path=/'],
    ['/both/x', 'Set-Cookie', 'a=1; Path=/v1/a%20b', 'a=1; Path=/both'], ['/both/x', 'Set-Cookie', 'a=1; Path=/else; Secure', 'a=1; Path=/else; Secure'],
    ['/base/x', 'Set-Cookie', 'a=1; Path=/v1/', 'a=1; Path=/'], ['/plain/x', 'Set-Cookie', 'a=1; Path=/x', 'a=1; Path=/x'],
    ['/app/x', 'X-Other', '/x', '/x'],
  ] // biome-ignore format: a table
    for (const [path, header, told, value] of table) {
      gate.upstream.answer = (socket) =>
        void socket.write(`HTTP/1.1 302 Found\r\n${header}: ${told}\r\ncontent-length: 0\r\n\r\n`)
      const { headers } = await gate.ask(path)
      const [got] = [headers[header.toLowerCase()]].flat()
      t.equal(got, value, `${path} ${header}: ${told}`)
    }
  },
)

t.test('the upstream gets the host that its route says', async (t) => {
  const { origin } = gate.upstream
  for (const [path, sent] of [
    ['/plain', host],
    ['/named/x', 'app.internal:8080'],
    ['/upstream/x', origin.slice('http://'.length)],
  ] as const) {
    t.equal((await gate.ask(path)).status, 200)
    const seen = gate.upstream.seen.at(-1)
    t.same(headerOf(seen, 'host'), [sent], path)
    t.same(headerOf(seen, 'x-forwarded-host'), [host])
    t.same(headerOf(seen, 'x-forwarded-port'), [String(gate.port)])
  }
})

t.test('an upstream behind a Unix socket', async (t) => {
  rmSync(socketPath, { force: true })
  const server = createServer((req, res) => {
    let body = ''
    req.on('data', (chunk) => {
      body += chunk
    })
    req.on('end', () => res.end(`${req.method} ${req.url} ${req.headers.host} ${body}`))
  })
  await new Promise<void>((resolve) => server.listen(socketPath, resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  t.equal((await gate.ask('/socket/x?a')).body, `GET /x?a ${host} `)
  const posted = await gate.ask('/socket/y', undefined, { method: 'POST', body: 'hi' })
  t.equal(posted.body, `POST /y ${host} hi`)
  t.equal((await gate.ask('/away')).code, 'ERR_UPSTREAM_UNREACHABLE')
})

t.test('a preflight passes on a route that says so, as far as the policy allows', async (t) => {
  gate.upstream.answer = (socket) =>
    void socket.write(
      'HTTP/1.1 204 No Content\r\naccess-control-allow-origin: https://page.example\r\n\r\n',
    )
  const headers = { origin: 'https://page.example', 'access-control-request-method': 'PUT' }
  const preflight = await gate.ask('/cors/x', undefined, { method: 'OPTIONS', headers })
  t.same(
    [preflight.status, preflight.headers['access-control-allow-origin']],
    [204, 'https://page.example'],
  )
  t.same(headerOf(gate.upstream.seen[0], 'x-dropgate-subject'), [])
  const { origin } = headers
  const refused: [string, number, object][] = [
    ['no Origin', 405, { method: 'OPTIONS', headers: { 'access-control-request-method': 'PUT' } }],
    ['no preflight', 405, { method: 'OPTIONS', headers: { origin } }],
    ['another method', 401, { method: 'GET', headers }],
    ['a body', 405, { method: 'OPTIONS', headers: { ...headers, 'content-length': '1' }, body: 'x' }],
    ['a credential', 405, { method: 'OPTIONS', headers: { ...headers, authorization: 'Bearer x' } }],
    ['another credential', 401, { method: 'OPTIONS', headers: { ...headers, authorization: 'Basic x' } }],
  ] // biome-ignore format: a table
  for (const [name, status, asked] of refused)
    t.equal((await gate.ask('/cors/x', undefined, asked)).status, status, name)
  t.equal((await gate.ask('/closed/x', undefined, { method: 'OPTIONS', headers })).status, 401)
  t.equal(gate.upstream.seen.length, 1)
  gate.upstream.answer = ok
  t.equal((await gate.ask('/cors/x', await gate.issuer.token('alice'))).status, 200)
})
