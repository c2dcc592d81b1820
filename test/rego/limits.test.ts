/** What a builtin is asked for too much of ends the evaluation, soon; what is wrong is undefined; the world is pinned. */
import { createHmac } from 'node:crypto'
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { prepareModule } from '../../src/policy/module.ts'
import { Evaluation, type Result } from '../../src/rego/evaluation.ts'
import { builtins, explainMissing, refused } from '../../src/rego/registry.ts'
import { bytesOf, textOf } from '../../src/rego/values/bytes.ts'
import { native, resolved } from '../harness/builtins.ts'
import { compile } from '../harness/bundle.ts'

const quote = JSON.stringify
const call = (name: string, ...args: string[]) => new Evaluation().call(name, args)

/** A term's text, not the bytes of a string. */
const text = (result: Result): string => {
  if (typeof result !== 'string') throw new Error(`not a term: ${result}`)
  return result
}

const many = (count: number, each: (i: number) => string): string =>
  Array.from({ length: count }, (_, i) => each(i)).join(',')
const complete = `{${many(14, (i) => `"${i}":[${many(14, (k) => `"${k}"`)}]`)}}`
const bomb = `a: &a [x,x,x,x,x,x,x,x,x,x]\n${many(9, (i) => i.toString()).split(',').map((i) => {
  const [name, from] = [String.fromCharCode(98 + Number(i)), String.fromCharCode(97 + Number(i))]
  return `${name}: &${name} [${many(10, () => `*${from}`)}]\n`
}).join('')}` // biome-ignore format: one expression
const loop = '{"$ref":"#"}'
const wide = quote('a'.repeat(3_000_000))

const tooMuch: [name: string, ...args: string[]][] = [
  ['net.cidr_expand', '"10.0.0.0/8"'],
  ['net.cidr_expand', '"::/0"'],
  ['net.cidr_contains_matches', `[${many(2000, () => '"10.0.0.0/8"')}]`, `[${many(2000, () => '"10.0.0.1"')}]`],
  ['numbers.range_step', '0', '1000000000000', '1'],
  ['numbers.range_step', '0', '1e300', '1'],
  ['numbers.range', '0', '1000000000'],
  ['bits.lsh', '1', '1e12'],
  ['product', `[${many(20_000, () => '1e300')}]`],
  ['plus', '1e40000', '0.5'],
  ['strings.replace_n', `{${many(5000, (i) => `"k${i}":"v"`)}}`, quote('a'.repeat(20_000))],
  ['glob.match', quote('[a-z]*'.repeat(900)), '[]', '"a"'],
  ['regex.match', quote('(a|b)'.repeat(900)), '"a"'],
  ['graph.reachable_paths', complete, '["0"]'],
  ['regex.find_n', quote('a'.repeat(5000)), '"a"', '-1'],
  ['regex.split', '"(a|aa)+$"', quote('a'.repeat(30_000_000))],
  ['regex.replace', quote('a'.repeat(300_000)), '"(.*x|a)"', quote('b'.repeat(1000))],
  ['regex.globs_match', quote('[a-z]*b*'.repeat(600)), quote('[a-z]*c*'.repeat(600))],
  ['sprintf', quote('%999999d'.repeat(20)), `[${many(20, (i) => String(i))}]`],
  ['units.parse', '"1e999999"'],
  ['units.parse_bytes', '"1e-999999"'],
  ['time.parse_duration_ns', quote(`${'1'.repeat(100_000)}y`)],
  ['time.format', `[0,"",${quote('2006'.repeat(1000))}]`],
  ['json.patch', '{}', `[${many(5000, () => '{"op":"add","path":"/a","value":1}')}]`],
  ['json.match_schema', '{}', loop],
  ['json.match_schema', '{}', '{"format":"idn-email"}'],
  ['json.marshal_with_options', `[${many(1000, () => '1')}]`, `{"indent":${quote(' '.repeat(100_000))}}`],
  ['object.subset', `[${many(9000, () => '1')}]`, `[${many(4500, () => '1')},2]`],
  ['yaml.unmarshal', wide],
  ['graphql.parse_query', quote(`{${'a '.repeat(6000)}}`)],
  ['strings.render_template', quote('{{range .a}}{{range $.a}}{{range $.a}}x{{end}}{{end}}{{end}}'), `{"a":[${many(200, () => '1')}]}`],
  ['strings.render_template', quote('{{define "x"}}{{end}}'), '{}'],
] // biome-ignore format: a table

t.test('too much work ends the evaluation', async (t) => {
  for (const [name, ...args] of tooMuch) {
    const began = process.cpuUsage()
    t.throws(
      () => call(name, ...args),
      { code: 'ERR_POLICY_FAILED' },
      `${name} ${args[0]!.slice(0, 40)}`,
    )
    const { user } = process.cpuUsage(began)
    t.ok(user < 3_000_000, `${name} took ${user} µs`)
  }
})

