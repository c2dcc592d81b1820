/** The object of OPA's Envoy plugin, both ways over the wire: what the upstream gets, what the client gets, what is logged. */
import t from 'tap'
import { compile } from '../harness/bundle.ts'
import { type DecisionEvent, TestGate } from '../harness/gate.ts'
import { ok } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'

const gate = await TestGate.start({
  bundle: null,
  ready: false,
  // One answer is a text of 9,000 characters, made anew for each request.
  config: { policy: { evaluation_timeout: '10s' } },
  routes: [
    { name: 'orders', path: '/orders' },
    { name: 'shared', path: '/shared', cors: { origins: ['https://app.example'] } },
  ],
})
t.teardown(() => gate.stop())
gate.put(
  compile(`
    default decision := false
    answers := {
      "up": {"allowed": true, "headers": [{"x-team": ["blue", "green"]}, {"x-set": "1"}], "request_headers_to_remove": ["X-Secret", "x-set", "authorization"]},
      "down": {"allowed": true, "response_headers_to_add": {"content-type": "text/html", "x-rate": "7", "set-cookie": ["a=1", "b=2"]}},
      "cors": {"allowed": true, "response_headers_to_add": {"access-control-allow-origin": "*", "x-rate": "7"}},
      "set": {"allowed": true, "query_parameters_to_set": {"user": "al ice&x", "role": ["a", "b"]}},
      "remove": {"allowed": true, "query_parameters_to_remove": ["debug", "a[]"]},
      "both": {"allowed": true, "query_parameters_to_set": {"debug": "1", "x": "2"}, "query_parameters_to_remove": ["debug"]},
      "long": {"allowed": true, "query_parameters_to_set": {"x": concat("", [c | some i in numbers.range(1, 9000); c := substring("abcdefghij", i % 10, 1)])}},
      "login": {"allowed": false, "http_status": 302, "headers": {"location": "https://login.example/"}},
      "basic": {"allowed": false, "http_status": 401, "headers": {"www-authenticate": "Basic"}, "body": "who?"},
      "only": {"allowed": true, "query_parameters_to_remove": [name | some name, _ in input.parsed_query; name != "ok"]},
      "fresh": {"allowed": true, "query_parameters_to_set": {name: "new" | some name, _ in input.parsed_query; name != "ok"}},
      "noted": {"allowed": true, "dynamic_metadata": {"team": "blue"}, "more": 1},
    }
    decision := answers[input.parsed_path[1]] if input.principal`),
)
await until('ready', () => gate.gate.readiness().ready)
const token = await gate.issuer.token('alice')
const ask = (target: string, headers = {}) => gate.ask(`/orders/${target}`, token, { headers })
const eventOf = async (target: string): Promise<DecisionEvent> => {
  const of = (event: DecisionEvent): boolean =>
    (event.input as { attributes?: { request: { http: { path: string } } } } | undefined)
      ?.attributes?.request.http.path === `/orders/${target}`
  await until('it is logged', () => gate.log.some(of))
  return gate.log.find(of)!
}

t.test('the upstream gets what is set, by overwrite, and nothing of what is removed', async (t) => {
  await ask('up', { 'x-team': 'red', 'x-secret': 's', 'x-other': 'o' })
  const { headers } = gate.upstream.seen.at(-1)!
  t.same(
    headers.filter(([name]) => ['x-team', 'x-secret', 'x-set', 'x-other'].includes(name)),
    [
      ['x-other', 'o'],
      ['x-team', 'blue'],
      ['x-team', 'green'],
    ],
  )
})

t.test('headers that the policy adds overwrite those of the answer, but for cookies', async (t) => {
  gate.upstream.answer = (socket) => {
    socket.write(
      'HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-type: text/plain\r\nset-cookie: c=3\r\n\r\n',
    )
  }
  const { headers } = await ask('down')
  t.equal(headers['content-type'], 'text/html')
  t.equal(headers['x-rate'], '7')
  t.same(headers['set-cookie'], ['c=3', 'a=1', 'b=2'])
})

t.test('who may read is said by the rules of the route, not by the policy', async (t) => {
  const origin = 'https://app.example'
  const answer = await gate.ask('/shared/cors', token, { headers: { origin } })
  t.same(
    [answer.headers['access-control-allow-origin'], answer.headers['x-rate']],
    [origin, '7'],
    'once, and not twice',
  )
})

t.test('a 204 has no Content-Length', async (t) => {
  gate.upstream.answer = (socket) =>
    socket.write('HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nx-a: 1\r\n\r\n')
  t.teardown(() => {
    gate.upstream.answer = ok
  })
  const { status, headers } = await ask('noted')
  t.same([status, headers['content-length'], headers['x-a']], [204, undefined, '1'])
})

t.test('a query is set, removed or kept byte for byte; what was sent is logged', async (t) => {
  const sent = async (target: string): Promise<string> => {
    const { status } = await ask(target)
    t.equal(status, 200, target)
    return gate.upstream.seen.at(-1)!.target
  }
  t.equal(
    await sent('set?user=bob&b=%2f+%7e&%75ser=eve&role'),
    '/orders/set?b=%2f+%7e&role=a&role=b&user=al%20ice%26x',
  )
  t.equal(await sent('remove?debug=1&de%62ug&a%5B%5D=1&c=1&c'), '/orders/remove?c=1&c')
  t.equal(await sent('remove?debug'), '/orders/remove')
  t.equal(await sent('both?debug=0&y'), '/orders/both?y&x=2')
  t.equal(await sent('only?ok=1&evil%ff=2'), '/orders/only?ok=1', 'a name that is not UTF-8')
  t.equal(
    await sent('only?%c0%af&ok=%ff+%e2%82&%ed%a0%80=%2f&o%6b&%ff'),
    '/orders/only?ok=%ff+%e2%82&o%6b',
    'what is kept may hold any bytes',
  )
  t.equal(
    await sent('remove?evil%ff=2&debug=1&+%fe'),
    '/orders/remove?evil%ff=2&+%fe',
    'and so may names that are not removed',
  )
  t.equal(await sent('fresh?ok=1&evil%ff=2&evil%fe'), '/orders/fresh?ok=1&evil%EF%BF%BD=new')
  t.equal((await eventOf('both?debug=0&y')).custom.sent_target, '/orders/both?y&x=2')
  const seen = gate.upstream.seen.length
  t.same([(await ask('long')).status, (await ask('long')).code], [503, 'ERR_POLICY_FAILED'])
  t.equal(gate.upstream.seen.length, seen, 'a target over the limit is not sent')
})

t.test('a denial has the policy’s own words, and its metadata is in the log', async (t) => {
  const login = await ask('login')
  t.same([login.status, login.headers.location], [302, 'https://login.example/'])
  const basic = await ask('basic')
  t.same([basic.status, basic.headers['www-authenticate'], basic.body], [401, 'Basic', 'who?'])
  t.equal((await ask('noted')).status, 200, 'fields of the policy’s own are no fault')
  t.same((await eventOf('noted')).custom.dynamic_metadata, { team: 'blue' })
})
