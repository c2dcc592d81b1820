/** Bodies that a policy reads: taken whole, decided on, forwarded byte for byte; whatever is doubtful never gets there. */
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { ok } from '../harness/upstream.ts'
import { pause, until } from '../harness/wait.ts'
import { Wire } from '../harness/wire.ts'

const gate = await TestGate.start({
  bundle: null,
  ready: false,
  config: { limits: { policy_body: '2KiB', policy_body_timeout: '2s' } },
  issuer: { clock_skew: '0s' },
  routes: [
    { name: 'orders', path: '/orders' },
    { name: 'finish', path: '/finish', on_expiry: 'let-finish' },
    { name: 'uploads', path: '/uploads', policy_body: 'withhold' },
  ],
})
t.teardown(() => gate.stop())
gate.put(
  compile(`
    default decision := false
    decision if input.parsed_body.amount < 100
    decision if input.parsed_body.amount == 9007199254740993
    decision if input.parsed_body.amount == ["7"]
    decision if { input.attributes.request.http.method == "GET"; input.parsed_body == null }
    decision if { input.route.name == "uploads"; input.truncated_body; input.parsed_body == null }`),
)
await until('ready', () => gate.gate.readiness().ready)
const token = await gate.issuer.token('alice')
const json = { 'content-type': 'application/json' }
const post = (body: string | Buffer, headers: Record<string, string> = json, path = '/orders') =>
  gate.ask(path, token, { method: 'POST', body, headers })

t.test('the policy sees the body, and exactly those bytes go on', async (t) => {
  for (const [body, headers] of [
    [' {"amount" : 5.0, "é": "\\ud83d\\ude00" }\n', json],
    ['{"amount":9007199254740993}', { 'content-type': 'Application/JSON; charset="UTF-8"' }],
    ['{"amount":1}', { 'content-type': 'application/merge-patch+json' }],
    ['amount=7&b=%20', { 'content-type': 'application/x-www-form-urlencoded' }],
    ['{"amount":1,"x":{"Amount":"\\\\u0000"}}', json],
    ['{"amount":1}', { ...json, expect: '100-continue' }],
  ] as [string, Record<string, string>][]) {
    const { status } = await post(body, headers)
    t.equal(status, 200, body)
    const seen = gate.upstream.seen.at(-1)!
    t.equal(Buffer.from(seen.body, 'latin1').toString(), body)
    t.equal(seen.complete, true)
  }
  t.equal((await gate.ask('/orders', token)).status, 200, 'no body is null')
  const chunked = await gate.raw(
    `POST /orders HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"amount\r\n4\r\n":2}\r\n0\r\n\r\n`,
  )
  t.match(chunked, /^HTTP\/1\.1 200/)
  const seen = gate.upstream.seen.at(-1)!
  t.equal(seen.body, '{"amount":2}')
  t.same(
    seen.headers.filter(([name]) => name === 'content-length'),
    [['content-length', '12']],
  )
})

