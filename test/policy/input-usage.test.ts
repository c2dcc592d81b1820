/** What a module reads of its input is found in the module; an under-estimate would take facts away from a rule. */
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import {
  findPolicyUsage,
  inputUsageOf,
  readsEverything,
  type UsedField,
  usesEverything,
} from '../../src/policy/input-usage.ts'
import { compile } from '../harness/bundle.ts'
import { compileFiles } from '../harness/read-policies.ts'

const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }

async function usageOf(rego: string, data = {}) {
  return findPolicyUsage((await readArchive(compile(rego, undefined, data), limits)).wasm)
}

async function readsFrom(rego: string, data = {}) {
  const { entrypoints } = await usageOf(rego, data)
  return entrypoints.get(0) ?? readsEverything
}

/** `{a: {b: '*'}}`; `=` for a member of which only the value is read, not what is inside; `[]` for a computed key. */
function shown({ whole, fields, any }: UsedField): unknown {
  if (whole) return '*'
  if (any !== undefined)
    return {
      '[]': shown(any),
      ...Object.fromEntries(Array.from(fields, ([k, v]) => [k, shown(v)])),
    }
  if (fields.size === 0) return '='
  return Object.fromEntries(Array.from(fields, ([name, field]) => [name, shown(field)]))
}

t.test(
  'constant paths are told apart, everything else reads all of what it is about',
  async (t) => {
    const cases: [what: string, rego: string, reads: unknown][] = [
    ['nothing', 'decision := false', '='],
    ['a field', 'decision if input.route.name == "a"', { route: { name: '=' } }],
    ['a number', 'decision if input.attributes.request.http.size == 7', { attributes: { request: { http: { size: '=' } } } }],
    ['whether it is there', 'decision if input.principal', { principal: '=' }],
    ['an import', 'import input.attributes.request.http as http\ndecision if http.method == "GET"', { attributes: { request: { http: { method: '=' } } } }],
    ['a helper rule', 'decision if claims.admin\nclaims := input.principal.claims', { principal: { claims: { admin: '=' } } }],
    ['a helper rule of two branches', 'decision if who.admin\nwho := input.principal if input.route.name == "a"\nelse := input.route', { principal: { admin: '=' }, route: { name: '=', admin: '=' } }],
    ['a function', 'decision if ok(input.principal)\nok(p) if p.tenant == "a"', { principal: { tenant: '=' } }],
    ['a function of two things', 'decision if { same(input.attributes.request.http).method == "GET"; count(same(input.parsed_path)) == 1 }\nsame(x) := x', { attributes: { request: { http: { method: '=' } } }, parsed_path: '*' }],
    ['a function of functions', 'decision if f(input)\nf(x) if g(x.attributes.request)\ng(y) if h(y.http, y)\nh(a, b) if a.method == b.http.host', { attributes: { request: { http: { method: '*', host: '*' } } } }],
    ['a variable', 'decision if { h := input.attributes.request.http.headers; h["x-a"] == "1"; not h["x-b"] }', { attributes: { request: { http: { headers: { 'x-a': '=', 'x-b': '=' } } } } }],
    ['two rules with other variables', 'default decision := false\ndecision if startswith(input.attributes.request.http.path, "/pub")\ndecision if "reader" in input.principal.claims.roles', { attributes: { request: { http: { path: '*' } } }, principal: { claims: { roles: '*' } } }],
    ['an object made of it', 'decision if {"http": input.attributes.request.http, "x": 1}.http.method == "GET"', { attributes: { request: { http: { method: '=' } } } }],
    ['an object that a rule gives back', 'decision if made.http.method == "GET"\nmade := {"http": input.attributes.request.http, "path": input.parsed_path}', { attributes: { request: { http: { method: '=' } } }, parsed_path: '=' }],
    ['a default for a missing field', 'decision if "a" in object.get(input.principal.claims, "roles", [])', { principal: { claims: { roles: '*' } } }],
    ['a path of fields', 'decision if object.get(input.principal, ["claims", "roles"], 1) == 2', { principal: '*' }],
    ['a list walked', 'decision if { some r in input.principal.claims.roles; r == "a" }', { principal: { claims: { roles: '*' } } }],
    ['a key of the data', 'decision if input.principal.claims[data.key] == 1', { principal: { claims: '*' } }],
    ['a key of the input', 'decision if input.header_values[input.route.name]', { header_values: '*', route: { name: '*' } }],
    ['a builtin', 'decision if count(input.parsed_query) > 0', { parsed_query: '*' }],
    ['all of it, as text', 'decision if contains(json.marshal(input), "x")', '*'],
    ['all of it, walked', 'decision if { walk(input, [_, v]); v == 1 }', '*'],
    ['an answer made of it', 'decision := {"allowed": true, "headers": {"x": input.principal.subject}}', { principal: { subject: '*' } }],
    ['another input', 'decision if ok with input.route as {"name": "b"}\nok if { input.route.name == "b"; input.principal.tenant == "a" }', { route: { name: '=' }, principal: { tenant: '=' } }],
    ['another input as a whole', 'decision if ok with input as {"route": input.principal}\nok if input.route.name == "b"', { principal: { name: '=' } }],
    ['a comparison of two fields', 'decision if input.principal == input.route', { principal: '*', route: '*' }],
    ['a comprehension', 'decision if "a" in {r | r := input.principal.scopes[_]}', { principal: { scopes: '*' } }],
    ['every', 'decision if every s in input.principal.scopes { startswith(s, "a") }', { principal: { scopes: '*' } }],
  ] // biome-ignore format: a table
    const files = cases.map(([, rego], i) => [`p${i}.rego`, `package p${i}\n\n${rego}`])
    const entrypoints = cases.map((_, i) => `p${i}/decision`)
    const bundle = compileFiles(Object.fromEntries(files), entrypoints)
    const usage = findPolicyUsage((await readArchive(bundle, limits)).wasm)
    for (const [i, [what, , reads]] of cases.entries())
      t.same(shown(usage.entrypoints.get(i)!.input), reads, what)
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
    (await usageOf('decision if regex.match("^/a", input.attributes.request.http.path)')).patterns,
    true,
  )
  t.equal(
    (await usageOf('decision if glob.match("/a/*", ["/"], input.attributes.request.http.path)'))
      .patterns,
    true,
  )
  t.equal((await usageOf('decision if input.route.name == "a"')).patterns, false)
})

