/** Ten callers who make a rule work without end, by what they send: each of them is refused, and no other caller. */
import t from 'tap'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { pause, until } from '../harness/wait.ts'

/** Each rule is one that a policy might have; `b` is the body, `xs` a list in it. */
const rules: Readonly<Record<string, string>> = {
  'an empty header into replace':
    'p := input.attributes.request.http.path; replace(p, headers["x-empty"], "/") == p',
  'every four values of the query':
    'some a in input.parsed_query.x; some c in input.parsed_query.x; some d in input.parsed_query.x; some e in input.parsed_query.x; concat("-", [a, c, d]) == e',
  'walks through a nested body, one within another': 'walk(b, [p, _]); walk(b, [q, _]); walk(b, [r, _]); walk(b, [s, _]); p == [q, r, s]',
  'regular expressions of the caller': 'some a in xs; some c in xs; regex.match(concat("", [a, "+b{20}", c]), b.text)',
  'a range up to a claim': 'some n in numbers.range(1, input.principal.claims.limit); some m in numbers.range(n, input.principal.claims.limit); n + m < 0',
  'a chain of object.union': 'some a in xs; some c in xs; object.union(b.object, {a: c})[a] == 7',
  'texts that grow by sprintf': 'some a in xs; some c in xs; sprintf("%s%s%s", [b.text, a, c]) == "no"',
  'globs of the caller': 'some a in xs; some c in xs; glob.match(concat("", ["*", a, "*", c]), ["."], b.text)',
  'keys with the same hash': 'some k, _ in b.same; some l, _ in b.same; some m, _ in b.same; b.same[k] + b.same[l] == b.same[m]',
  'a graph of the caller': 'some k, _ in b.graph; some l, _ in b.graph; count(graph.reachable(b.graph, {k, l})) == 0',
} // biome-ignore format: a table

/** Keys that lie in the same place of a table of 4,096: OPA hashes texts by FNV-1a. */
function sameHash(count: number): string[] {
  const found: string[] = []
  for (let n = 0; found.length < count; n++) {
    let hash = 0x811c9dc5
    for (const byte of Buffer.from(`${n}`)) hash = Math.imul(hash, 0x01000193) ^ byte
    if ((hash & 0xfff) === 7) found.push(`${n}`)
  }
  return found
}

const xs = Array.from({ length: 900 }, (_, i) => `a${i}`)
const nodes = Array.from({ length: 80 }, (_, i) => `n${i}`)
const objectOf = <V>(keys: readonly string[], value: V) =>
  Object.fromEntries(keys.map((key) => [key, value]))
const bodies: Readonly<Record<string, object>> = {
  'walks through a nested body, one within another': {
    levels: JSON.parse(`${'[1,'.repeat(30)}1${']'.repeat(30)}`),
  },
  'keys with the same hash': { same: objectOf(sameHash(250), 1) },
  'a graph of the caller': { graph: objectOf(nodes, nodes) },
}
const usual = { xs, text: 'a'.repeat(4000), object: objectOf(xs.slice(0, 250), 1) }

t.test('ten attacks by what a caller sends', async (t) => {
  const decisions = Object.entries(rules).map(
    ([name, rule]) => `decision if { headers["x-attack"] == ${JSON.stringify(name)}; ${rule} }`,
  )
  const gate = await TestGate.start({ bundle: null, ready: false })
  t.teardown(() => gate.stop())
  await gate.activate(
    compile(`
      default decision := false
      headers := input.attributes.request.http.headers
      b := input.parsed_body
      xs := b.xs
      decision if { input.principal; not headers["x-attack"] }
      ${decisions.join('\n      ')}`),
  )
  const alice = await gate.issuer.token('alice')
  let asking = true
  let served = 0
  const wrong: string[] = []
  const others = Array.from({ length: 4 }, async () => {
    while (asking) {
      const answer = await gate.ask('/orders', alice).catch((error: Error) => error.message)
      if (typeof answer === 'object' && answer.status === 200) served++
      else wrong.push(typeof answer === 'string' ? answer : `${answer.status} ${answer.code}`)
      await pause(2)
    }
  })
  const attacks = Object.keys(rules)
  for (const [n, name] of attacks.entries()) {
    const subject = `mallory ${n}`
    const token = await gate.issuer.token(subject, { claims: { limit: 90_000 } })
    const headers = { 'x-attack': name, 'x-empty': '', 'content-type': 'application/json' }
    const body = JSON.stringify(bodies[name] ?? usual)
    const target = `/orders?${xs
      .slice(0, 100)
      .map((x) => `x=${x}`)
      .join('&')}`
    const before = served
    for (let i = 0; i < 6; i++) {
      const { status, code } = await gate.ask(target, token, { method: 'POST', headers, body })
      // The host answers `replace`, which ends.
      if (n === 0) t.same([status, code], [403, 'ERR_POLICY_DENIED'], name)
      else t.same([status, code], [503, 'ERR_POLICY_TIMEOUT'], name)
    }
    // A caller is not known by one rule only, and has time again for what is short.
    t.equal((await gate.ask('/orders', token)).status, 200, `${name}: a short evaluation`)
    await until('the others are served', () => served > before + 20)
  }
  asking = false
  await Promise.all(others)
  t.same(wrong, [], 'no request of another caller failed')
  t.same(gate.gate.readiness(), { ready: true, reasons: [], warnings: [] })
  const { workers } = gate.gate.status() as { workers: { restarts: number }[] }
  t.same(
    workers.map(({ restarts }) => restarts),
    [0, 0],
  )
  const refused = () => gate.log.filter(({ custom }) => custom.code === 'ERR_POLICY_TIMEOUT')
  const late = 6 * (attacks.length - 1)
  await until('all are recorded', () => refused().length === late)
  for (let n = 1; n < attacks.length; n++)
    t.equal(refused().filter(({ custom }) => custom.subject === `mallory ${n}`).length, 6)
  const answer = await fetch(`${gate.admin}/metrics`, {
    headers: { authorization: `Bearer ${gate.adminToken}` },
  })
  t.match(await answer.text(), new RegExp(`^dropgate_policy_timeouts_total ${late}$`, 'm'))
})
