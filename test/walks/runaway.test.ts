/** What a caller can do to the policy, and by it to others: nothing with an argument, little with a rule without end. */
import t, { type Test } from 'tap'
import { compile, compileRunaway, revised } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { pause, until } from '../harness/wait.ts'

async function start(t: Test, bundle: Buffer, policy: object = {}): Promise<TestGate> {
  const gate = await TestGate.start({ bundle: null, ready: false, config: { policy } })
  t.teardown(() => gate.stop())
  gate.put(bundle)
  await until('ready', () => gate.gate.readiness().ready)
  return gate
}

const restartsOf = (gate: TestGate): number =>
  (gate.gate.status() as { workers: { restarts: number }[] }).workers.reduce(
    (sum, { restarts }) => sum + restarts,
    0,
  )

t.test(
  'arguments that once kept a builtin from ending, or made it answer wrongly, are harmless over the wire',
  async (t) => {
    const gate = await start(
      t,
      compile(`
    default decision := false
    headers := input.attributes.request.http.headers
    decision := {"allowed": true, "headers": {"x-path": path}} if {
      path := replace(input.attributes.request.http.path, headers["x-prefix"], "/")
    }
    decision if { headers["x-address"]; not net.cidr_contains("10.0.0.0/8", headers["x-address"]) }
    decision if net.cidr_intersects("10.0.0.0/8", headers["x-network"])
    decision if base64.decode(headers["x-team"]) == "a"
    decision if base64.is_valid(headers["x-text"])`),
    )
    const token = await gate.issuer.token('alice')
    const ask = async (headers: Record<string, string>) =>
      (await gate.ask('/orders', token, { headers })).status
    for (let n = 0; n < 6; n++) t.equal(await ask({ 'x-prefix': '' }), 200)
    const paths = gate.upstream.seen.map(
      ({ headers }) => headers.find(([name]) => name === 'x-path')?.[1],
    )
    t.same([...new Set(paths)], ['///o/r/d/e/r/s/'])
    const cases: [name: string, value: string, status: number][] = [
      ['x-address', '10.1.2.3', 403],
      ['x-address', '::ffff:10.1.2.3', 403],
      ['x-address', '::ffff:0a01:203', 403],
      ['x-address', '::ffff:10.1.0.0/112', 403],
      ['x-address', '::10.1.2.3', 200],
      ['x-address', '11.1.2.3', 200],
      ['x-network', '::ffff:10.1.2.3/128', 200],
      ['x-network', '::/0', 403],
      ['x-team', 'YQ==', 200],
      ['x-team', 'YQ', 403],
      ['x-team', 'Y!Q==', 403],
      ['x-text', 'YQ==', 200],
      ['x-text', 'YQ', 403],
      ['x-text', '', 200],
    ]
    for (const [name, value, status] of cases)
      t.equal(await ask({ [name]: value }), status, `${name}: ${value}`)
    t.equal(restartsOf(gate), 0)
  },
)

t.test('one caller whose evaluation costs a worker is refused, and no other', async (t) => {
  const bundle = compileRunaway()
  // No evaluation is interrupted, so that one that does not end holds up its worker.
  const gate = await start(t, bundle, { evaluation_timeout: '1m' })
  const away = { headers: { 'x-run': 'away' } }
  const alice = await gate.issuer.token('alice')
  let asking = true
  const wrong: string[] = []
  let served = 0
  // A connection of its own for each: what a worker that dies had accepted is lost, and may be asked again.
  const neighbours = Array.from({ length: 4 }, async () => {
    while (asking) {
      const answer = await gate.ask('/orders', alice).catch(() => undefined)
      if (answer === undefined) await pause(5)
      else if (answer.status === 200) served++
      else wrong.push(`${answer.status} ${answer.code}`)
    }
  })
  const refusedAfterDeath = async (path: string, tokens: readonly (string | undefined)[]) => {
    const before = restartsOf(gate)
    await t.rejects(gate.ask(path, tokens[0], away), 'the first one costs a worker')
    await until('it is replaced', () => restartsOf(gate) > before && gate.gate.readiness().ready)
    for (let n = 0; n < 12; n++) {
      const { status, code } = await gate.ask(path, tokens[n % tokens.length], away)
      t.same([status, code], [503, 'ERR_CALLER_SUSPENDED'])
    }
    t.equal(restartsOf(gate), before + 1, 'and the others none')
  }
  // Other tokens of the same subject are the same caller.
  await refusedAfterDeath(
    '/orders',
    await Promise.all(
      [0, 1, 2].map((n) => gate.issuer.token('mallory', { claims: { jti: `${n}` } })),
    ),
  )
  // Without a token the address is the caller, which the callers with one from there are not.
  await refusedAfterDeath('/public', [undefined])
  const already = served
  await until('the neighbour is served', () => served > already + 20)
  asking = false
  await Promise.all(neighbours)
  t.same(wrong, [])
  t.same(gate.gate.readiness(), { ready: true, reasons: [], warnings: [] })
  await until('who it is can be read in the log', () =>
    gate.log.some(
      ({ custom }) => custom.code === 'ERR_CALLER_SUSPENDED' && custom.subject === 'mallory',
    ),
  )
  // Under another policy it is asked again.
  await gate.activate(await revised(bundle, 'better', { text: '', part: 'b' }))
  const { status } = await gate.ask('/orders', await gate.issuer.token('mallory'), away)
  t.equal(status, 200)
})