t.test('a module that is not understood reads everything', async (t) => {
  const { wasm } = await readArchive(compile('decision if input.route.name == "a"'), limits)
  t.same(findPolicyUsage(new Uint8Array()), usesEverything)
  t.same(findPolicyUsage(wasm.subarray(0, wasm.length / 2)), usesEverything)
  const nameless = Buffer.from(wasm)
  nameless.write('game', nameless.lastIndexOf('\x04name') + 1)
  t.same(findPolicyUsage(nameless), usesEverything)
})

t.test('a look-up in the data by a computed key is told from a use of all of it', async (t) => {
  const { data } = await readsFrom(`
    decision if data.users[input.principal.subject].roles[_] == data.wanted
    decision if count(data.teams[input.route.name]) > 1
    decision if { some name in data.names; name == "a" }`)
  t.same(shown(data), {
    users: { '[]': { roles: '*' } },
    wanted: '*',
    teams: { '[]': '*' },
    names: '*',
  })
})

t.test('a module that would take long to follow reads everything, soon', async (t) => {
  // Each rule makes twice as many references of the ones it gets; without a limit there would be 2 to the power of 40.
  const rules = Array.from(
    { length: 40 },
    (_, i) =>
      `r${i + 1} := {"a": r${i}.a, "b": r${i}.b} if r${i}.a.a\nelse := {"a": r${i}.b, "b": r${i}.a}`,
  )
  const { input } = await readsFrom(`r0 := input\ndecision if r40.a.b\n${rules.join('\n')}`)
  t.ok(inputUsageOf(input, 'a'))
})