t.test('a body that is not allowed, or that can be read in two ways, is refused', async (t) => {
  const before = gate.upstream.seen.length
  const deep = `${'['.repeat(40)}${']'.repeat(40)}`
  const cases: [what: string, body: string | Buffer, headers: Record<string, string>, status: number, code: string][] = [
    ['against the rule', '{"amount":100}', json, 403, 'ERR_POLICY_DENIED'],
    ['a number next to one that may', '{"amount":9007199254740992}', json, 403, 'ERR_POLICY_DENIED'],
    ['a key twice', '{"amount":1,"amount":100}', json, 400, 'ERR_BODY_MALFORMED'],
    ['a key twice, once escaped', '{"amount":1,"\\u0061mount":100}', json, 400, 'ERR_BODY_MALFORMED'],
    ['a key twice, deeper', '{"amount":1,"x":[{"a":1,"a":2}]}', json, 400, 'ERR_BODY_MALFORMED'],
    ['lone surrogates that become one key', '{"amount":1,"\\ud800":1,"\\udfff":2}', json, 400, 'ERR_BODY_MALFORMED'],
    ['a key in another case', '{"amount":1,"Amount":100}', json, 400, 'ERR_BODY_MALFORMED'],
    ['a key with a letter that folds to one', '{"kind":1,"amount":1,"\u212aind":2}', json, 400, 'ERR_BODY_MALFORMED'],
    ['NUL in a key', '{"amount":1,"amount\\u0000":100}', json, 400, 'ERR_BODY_MALFORMED'],
    ['NUL in a value', '{"amount":1,"x":"a\\u0000b"}', json, 400, 'ERR_BODY_MALFORMED'],
    ['a lone surrogate', '{"amount":1,"x":"\\ud800"}', json, 400, 'ERR_BODY_MALFORMED'],
    ['NUL in a form', 'amount=7&amount%00=100', { 'content-type': 'application/x-www-form-urlencoded' }, 400, 'ERR_BODY_MALFORMED'],
    ['no JSON', '{"amount":1', json, 400, 'ERR_BODY_MALFORMED'],
    ['more than JSON', '{"amount":1}x', json, 400, 'ERR_BODY_MALFORMED'],
    ['a byte order mark', '\ufeff{"amount":1}', json, 400, 'ERR_BODY_MALFORMED'],
    ['not UTF-8', Buffer.from('{"amount":1,"x":"\xff"}', 'latin1'), json, 400, 'ERR_BODY_MALFORMED'],
    ['too deep', `{"amount":1,"x":${deep}}`, json, 400, 'ERR_BODY_MALFORMED'],
    ['a huge number', '{"amount":1,"x":1e999999999}', json, 400, 'ERR_BODY_MALFORMED'],
    ['too many keys', `{"amount":1${Array.from({ length: 257 }, (_, i) => `,"${i}":1`).join('')}}`, json, 400, 'ERR_BODY_MALFORMED'],
    ['too large', `{"amount":1,"x":"${'x'.repeat(3000)}"}`, json, 413, 'ERR_BODY_TOO_LARGE'],
    ['encoded', gzipSync('{"amount":1}'), { ...json, 'content-encoding': 'gzip' }, 415, 'ERR_BODY_TYPE'],
    ['no type', '{"amount":1}', {}, 415, 'ERR_BODY_TYPE'],
    ['another type', '{"amount":1}', { 'content-type': 'text/plain' }, 415, 'ERR_BODY_TYPE'],
    ['a type with garbage', '{"amount":1}', { 'content-type': 'application/json\tx' }, 415, 'ERR_BODY_TYPE'],
    ['another charset', '{"amount":1}', { 'content-type': 'application/json; charset=utf-7' }, 415, 'ERR_BODY_TYPE'],
    ['a form that is none', 'amount=%ff', { 'content-type': 'application/x-www-form-urlencoded' }, 400, 'ERR_BODY_MALFORMED'],
  ] // biome-ignore format: a table
  for (const [what, body, headers, status, code] of cases) {
    const answer = await post(body, headers)
    t.same([answer.status, answer.code], [status, code], what)
  }
  t.equal(gate.upstream.seen.length, before, 'nothing of it went upstream')
})

t.test('a body that does not come ends at its own deadline', async (t) => {
  const head = `POST /orders HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\n`
  t.match(await gate.raw(`${head}Content-Length: 12\r\n\r\n{"amount"`, 1500), /^HTTP\/1\.1 408/)
  t.match(await gate.raw(`${head}Content-Length: 5000\r\n\r\n`), /^HTTP\/1\.1 413/)
  t.match(
    await gate.raw(`${head}Transfer-Encoding: chunked\r\n\r\nfff\r\n${'x'.repeat(4095)}\r\n`),
    /^HTTP\/1\.1 413/,
  )
})

t.test('a body that the route withholds streams past the policy, which is told so', async (t) => {
  const body = 'x'.repeat(100_000)
  t.equal((await post(body, { 'content-type': 'text/plain' }, '/uploads')).status, 200)
  t.equal(gate.upstream.seen.at(-1)!.body.length, body.length)
})

t.test('bodies are not logged', async (t) => {
  await post('{"amount":3,"password":"hunter2"}')
  await until('it is logged', () =>
    gate.log.some(({ erased }) => erased?.includes('/input/parsed_body')),
  )
  t.notMatch(JSON.stringify(gate.log), /hunter2/)
})

