/** What counts as a yes, and what the WASM host does when a policy throws, traps or eats memory. */
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { vet } from '../../src/bundle/vet.ts'
import { parseAnswer } from '../../src/policy/answer.ts'
import { PolicyEngine } from '../../src/policy/engine.ts'
import { buildInput, type InputParts, InputPlan } from '../../src/policy/input.ts'
import { readsEverything } from '../../src/policy/input-usage.ts'
import { prepareModule } from '../../src/policy/module.ts'
import { compile, endless } from '../harness/bundle.ts'
import { packageOf as packageBundle } from '../harness/policy.ts'

const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }
const decision = 'gate/authz/decision'

const packageOf = (rego: string, data = {}) => packageBundle(compile(rego, [decision], data))

async function engineOf(rego: string, data = {}, maxMemoryBytes = 64 << 20): Promise<PolicyEngine> {
  const engine = new PolicyEngine({ maxMemoryBytes, evaluationMs: 10_000 })
  await engine.activate(await packageOf(rego, data))
  return engine
}

t.test('only a clear yes is a yes', async (t) => {
  const of = (result: unknown) => parseAnswer(JSON.stringify([{ result }]))
  t.match(of(true), { allowed: true, failure: undefined })
  t.match(of({ allowed: true }), { allowed: true, failure: undefined })
  t.match(of({ decision: true }), { allowed: true, failure: undefined }, 'as AuthZEN answers')
  t.match(of({ decision: true, context: { a: 1 } }), { allowed: true, failure: undefined })
  t.match(of({ decision: false, http_status: 429 }), {
    allowed: false,
    failure: undefined,
    status: 429,
  })
  t.match(of(false), { allowed: false, failure: undefined, status: 403 })
  t.match(parseAnswer('[]'), { allowed: false, failure: undefined, status: 403 })
  t.match(of({ allowed: false, http_status: 429, body: 'slow', headers: { 'Retry-After': '7' }, reason: 'r' }), {
    allowed: false, status: 429, body: 'slow', headers: [['retry-after', '7']], reason: 'r',
  }) // biome-ignore format: short
  t.match(of({ allowed: true, headers: [{ 'x-a': ['1', '2'] }, { 'x-b': '3' }] }), {
    headers: [
      ['x-a', '1'],
      ['x-a', '2'],
      ['x-b', '3'],
    ],
  })
  t.match(of({ allowed: true, headers: { x_user: '1', 'X.Team': '2' }, request_headers_to_remove: ['X_Role'] }), {
    allowed: true, failure: undefined, headers: [['x_user', '1'], ['x.team', '2']], removeHeaders: ['x_role'],
  }) // biome-ignore format: short
  const unusable: unknown[] = [
    'true', 1, null, [], [true], {}, { allowed: 'true' }, { allowed: 1 }, { allow: true }, { decision: 'true' }, { decision: 1 }, { decision: null }, { decision: { allowed: true } },
    { allowed: true, decision: true }, { allowed: false, decision: true }, { allowed: true, decision: false }, { allowed: null, decision: true }, { allowed: true, decision: null }, { allowed: true, headers: 'x' },
    { allowed: true, headers: { 'x-a': 1 } }, { allowed: true, headers: { 'x-a': 'a\r\nb: c' } }, { allowed: true, headers: { 'x-a': 'é' } },
    { allowed: true, headers: { 'x a': '1' } }, { allowed: true, headers: { 'X-Dropgate-Subject': 'root' } },
    { allowed: true, headers: { x_dropgate_subject: 'root' } }, { allowed: true, headers: { Host: 'evil' } },
    { allowed: true, headers: { 'x.dropgate.subject': 'root' } }, { allowed: true, headers: { 'x!dropgate_subject': 'root' } }, { allowed: true, response_headers_to_add: { x_dropgate_decision_id: '1' } },
    { allowed: true, headers: { x_forwarded_for: '1' } }, { allowed: true, headers: { content_length: '1' } }, { allowed: true, headers: { proxy_authorization: 'x' } },
    { allowed: true, request_headers_to_remove: ['x_dropgate_subject'] }, { allowed: true, headers: { 'x(a)': '1' } }, { allowed: true, headers: { '': '1' } },
    { allowed: true, headers: { 'x-forwarded-for': '1' } }, { allowed: true, headers: { 'content-length': '1' } },
    { allowed: true, body: 7 }, { allowed: true, reason: {} }, { allowed: false, http_status: 200 }, { allowed: false, http_status: '403' },
    { allowed: false, http_status: 403.5 }, { allowed: false, http_status: 100 }, { allowed: true, response_headers_to_add: 1 }, { allowed: true, response_headers_to_add: { te: 'x' } },
    { allowed: true, request_headers_to_remove: {} }, { allowed: true, request_headers_to_remove: [1] }, { allowed: true, request_headers_to_remove: ['host'] },
    { allowed: true, query_parameters_to_set: [] }, { allowed: true, query_parameters_to_set: { a: 1 } }, { allowed: true, query_parameters_to_set: { a: ['b', null] } },
    { allowed: true, query_parameters_to_remove: 'a' }, { allowed: true, query_parameters_to_remove: [true] }, { allowed: true, dynamic_metadata: [] },
  ] // biome-ignore format: a table
  for (const result of unusable)
    t.match(
      of(result),
      { allowed: false, failure: 'ERR_POLICY_FAILED', status: 503 },
      JSON.stringify(result),
    )
  for (const text of [
    '',
    '{',
    '[{"result":true},{"result":true}]',
    '[{"result":true,"x":1}]',
    'true',
  ]) {
    t.match(parseAnswer(text), { allowed: false, failure: 'ERR_POLICY_FAILED' }, text)
  }
})

