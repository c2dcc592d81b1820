/** What operators see, and how a gate ends. */
import { statSync } from 'node:fs'
import { Agent } from 'node:http'
import { join } from 'node:path'
import t from 'tap'
import { Gate } from '../../src/gate/gate.ts'
import { TestGate } from '../harness/gate.ts'
import { PostgresProxy } from '../harness/postgres.ts'
import { pause, until } from '../harness/wait.ts'

t.test('the admin port needs its token for all but liveness and readiness', async (t) => {
  const gate = await TestGate.start({ config: { labels: { region: 'eu' } } })
  t.teardown(() => gate.stop())
  const get = (path: string, authorization?: string): Promise<Response> =>
    fetch(`${gate.admin}${path}`, authorization === undefined ? {} : { headers: { authorization } })
  t.equal((await get('/livez')).status, 200)
  t.same(await (await get('/readyz')).json(), { ready: true, reasons: [], warnings: [] })
  for (const path of ['/metrics', '/v1/status']) {
    for (const wrong of [
      undefined,
      'Bearer',
      'Bearer x',
      `Basic ${gate.adminToken}`,
      `Bearer ${gate.adminToken}x`,
    ]) {
      t.equal((await get(path, wrong)).status, 401, `${path} ${wrong}`)
    }
    t.equal((await get(path, `Bearer ${gate.adminToken}`)).status, 200)
  }
  t.equal(statSync(join(gate.folder, 'admin.token')).mode & 0o777, 0o600)

  const token = await gate.issuer.token('alice')
  for (let i = 0; i < 3; i++) await gate.ask('/orders', token)
  await gate.ask('/orders')
  await gate.ask('/nowhere')
  const text = await (await get('/metrics', `Bearer ${gate.adminToken}`)).text()
  const value = (series: string): number =>
    Number(
      text
        .split('\n')
        .find((line) => line.startsWith(`${series} `))
        ?.split(' ')[1],
    )
  t.equal(value('dropgate_requests_total{code="allowed"}'), 3)
  t.equal(value('dropgate_requests_total{code="ERR_CREDENTIAL_MISSING"}'), 1)
  t.equal(value('dropgate_requests_total{code="ERR_ROUTE_NOT_FOUND"}'), 1)
  t.equal(value('dropgate_ready'), 1)
  t.equal(value('dropgate_policy_evaluation_seconds_count'), 3)
  t.equal(value('dropgate_policy_evaluation_seconds_bucket{le="+Inf"}'), 3)
  t.ok(value('dropgate_feed_age_seconds') < 5)
  for (const line of text.trimEnd().split('\n'))
    t.match(line, /^(?:# (?:HELP|TYPE) \w+ .+|\w+(?:\{\w+="[^"]*"\})? (?:[\d.e+-]+|\+Inf))$/)

  const status = (await (await get('/v1/status', `Bearer ${gate.adminToken}`)).json()) as Record<
    string,
    unknown
  >
  t.match(status, {
    ready: true,
    policy: { name: 'gate', code: null },
    issuers: [{ keys: 1 }],
    ledger: { rows: 0 },
    workers: [{ listening: true }, { listening: true }],
  })
  t.notMatch(JSON.stringify(status), /password|postgres:\/\//)

  await until('five records', () => gate.log.length === 5)
  t.match(gate.log.find(({ custom }) => custom.decision === 'allow'), {
    labels: { region: 'eu', id: /^[0-9a-f-]{36}$/ }, decision_id: /^[0-9a-f-]{36}$/, type: 'openpolicyagent.org/decision_logs', bundles: { gate: { revision: /./ } },
    path: 'gate/authz/decision', input: { principal: { subject: 'alice' } }, result: { allowed: true, reason: 'role clerk' }, requested_by: '127.0.0.1',
    timestamp: /^\d{4}-/, custom: { route: 'orders', subject: 'alice', reason: 'role clerk', worker: Number, feed_age_ms: Number },
    erased: ['/input/attributes/request/http/headers/authorization'],
  }) // biome-ignore format: a table
  t.match(
    gate.log.find(({ custom }) => custom.code === 'ERR_ROUTE_NOT_FOUND'),
    { input: { attributes: { source: { address: { socketAddress: { address: '127.0.0.1' } } }, request: { http: { method: 'GET', path: '/nowhere', host: `127.0.0.1:${gate.port}` } } } } },
  ) // biome-ignore format: a table
  const targets = [
    `/orders?access_token=${token}&x=1`,
    `/orders?x=Bearer%20${token}`,
    `/orders/${token}`,
  ]
  for (const target of targets) {
    const headers = { 'x-note': `was ${token}` }
    t.equal((await gate.ask(target, token, { headers })).status, 200)
  }
  await until('three more', () => gate.log.length === 8)
  const logged = JSON.stringify(gate.log)
  for (const path of ['/orders?access_token=***&x=1', '/orders?x=Bearer%20***', '/orders/***'])
    t.ok(logged.includes(`"path":"${path}"`), path)
  t.same(
    gate.log.flatMap(({ masked }) => masked ?? []),
    ['/input/attributes/request/http/path'],
  )
  t.notOk(logged.includes(token.split('.')[2]!))
})

t.test('until the database has answered no request passes, and readiness says why', async (t) => {
  const gate = await TestGate.start({
    ready: false,
    databaseUrl: async (url) => url.replace(/:\d+\//, ':1/'),
  })
  t.teardown(() => gate.stop())
  await gate.waitsFor('the revocations are not loaded (ERR_DATABASE_UNREACHABLE)')
  const answer = await gate.ask('/orders', await gate.issuer.token('alice'))
  t.same([answer.status, answer.code, answer.headers['retry-after']], [503, 'ERR_NOT_READY', '1'])
  t.equal((await gate.ask('/public')).code, 'ERR_NOT_READY', 'without a token as well')
  t.match((gate.gate.status() as { feed: object }).feed, { code: 'ERR_DATABASE_UNREACHABLE' })
})

t.test('tokens of an issuer whose keys never came wait, and other requests pass', async (t) => {
  const gate = await TestGate.start()
  t.teardown(() => gate.stop())
  gate.issuer.down = true
  const second = await TestGate.start({
    config: {
      issuers: [
        { issuer: 'http://127.0.0.1:1', audience: ['api'] },
        { issuer: gate.issuer.url, audience: ['api'] },
      ],
    },
  })
  t.teardown(() => second.stop())
  t.equal(
    (await second.ask('/orders', await gate.issuer.token('alice'))).code,
    'ERR_KEYS_UNAVAILABLE',
  )
  t.equal((await second.ask('/public')).status, 200)
  gate.issuer.down = false
  const token = await gate.issuer.token('alice')
  await until(
    'keys have come',
    async () => (await second.ask('/orders', token)).status === 200,
    40_000,
  )
})

t.test('a second gate on the same port is refused with a sentence', async (t) => {
  const gate = await TestGate.start()
  t.teardown(() => gate.stop())
  const listen = { host: '127.0.0.1', port: gate.port }
  const config = gate.configure({ config: { listen } }, gate.cluster.url)
  const quiet = { info: () => {}, warn: () => {}, error: () => {} }
  await t.rejects(new Gate(config, { log: quiet }).open(), {
    code: 'ERR_LISTEN',
    message: /the port is in use/,
  })
  t.equal((await gate.ask('/public')).status, 200)
})

t.test('in a drain open exchanges end in peace, and new connections are not kept', async (t) => {
  const gate = await TestGate.start({ config: { workers: 1, drain_timeout: '6s' } })
  const token = await gate.issuer.token('alice')
  let finish = (): void => {}
  gate.upstream.answer = (socket, { target }) => {
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no')
    if (target === '/orders/long') finish = () => socket.write('k')
    else socket.write('k')
  }
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.equal((await gate.ask('/orders', token, { agent })).headers.connection, 'keep-alive')
  const long = gate.ask('/orders/long', token)
  await until('it is open', () =>
    gate.upstream.seen.some(({ target }) => target === '/orders/long'),
  )
  const closed = gate.gate.close()
  await pause(50)
  const meanwhile = await gate.ask('/orders', token)
  t.same(
    [meanwhile.status, meanwhile.headers.connection],
    [200, 'close'],
    'still accepted, asked to leave',
  )
  finish()
  t.same([(await long).body, (await long).complete], ['ok', true])
  await closed
  await t.rejects(gate.ask('/orders', token), { code: 'ECONNREFUSED' })
  agent.destroy()
  await gate.stop()
})

t.test('a drain that takes too long ends what is left', async (t) => {
  const gate = await TestGate.start({ config: { drain_timeout: '300ms' } })
  gate.upstream.answer = (socket) =>
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf')
  const long = gate.ask('/orders', await gate.issuer.token('alice'))
  await until('it is open', () => gate.upstream.seen.length === 1)
  await gate.gate.close()
  t.equal((await long).complete, false)
  await gate.stop()
})

t.test('comparisons that do not happen are a warning of a gate that is ready', async (t) => {
  const proxy = new PostgresProxy()
  proxy.admits = (data) => !data.includes('dropgate verify')
  const gate = await TestGate.start({
    databaseUrl: (url) => proxy.open(url),
    config: { revocation: { verify: '20ms' } },
  })
  t.teardown(async () => {
    await gate.stop()
    proxy.close()
  })
  const get = async (path: string): Promise<Response> =>
    await fetch(`${gate.admin}${path}`, { headers: { authorization: `Bearer ${gate.adminToken}` } })
  const warnings = ['comparisons of the revocations with the database do not happen, see the log']
  await until('the warning', async () => {
    const answer = (await (await get('/readyz')).json()) as { warnings: string[] }
    return answer.warnings.length > 0
  })
  const answer = await get('/readyz')
  t.equal(answer.status, 200)
  t.same(await answer.json(), { ready: true, reasons: [], warnings })
  t.match(await (await get('/v1/status')).json(), {
    ready: true,
    warnings,
    feed: { comparisons_overdue: true, comparison_age_ms: Number },
  })
  const metrics = await (await get('/metrics')).text()
  t.match(metrics, /^dropgate_feed_comparisons_overdue 1$/m)
  t.match(metrics, /^dropgate_feed_comparison_age_seconds \d/m)
  t.match(metrics, /^dropgate_feed_comparisons_total\{result="failed"\} \d/m)
  t.ok(gate.logged.some(({ message }) => /no longer compared/.test(message)))
})

t.test('a token costs one signature check, on the other workers of the gate too', async (t) => {
  const gate = await TestGate.start()
  t.teardown(() => gate.stop())
  const results = async (): Promise<Record<string, number>> => {
    const headers = { authorization: `Bearer ${gate.adminToken}` }
    const text = await (await fetch(`${gate.admin}/metrics`, { headers })).text()
    const found = text.matchAll(/^dropgate_token_cache_total\{result="(\w+)"\} (\d+)$/gm)
    return Object.fromEntries([...found].map(([, name, value]) => [name!, Number(value)]))
  }
  let tokens = 0
  await until('another worker had a token that the first has checked', async () => {
    const token = await gate.issuer.token(`user-${tokens++}`)
    // Each on a connection of its own, which the kernel gives to one worker or the other.
    for (let i = 0; i < 6; i++) await gate.ask('/orders', token)
    return (await results()).shared! > 5
  })
  const { miss, hit, shared } = await results()
  t.equal(hit! + shared! + miss!, 6 * tokens)
  // A worker knows a signature by the key that made it, and each key first verifies one itself.
  t.ok(miss! <= tokens + 1, `${miss} checks of ${tokens} tokens`)
})