const undefinedCalls: [name: string, ...args: string[]][] = [
  ['yaml.unmarshal', quote(bomb)],
  ['json.match_schema', '{}', '{"$ref":"http://localhost/schema"}'],
  ['json.match_schema', quote('['.repeat(5000)), '{}'],
  ['io.jwt.decode', quote(`${Buffer.from('['.repeat(20_000)).toString('base64url')}.e30.`)],
  ['io.jwt.decode', '"a.b"'],
  ['io.jwt.decode_verify', '"a.b.c"', '{"secret":"s","nonsense":1}'],
  ['regex.split', '"("', '"a"'],
  ['hex.decode', '"0g"'],
  ['time.parse_ns', '"2006"', '"x"'],
  ['time.date', '[0,"+01:00"]'],
  ['time.date', '9223372036854775808'],
  ['sprintf', '1', '[]'],
  ['crypto.x509.parse_certificates', quote(Buffer.from([0x30, 0x84, 255, 255, 255, 255]).toString('base64'))],
  ['crypto.x509.parse_certificates', '"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----"'],
] // biome-ignore format: a table

t.test('a call whose arguments are wrong is undefined', async (t) => {
  for (const [name, ...args] of undefinedCalls) t.equal(call(name, ...args), undefined, name)
})

t.test('patterns that backtracking engines die of take no time', async (t) => {
  const began = process.cpuUsage()
  t.equal(call('regex.find_n', '"(a+)+$"', quote(`${'a'.repeat(10_000)}b`), '-1'), '[]')
  t.equal(call('regex.replace', quote('a'.repeat(10_000)), '"(a|a?)+b"', '"x"')?.length, 10_002)
  t.ok(process.cpuUsage(began).user < 3_000_000)
})

t.test(
  'the world answers once for each evaluation, and is recorded where it is no secret',
  async (t) => {
    const one = new Evaluation()
    for (const [name, ...args] of [
      ['time.now_ns'],
      ['uuid.rfc4122', '"a"'],
      ['rand.intn', '"a"', '1000000000'],
    ]) {
      t.equal(one.call(name!, args), one.call(name!, args), name!)
    }
    t.not(one.call('uuid.rfc4122', ['"a"']), one.call('uuid.rfc4122', ['"b"']))
    const key = '{"kty":"oct","k":"c2VjcmV0"}'
    const signed = text(one.call('io.jwt.encode_sign', ['{"alg":"HS256"}', '{}', key]))
    t.ok(signed)
    const recorded = one.ndBuiltinCache
    t.same([...recorded.keys()].sort(), ['rand.intn', 'time.now_ns', 'uuid.rfc4122'])
    t.notMatch([...recorded].join(), /c2VjcmV0/)
    t.equal(one.call('io.jwt.verify_hs256', [signed, '"secret"']), 'true')
    t.equal(one.call('io.jwt.verify_hs256', [signed, '"other"']), 'false')
    const before = one.call('uuid.rfc4122', ['"a"'])
    one.reset()
    t.equal(one.ndBuiltinCache.size, 0)
    t.not(one.call('uuid.rfc4122', ['"a"']), before)
  },
)

t.test('a public key is never taken for a secret, and `alg: none` never verifies', async (t) => {
  const pem =
    '-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----'
  const forged = text(new Evaluation().call('io.jwt.encode_sign', [
    '{"alg":"HS256"}', '{"sub":"root"}', `{"kty":"oct","k":"${Buffer.from(pem).toString('base64url')}"}`,
  ])) // biome-ignore format: one call
  const none = quote(`${Buffer.from('{"alg":"none"}').toString('base64url')}.e30.`)
  const denied = '[false,{},{}]'
  t.equal(call('io.jwt.decode_verify', forged, `{"cert":${quote(pem)}}`), denied)
  t.equal(call('io.jwt.decode_verify', none, `{"cert":${quote(pem)}}`), denied)
  t.equal(call('io.jwt.decode_verify', none, '{"secret":"s"}'), denied)
  t.equal(call('io.jwt.decode_verify', forged, '{"secret":""}'), undefined)
})

t.test('bytes that are no text survive being decoded, hashed and encoded', async (t) => {
  for (const hex of ['ff', '00ff80', 'c3', 'c3a9', 'eda080', 'f09d849e', 'e282']) {
    t.equal(bytesOf(textOf(Buffer.from(hex, 'hex'))).toString('hex'), hex)
  }
})

t.test(
  'every builtin of OPA is native, provided, refused or resolved, and only one of these',
  async (t) => {
    const all = [...native, ...builtins.keys(), ...Object.keys(refused), ...resolved]
    t.equal(new Set(all).size, all.length)
    t.equal(all.length, 206)
    t.match(explainMissing('http.send'), /^http\.send \(a decision never waits/)
    t.equal(explainMissing('custom.lookup'), 'custom.lookup')
  },
)

t.test('bytes that are no text cross between the module and a builtin', async (t) => {
  const key = 'ff00fe80c3'
  const bundle = compile(`decision := {
    "encoded": hex.encode(hex.decode("${key}")),
    "native": hex.encode(base64.decode(input.key)),
    "same": hex.decode("${key}") == base64.decode(input.key),
    "mac": crypto.hmac.sha256("message", base64.decode(input.key)),
  }`)
  const { wasm } = await readArchive(bundle, { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 })
  const { bytes, ...prepared } = prepareModule(wasm)
  const module = await WebAssembly.compile(bytes)
  const given = { module, ...prepared, data: '{}', maxMemoryBytes: 1 << 26 }
  const instance = new PolicyInstance(given)
  const input = JSON.stringify({ key: Buffer.from(key, 'hex').toString('base64') })
  const [{ result }] = JSON.parse(instance.evaluate(0, input))
  t.same(result, {
    encoded: key,
    native: key,
    same: true,
    mac: createHmac('sha256', Buffer.from(key, 'hex')).update('message').digest('hex'),
  })
})