t.test('an instance that threw thousands of times keeps answering rightly', async (t) => {
  const engine = await engineOf(`
    decision := true if input.who == "alice"
    decision := false if input.who == "clash"
    decision := true if input.who == "clash"`)
  const policy = engine.current()!
  for (let i = 0; i < 3000; i++) {
    t.equal(policy.decide(decision, '{"who":"clash"}').failure, 'ERR_POLICY_FAILED')
    if (i % 500 === 0) {
      t.equal(policy.decide(decision, '{"who":"alice"}').allowed, true)
      t.equal(policy.decide(decision, '{"who":"bob"}').allowed, false)
    }
  }
  t.equal(policy.decide(decision, '{"who":"alice"}').allowed, true)
})

t.test('input that is not JSON, or an entrypoint that is not there, denies', async (t) => {
  const policy = (await engineOf('decision if input.who')).current()!
  t.match(policy.decide(decision, '{"who":'), { allowed: false })
  t.match(policy.decide('gate/authz/other', '{}'), { allowed: false, failure: 'ERR_POLICY_FAILED' })
  t.equal(policy.decide(decision, '{"who":1}').allowed, true)
})

t.test(
  'a policy that eats its memory denies, and the next evaluation is right again',
  async (t) => {
    const rego = `
    decision := true if input.small
    decision := true if {
      not input.small
      all := [concat("", [a, b, c]) | some a in data.xs; some b in data.xs; some c in data.xs]
      count(all) > 0
    }`
    const xs = Array.from({ length: 200 }, (_, i) => `a long text that is repeated ${i}`)
    const policy = (await engineOf(rego, { xs }, 16 << 20)).current()!
    for (let i = 0; i < 3; i++) {
      t.match(policy.decide(decision, '{}'), { allowed: false, failure: 'ERR_POLICY_FAILED' })
      t.equal(policy.decide(decision, '{"small":true}').allowed, true)
    }
    const large = JSON.stringify({ small: true, x: 'y'.repeat(32 << 20) })
    t.match(
      policy.decide(decision, large),
      { allowed: false, failure: 'ERR_POLICY_FAILED' },
      'input over the cap',
    )
    t.equal(policy.decide(decision, '{"small":true}').allowed, true)
  },
)

t.test('nothing of one evaluation is left for the next', async (t) => {
  const policy = (await engineOf('decision := {"allowed": true, "reason": input.x}')).current()!
  for (let i = 0; i < 2000; i++) {
    const x = `${i} ${'é'.repeat(i % 300)}`
    t.equal(policy.decide(decision, JSON.stringify({ x })).reason, x)
  }
})

t.test('a trial run refuses a policy that could not decide, and says why', async (t) => {
  const tried = async (
    rego: string,
    data = {},
    decisions = [decision],
    {
      evaluationMs = 60_000,
      timeoutMs = 3000,
      dataMs,
    }: { evaluationMs?: number; timeoutMs?: number; dataMs?: number } = {},
  ): Promise<{ code: string; message: string } | undefined> => {
    const { data: text, ...policy } = await packageOf(rego, data)
    const limits = { maxMemoryBytes: 64 << 20, evaluationMs }
    try {
      await vet({ policy, data: text, ...limits, decisions }, timeoutMs, dataMs)
      return undefined
    } catch (error) {
      return error as { code: string; message: string }
    }
  }
  const runaway = 'decision if contains(data.text, data.part)'
  t.equal(await tried('default decision := false\ndecision if input.principal'), undefined)
  t.match(await tried('decision := true'), {
    code: 'ERR_BUNDLE_TRIAL',
    message: /allows a request with an empty input/,
  })
  t.match(await tried('decision := {"allowed": "yes"}'), {
    code: 'ERR_BUNDLE_TRIAL',
    message: /allowed is a string, not a boolean; it answered \{"allowed":"yes"\}/,
  })
  t.match(await tried('decision if input.principal', {}, ['gate/authz/other']), {
    code: 'ERR_BUNDLE_POLICY',
    message: /no entrypoint gate\/authz\/other/,
  })
  t.match(
    await tried('decision if http.send({"method": "get", "url": "http://x"}).status_code == 200'),
    { code: 'ERR_BUNDLE_POLICY', message: /http\.send/ },
  )
  t.match(await tried('decision if input.principal', {}, [decision], { dataMs: 0 }), {
    code: 'ERR_BUNDLE_LIMITS',
    message: /reading its data \(0\.0 MiB\) took longer than 0 ms/,
  })
  t.match(await tried(runaway, endless), {
    code: 'ERR_BUNDLE_TRIAL',
    message: /longer than 3000 ms/,
  })
  t.match(await tried(runaway, endless, [decision], { evaluationMs: 25, timeoutMs: 60_000 }), {
    code: 'ERR_BUNDLE_TRIAL',
    message: /^gate\/authz\/decision: the evaluation took longer than 25 ms/,
    hint: /policy\.evaluation_timeout/,
  })
})

