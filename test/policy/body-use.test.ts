/** A body is collected exactly where a rule reads it: for generated small policies, and told in words. */
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { bodyUsesOf, bodyWarnings } from '../../src/policy/body-use.ts'
import { ActivePolicy } from '../../src/policy/engine.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { findPolicyUsage } from '../../src/policy/input-usage.ts'
import { prepareModule } from '../../src/policy/module.ts'
import { Chance } from '../harness/compared.ts'
import { compileFiles } from '../harness/read-policies.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))

const http = 'input.attributes.request.http'
/** Conditions of small policies that do not read the body. */
const without = [
  `startswith(${http}.path, "/pub")`,
  `${http}.method in {"GET", "HEAD"}`,
  `${http}.method == "POST"`,
  `${http}.headers["x-tenant"] == input.principal.claims.tenant`,
  `some name; ${http}.headers[name] == "1"`,
  `"reader" in input.principal.claims.roles`,
  'some role in input.principal.claims.roles; data.roles[role].admin',
  `data.users[input.principal.subject].paths[_] == ${http}.path`,
  'input.parsed_path == ["orders", input.principal.subject]',
  'count(input.parsed_query) == 0',
  'input.parsed_path[0] == "health"',
  'regex.match("^/a", concat("/", input.parsed_path))',
  `net.cidr_contains("10.0.0.0/8", input.attributes.source.address.socketAddress.address)`,
  'object.get(input.principal.claims, "level", 0) > 3',
  'not input.principal',
  'input.route.labels.visibility == "public"',
  'every scope in input.principal.scopes { startswith(scope, "a") }',
  `{"GET": ["reader"], "POST": ["writer"]}[${http}.method][_] in input.principal.claims.roles`,
  'claims.admin',
  `short(${http}).path == "/"`,
  'has(input.principal.claims, "group")',
  `${http}.size < 1000`,
  'who.tenant == "a" with input.route.name as "b"',
]
const reading = [
  'input.parsed_body.amount < 100',
  `contains(${http}.body, "x")`,
  `json.unmarshal(${http}.body).a`,
  'some item in input.parsed_body.items; item.price > 3',
  `short(${http}).body == ""`,
  'object.get(input.parsed_body, "a", 1) == 2',
]
const helpers = `
claims := input.principal.claims

who := input.principal if input.route.name == "b"
else := input.route

short(x) := x

has(object, name) if object[name] != null
`

function draw(chance: Chance): { text: string; reads: boolean } {
  let reads = false
  const rules = Array.from({ length: 1 + chance.number(3) }, () => {
    const conditions = [chance.of(without), ...chance.some(without, 2)]
    if (chance.once(5)) {
      reads = true
      conditions.push(chance.of(reading))
    }
    // Each condition in a scope of its own: some of them name the same variables.
    return `decision if {\n${conditions.map((line) => `\tcount([1 | ${line}]) > 0`).join('\n')}\n}`
  })
  const plain = chance.once(2)
  const text = `default decision := false\n\n${rules.join('\n\n')}\n${helpers}`
  return { text: plain ? text.replaceAll(/count\(\[1 \| (.*)\]\) > 0/g, plainly) : text, reads }
}

/** Without the scope, where the condition is one expression. */
function plainly(scoped: string, line: string): string {
  return /^(?:some|every)|;|_\]/.test(line) ? scoped : line
}

async function policyOf(sources: readonly string[]) {
  const files = sources.map((text, i) => [`p${i}.rego`, `package p${i}\n\n${text}`])
  const entrypoints = sources.map((_, i) => `p${i}/decision`)
  const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }
  const content = await readArchive(compileFiles(Object.fromEntries(files), entrypoints), limits)
  const { bytes, initialPages } = prepareModule(content.wasm)
  const module = await WebAssembly.compile(bytes)
  const usage = findPolicyUsage(content.wasm)
  const { wasm: _, ...rest } = content
  const maxMemoryBytes = 64 << 20
  const policy = { ...rest, generation: 1, bundle: 'b', module, initialPages, usage }
  const instance = new PolicyInstance({ ...policy, maxMemoryBytes })
  return {
    active: new ActivePolicy(policy, maxMemoryBytes),
    uses: bodyUsesOf(usage, instance.entrypoints, entrypoints),
  }
}

t.test(`a hundred small policies collect bodies where they read them (SEED=${seed})`, async (t) => {
  const chance = new Chance(seed)
  const drawn = Array.from({ length: 100 }, () => draw(chance))
  const { active, uses } = await policyOf(drawn.map(({ text }) => text))
  for (const [i, { text, reads }] of drawn.entries()) {
    const decision = `p${i}/decision`
    if (active.planOf(decision).readsBody !== reads) t.equal(!reads, reads, text)
    t.equal(uses[decision], reads ? 'read' : 'not read')
  }
})

t.test('where it cannot be known, this is said, with the line that settles it', async (t) => {
  const { active, uses } = await policyOf([
    'default decision := false\ndecision if json.marshal(input) == "{}"',
    `default decision := false\ndecision if ${http}[data.name] == "x"`,
    'default decision := false\ndecision if input.route.name == "a"',
  ])
  t.match(uses['p0/decision'], /^unknown: a rule uses input as a whole/)
  t.match(uses['p1/decision'], /^unknown: a rule uses input\.attributes\.request\.http as a whole/)
  t.equal(uses['p2/decision'], 'not read')
  t.equal(active.planOf('p1/decision').readsBody, true)
  t.match(bodyWarnings(uses), [/p0\/decision.*policy_body: withhold/, /p1\/decision/])
  t.equal(bodyWarnings(uses).length, 2)
})
