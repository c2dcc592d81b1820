/** For authors: their tests on two engines, a request decided without a gate, typos in `input` found before a build. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import t from 'tap'
import { findOpa } from '../../src/bundle/opa.ts'
import { testPolicies } from '../../src/bundle/policy-tests.ts'
import { evaluate } from '../../src/cli/eval.ts'
import { buildInput, type InputParts, InputPlan } from '../../src/policy/input.ts'
import { readsEverything } from '../../src/policy/input-usage.ts'
import { compile } from '../harness/bundle.ts'

const root = process.cwd()
const route = { name: 'a', path: '/a', auth: 'none', upstream: 'http://127.0.0.1:1' }
const folder = mkdtempSync(join(tmpdir(), 'dropgate-authors-'))
t.teardown(() => rmSync(folder, { recursive: true }))
const maxMemoryBytes = 64 << 20

function policies(name: string, files: Record<string, string>): string {
  mkdirSync(join(folder, name))
  for (const [file, text] of Object.entries(files)) writeFileSync(join(folder, name, file), text)
  return join(folder, name)
}

const rules = `package gate.authz

default decision := false

decision if input.principal.subject == data.who

decision if now < 5

now := time.now_ns()
`

t.test('tests run on opa and on the gate’s engine, mocks included', async (t) => {
  const path = policies('good', {
    'rules.rego': rules,
    'data.json': '{"who": "alice"}',
    'rules_test.rego': `package gate.authz_test

import data.gate.authz

test_alice if authz.decision with input as {"principal": {"subject": "alice"}}

test_bob if not authz.decision with input as {"principal": {"subject": "bob"}}

test_other_data if authz.decision with input as {"principal": {"subject": "bob"}} with data.who as "bob"

test_early if authz.decision with input as {} with time.now_ns as 4

test_wrong if authz.decision with input as {}

todo_test_later if false
`,
  })
  const report = await testPolicies({ policies: path, root, maxMemoryBytes })
  const verdicts = report.tests.map(({ name, opa, engine }) => [
    name.split('/').at(-1),
    opa,
    engine,
  ])
  t.same(verdicts.sort(), [
    ['test_alice', 'pass', 'pass'],
    ['test_bob', 'pass', 'pass'],
    ['test_early', 'pass', 'pass'],
    ['test_other_data', 'pass', 'pass'],
    ['test_wrong', 'fail', 'fail'],
    ['todo_test_later', 'skip', 'skip'],
  ])
  t.equal(report.passed, false)
  t.equal(report.coverage, undefined, 'not measured where a test fails')
})

t.test('the starter policy passes on both, with all of it covered', async (t) => {
  const report = await testPolicies({ policies: 'policies', root, maxMemoryBytes })
  t.match(report, { passed: true, coverage: 100 })
})

t.test('a test that only the gate’s engine refuses is reported', async (t) => {
  const path = policies('refused', {
    'r.rego':
      'package r\n\ncode := http.send({"method": "get", "url": "http://127.0.0.1:1", "raise_error": false}).status_code\n',
    'r_test.rego': 'package r_test\n\nimport data.r\n\ntest_code if r.code == 0\n',
  })
  const { tests, passed } = await testPolicies({ policies: path, root, maxMemoryBytes })
  t.match(tests, [{ opa: 'pass', engine: 'fail', message: /http\.send/ }])
  t.equal(passed, false)
  const empty = policies('empty', { 'r.rego': 'package r\n\nx := 1\n' })
  await t.rejects(testPolicies({ policies: empty, root, maxMemoryBytes }), {
    code: 'ERR_OPA',
    message: /no test/,
  })
})

t.test('a rule that no test reaches is named', async (t) => {
  const path = policies('half', {
    'r.rego': 'package r\n\nx if input.parsed_path == ["a"]\n\ny if input.parsed_path == ["b"]\n',
    'r_test.rego':
      'package r_test\n\nimport data.r\n\ntest_x if r.x with input as {"parsed_path": ["a"]}\n',
  })
  const args = ['src/main.ts', 'test', path, '--threshold', '90']
  const { status, stdout } = spawnSync('node', args, { encoding: 'utf8' })
  t.equal(status, 1)
  t.match(stdout, /coverage is below --threshold 90; no test reaches \S+r\.rego:5\n/)
})

t.test('a misspelt field of the input is found', async (t) => {
  const path = policies('typo', {
    'r.rego': 'package r\n\nx if input.attributes.request.http.methd == "GET"\n',
    'r_test.rego': 'package r_test\n\nimport data.r\n\ntest_x if not r.x\n',
  })
  const { findings, passed } = await testPolicies({ policies: path, root, maxMemoryBytes })
  t.equal(passed, true)
  t.match(findings, [
    { kind: 'input', file: /r\.rego$/, row: 3, message: /methd.*did you mean \S+\.method\?/ },
  ])
})

t.test('sources of an older opa are tested by its syntax', async (t) => {
  const path = policies('old', {
    'r.rego': 'package r\n\nx { input.parsed_path == ["a"] }\n',
    'r_test.rego':
      'package r_test\n\nimport data.r\n\ntest_x { r.x with input as {"parsed_path": ["a"]} }\n',
  })
  const options = { policies: path, root, maxMemoryBytes }
  await t.rejects(testPolicies(options), {
    code: 'ERR_OPA',
    message: /r(?:_test)?\.rego:\d/,
    hint: /--v0-compatible/,
  })
  t.match(await testPolicies({ ...options, v0: true }), {
    passed: true,
    tests: [{ engine: 'pass' }],
  })
})

const parts: InputParts = {
  requestId: '1', method: 'GET', path: '/a?b=1', host: 'h', scheme: 'http', protocol: 'HTTP/1.1',
  headers: ['host', 'h', 'accept', 'a', 'accept', 'b'], size: 3, bodyWithheld: false,
  sourceAddress: '1', sourcePort: 1, destinationAddress: '2', destinationPort: 2, parsedPath: ['a'], query: 'b=1', sentTarget: '/v1/a?b=1',
  routeJson: '{"name":"r","labels":{"a":"b"}}', labelsJson: '{"a":"b"}',
  principal: { json: '{"issuer":"i","subject":"s","session_id":"x","token_id":"y","client_id":"z","tenant":"t","scopes":["a"],"issued_at":1,"expires_at":2,"claims":{"x":{"y":1}}}' },
} // biome-ignore format: a table

t.test('the schema of the input is the input', async (t) => {
  const { $schema: _, ...schema } = JSON.parse(readFileSync('schemas/input.json', 'utf8'))
  const check = new Ajv({ strict: false }).compile(schema)
  const { text } = buildInput(
    parts,
    {
      timeRfc3339: '2026-01-01T00:00:00.000Z',
      body: { quoted: '"{}"', parsed: '{}' },
      feedStale: false,
      feedAgeMs: 1,
    },
    new InputPlan(readsEverything.input),
  )
  const input = JSON.parse(text)
  t.ok(check(input), JSON.stringify(check.errors))
  t.same(Object.keys(input).sort(), Object.keys(schema.properties).sort())
  // And it takes a rule for each field.
  const typed = join(folder, 'typed.rego')
  writeFileSync(
    typed,
    'package r\n\nx if input.parsed_body.a.b == 1\n\ny if input.principal.claims.a.b == 1\n\nz if input.attributes.request.http.headers["x-a"] == "1"\n',
  )
  execFileSync(findOpa(root), ['check', '--strict', '--schema', 'schemas/input.json', typed])
})

t.test('eval takes a request in flags, or a whole input', async (t) => {
  const config = join(folder, 'dropgate.yaml')
  const bundle = join(folder, 'b.tar.gz')
  writeFileSync(
    bundle,
    compile(
      'default decision := false\ndecision := {"allowed": true, "reason": "small"} if { input.principal.claims.team == "blue"; input.parsed_body.n < 5; input.attributes.request.http.headers["x-a"] == "1" }\ndecision := {"allowed": false, "http_status": 429} if input.parsed_query.slow',
    ),
  )
  writeFileSync(
    config,
    JSON.stringify({
      database: 'embedded',
      policy: { bundles: '.' },
      routes: [route],
    }),
  )
  const none = {
    bundle,
    decision: undefined,
    input: undefined,
    method: 'GET',
    path: '/a',
    host: 'localhost',
    headers: [],
    body: undefined,
    subject: undefined,
    claims: undefined,
  }
  const asked = {
    ...none,
    method: 'POST',
    headers: ['X-A: 1'],
    body: '{"n":4}',
    claims: '{"team":"blue"}',
  }
  t.match(await evaluate(config, asked), {
    allowed: true,
    status: 200,
    reason: 'small',
    code: undefined,
  })
  t.match(await evaluate(config, { ...asked, body: '{"n":5}' }), {
    allowed: false,
    status: 403,
    code: 'ERR_POLICY_DENIED',
    result: false,
  })
  t.match(await evaluate(config, { ...none, path: '/a?slow' }), { allowed: false, status: 429 })
  t.ok((await evaluate(config, none)).evaluation_us > 0)
  await t.rejects(evaluate(config, { ...asked, body: '{"n":4,"n":5}' }), {
    code: 'ERR_BODY_MALFORMED',
  })
  await t.rejects(evaluate(config, { ...none, path: '/b' }), { code: 'ERR_ROUTE_NOT_FOUND' })
  await t.rejects(evaluate(config, { ...none, method: 'FOO' }), { code: 'ERR_METHOD_UNKNOWN' })
  const readers = { ...route, methods: ['GET', 'HEAD'] }
  writeFileSync(join(folder, 'readers.yaml'), JSON.stringify({ routes: [readers] }))
  await t.rejects(evaluate(join(folder, 'readers.yaml'), { ...none, method: 'POST' }), {
    code: 'ERR_METHOD_NOT_ALLOWED',
  })
  await t.rejects(evaluate(config, { ...none, claims: '[]' }), { code: 'ERR_USAGE' })
  await t.rejects(evaluate(config, { ...none, path: 'a' }), {
    message: '--path a does not begin with /',
  })
  await t.rejects(evaluate(config, { ...none, decision: 'x/y' }), { message: /no entrypoint x/ })
  await t.rejects(evaluate(config, { ...none, input: join(folder, 'nix') }), { message: /ENOENT/ })
  await t.rejects(evaluate(config, { ...none, input: bundle }), { message: /is not JSON/ })
  const input = join(folder, 'input.json')
  writeFileSync(
    input,
    '{"principal":{"claims":{"team":"blue"}},"parsed_body":{"n":1},"attributes":{"request":{"http":{"headers":{"x-a":"1"}}}}}',
  )
  t.match(await evaluate(config, { ...none, input }), { allowed: true })
  const said = spawnSync(
    'node',
    ['src/main.ts', 'eval', '--config', config, '--bundle', bundle, '--path', '/a?slow', '--json'],
    { encoding: 'utf8' },
  )
  t.equal(said.status, 0, said.stderr)
  t.match(JSON.parse(said.stdout), {
    allowed: false,
    status: 429,
    input: { parsed_query: { slow: [''] } },
  })
})