t.test('an open exchange is decided again with its body, as the new policy reads it', async (t) => {
  const generation = (): number =>
    (gate.gate.status() as { policy: { generation: number } }).policy.generation
  const swapped = async (rego: string): Promise<void> => {
    const before = generation()
    gate.put(compile(rego))
    await until(
      'the policy is in force',
      () => generation() > before && gate.gate.readiness().ready,
    )
  }
  await swapped(`
    default decision := false
    decision if contains(input.attributes.request.http.body, "amount")`)
  const finish: (() => void)[] = []
  gate.upstream.answer = (socket) => {
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok')
    finish.push(() => socket.write('ok'))
  }
  const stays = post('{"amount":1}')
  const ends = post('{"amount":2}')
  await until('both are open', () => finish.length === 2)
  await swapped('default decision := false\ndecision if input.parsed_body.amount == 1')
  t.equal((await ends).complete, false)
  for (const end of finish) end()
  t.same([(await stays).status, (await stays).complete], [200, true])
  gate.upstream.answer = ok
})

t.test('the limit of all bodies holds for those that the policy reads too', async (t) => {
  const small = await TestGate.start({
    bundle: null,
    ready: false,
    config: { limits: { policy_body: '2KiB', body_bytes: '1KiB' } },
  })
  t.teardown(() => small.stop())
  small.put(compile('default decision := false\ndecision if input.parsed_body.amount == 1'))
  await until('ready', () => small.gate.readiness().ready)
  const alice = await small.issuer.token('alice')
  const chunked = (bytes: number): Promise<string> => {
    const body = `{"amount":1,"x":"${'x'.repeat(bytes)}"}`
    return small.raw(
      `POST /orders HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ${alice}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
    )
  }
  t.match(await chunked(900), /^HTTP\/1\.1 200/)
  t.match(await chunked(1500), /^HTTP\/1\.1 413/)
})

t.test('a token that expires while its body comes lets nothing through', async (t) => {
  const body = '{"amount":1}'
  for (const path of ['/orders', '/finish']) {
    gate.upstream.seen.length = 0
    const exp = Date.now() / 1000 + 0.25
    const short = await gate.issuer.token('alice', { claims: { exp } })
    const wire = await Wire.open(gate.port)
    wire.write(
      `POST ${path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${short}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 5)}`,
    )
    await until('it has expired', () => Date.now() > exp * 1000 + 20)
    wire.write(body.slice(5))
    const answer = await wire.answer()
    t.same([answer?.status, answer?.code], [401, 'ERR_TOKEN_EXPIRED'], path)
    await pause(100)
    t.equal(gate.upstream.seen.length, 0, path)
  }
})

t.test('a policy that reads no body takes any upload, and denies before it comes', async (t) => {
  await gate.activate(
    compile(`
      default decision := false
      decision if startswith(input.attributes.request.http.path, "/orders/pub")
      decision if "reader" in input.principal.claims.roles`),
  )
  gate.upstream.answer = (socket, seen) => {
    void until('the body has come', () => seen.complete).then(() => ok(socket, seen))
  }
  const upload = Buffer.alloc(5 << 20, 'x')
  const type = { 'content-type': 'text/plain' }
  const { status, complete } = await post(upload, type, '/orders/pub')
  t.same([status, complete], [200, true])
  t.equal(gate.upstream.seen.at(-1)!.body.length, upload.length)
  const png = Buffer.from('89504e470d0a1a0a0000000d49484452ff', 'hex')
  t.equal((await post(png, { 'content-type': 'image/png' }, '/orders/pub')).status, 200)
  t.equal(gate.upstream.seen.at(-1)!.body, png.toString('latin1'))
  const head = `POST /orders HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ${token}\r\nContent-Length: 9\r\n`
  const answer = await gate.raw(`${head}Expect: 100-continue\r\n\r\n`)
  t.match(answer, /^HTTP\/1\.1 403/, 'the denial comes before the body, without 100 Continue')
  const { policy } = gate.gate.status() as { policy: { bodies: object; warnings: string[] } }
  t.same(policy.bodies, { 'gate/authz/decision': 'not read' })
  t.same(policy.warnings, [])
})
