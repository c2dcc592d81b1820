/** What a module reads of its input is found in the module; an under-estimate would take facts away from a rule. */
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import {
  findInputUsage,
  inputUsageOf,
  type UsedField,
  usesEverything,
} from '../../src/policy/input-usage.ts'
import { compile } from '../harness/bundle.ts'

const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }

async function readsFrom(rego: string, data = {}) {
  return findInputUsage((await readArchive(compile(rego, undefined, data), limits)).wasm)
}

/** `{a: {b: '*'}}` */
function shown({ whole, fields }: UsedField): unknown {
  if (whole) return '*'
  return Object.fromEntries(Array.from(fields, ([name, field]) => [name, shown(field)]))
}

t.test(
  'constant paths are told apart, everything else reads all of what it is about',
  async (t) => {
    const cases: [what: string, rego: string, reads: unknown][] = [
    ['nothing', 'decision := false', {}],
    ['a field', 'decision if input.route.name == "a"', { route: { name: '*' } }],
    ['an import', 'import input.attributes.request.http as http\ndecision if http.method == "GET"', { attributes: { request: { http: { method: '*' } } } }],
    ['a helper rule', 'decision if claims.admin\nclaims := input.principal.claims', { principal: { claims: { admin: '*' } } }],
    ['a function', 'decision if ok(input.principal)\nok(p) if p.tenant == "a"', { principal: { tenant: '*' } }],
    ['a variable', 'decision if { h := input.attributes.request.http.headers; h["x-a"] == "1"; not h["x-b"] }', { attributes: { request: { http: { headers: { 'x-a': '*', 'x-b': '*' } } } } }],
    ['a list walked', 'decision if { some r in input.principal.claims.roles; r == "a" }', { principal: { claims: { roles: '*' } } }],
    ['a key of the data', 'decision if input.principal.claims[data.key] == 1', { principal: { claims: '*' } }],
    ['a key of the input', 'decision if input.header_values[input.route.name]', { header_values: '*', route: { name: '*' } }],
    ['a builtin', 'decision if count(input.parsed_query) > 0', { parsed_query: '*' }],
    ['all of it, as text', 'decision if contains(json.marshal(input), "x")', '*'],
    ['all of it, walked', 'decision if { walk(input, [_, v]); v == 1 }', '*'],
    ['an answer made of it', 'decision := {"allowed": true, "headers": {"x": input.principal.subject}}', { principal: { subject: '*' } }],
    ['another input', 'decision if ok with input.route as {"name": "b"}\nok if input.route.name == "b"', '*'],
    ['a comparison of two fields', 'decision if input.principal == input.route', { principal: '*', route: '*' }],
    ['a comprehension', 'decision if "a" in {r | r := input.principal.scopes[_]}', { principal: { scopes: '*' } }],
  ] // biome-ignore format: a table
    for (const [what, rego, reads] of cases)
      t.same(shown((await readsFrom(rego)).input), reads, what)
  },
)

t.test('rules that are chosen by name at run time are taken to read everything', async (t) => {
  const { input } = await readsFrom(
    'decision if data.gate.authz.rules[input.route.name].ok\n\nrules.a.ok if input.principal.tenant == "a"\n\nrules.b.ok if input.parsed_query.b',
  )
  for (const path of [
    ['route', 'name'],
    ['principal', 'tenant'],
    ['parsed_query', 'b'],
  ])
    t.ok(inputUsageOf(input, ...path), path.join('.'))
})

t.test('patterns inside the module keep its heap', async (t) => {
  t.equal(
    (await readsFrom('decision if regex.match("^/a", input.attributes.request.http.path)'))
      .patterns,
    true,
  )
  t.equal(
    (await readsFrom('decision if glob.match("/a/*", ["/"], input.attributes.request.http.path)'))
      .patterns,
    true,
  )
  t.equal((await readsFrom('decision if input.route.name == "a"')).patterns, false)
})

t.test('a module that is not understood reads everything', async (t) => {
  const { wasm } = await readArchive(compile('decision if input.route.name == "a"'), limits)
  t.same(findInputUsage(new Uint8Array()), usesEverything)
  t.same(findInputUsage(wasm.subarray(0, wasm.length / 2)), usesEverything)
  const nameless = Buffer.from(wasm)
  nameless.write('game', nameless.lastIndexOf('\x04name') + 1)
  t.same(findInputUsage(nameless), usesEverything)
})