t.test('a module that opa would not make is refused', async (t) => {
  const { wasm } = await readArchive(compile('decision := true'), limits)
  const bad: [name: string, bytes: Uint8Array][] = [
    ['empty', new Uint8Array()],
    ['another format', Buffer.from('hello world, this is no module')],
    ['cut off', wasm.subarray(0, wasm.length / 2)],
    ['the smallest module', Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0])],
    [
      'a section longer than the file',
      Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0x0f]),
    ],
  ]
  for (const [name, bytes] of bad) {
    t.throws(() => new WebAssembly.Module(prepareModule(bytes).bytes), name)
  }
  for (let i = 0; i < 500; i++) {
    const bytes = Buffer.from(wasm.subarray(0, 2000))
    bytes[8 + ((i * 7919) % 1900)]! ^= 1 << (i % 8)
    try {
      prepareModule(bytes)
    } catch (error) {
      t.equal((error as { code: string }).code, 'ERR_BUNDLE_POLICY')
    }
  }
})

t.test('the input keeps its contract, and no secret of it is logged', async (t) => {
  const parts: InputParts = {
    requestId: 'id', method: 'GET', path: '/a/b%20c?x=1&x=2&y&z=a+b%21', host: 'h', scheme: 'http',
    protocol: 'HTTP/1.1', headers: ['host', 'h', 'cookie', 'a=1', 'accept', 'x', 'accept', 'y', 'cookie', 'b=2', 'authorization', 'Bearer secret', 'x-api-key', 'secret', '__proto__', '"\\'],
    size: -1, sourceAddress: '1.2.3.4', sourcePort: 5, destinationAddress: '6.7.8.9', destinationPort: 80, parsedPath: ['a', 'b c'], query: 'x=1&x=2&y&z=a+b%21',
    routeJson: '{"name":"r","labels":{"l":"1"}}', labelsJson: '{"l":"1"}', principal: { json: '{"subject":"alice","claims":{"n":12345678901234567890,"x":[1]}}' }, bodyWithheld: false,
  } // biome-ignore format: a table
  const state = {
    timeRfc3339: '2026-01-01T00:00:00.000Z',
    body: undefined,
    feedStale: false,
    feedAgeMs: 12,
  }
  const everything = new InputPlan(readsEverything.input)
  const { text, logged, erased } = buildInput(parts, state, everything)
  const input = JSON.parse(text)
  t.same(
    input.attributes.request.http.headers,
    JSON.parse(
      '{"host":"h","accept":"x, y","__proto__":"\\"\\\\","cookie":"a=1; b=2","authorization":"Bearer secret","x-api-key":"secret"}',
    ),
  )
  t.same(input.header_values.accept, ['x', 'y'])
  t.same(input.parsed_query, { x: ['1', '2'], y: [''], z: ['a b!'] })
  t.same(input.parsed_path, ['a', 'b c'])
  t.match(input, {
    attributes: {
      source: { address: { socketAddress: { address: '1.2.3.4', portValue: 5 } } },
      contextExtensions: { l: '1' },
      request: { http: { path: parts.path, size: -1 } },
    },
    principal: { subject: 'alice' },
    route: { name: 'r' },
    feed: { stale: false, age_ms: 12 },
    grants: [],
  })
  t.notMatch(logged, /secret|a=1/)
  t.same(JSON.parse(logged).principal, input.principal)
  t.ok(erased.includes('/input/attributes/request/http/headers/authorization'))
  t.ok(erased.includes('/input/header_values/cookie'))

  const query = 'x=1&access_token=secret&a/b~token=secret&access%5Ftoken=secret'
  const referer = ['referer', 'https://h/?code=secret']
  const asked = buildInput({ ...parts, headers: referer, path: `/a?${query}`, query }, state, everything)
  t.same(JSON.parse(asked.text).parsed_query, { x: ['1'], access_token: ['secret', 'secret'], 'a/b~token': ['secret'] })
  const seen = JSON.parse(asked.logged)
  t.same(seen.parsed_query, { x: ['1'] })
  t.equal(seen.attributes.request.http.path, '/a?x=1&access_token=***&a/b~token=***&access%5Ftoken=***')
  t.notMatch(asked.logged, /secret/)
  t.same(asked.erased, ['/input/attributes/request/http/headers/referer', '/input/header_values/referer', '/input/parsed_query/access_token', '/input/parsed_query/a~1b~0token'])
  t.same(asked.masked, ['/input/attributes/request/http/path', '/input/sent_target'])
}) // biome-ignore format: tables
