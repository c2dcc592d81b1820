/** Policies change under load without a failed request; one that runs away costs its worker and no more. */
import { renameSync, writeFileSync } from 'node:fs'
import { Agent } from 'node:http'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { compile, revised } from '../harness/bundle.ts'
import { type GateOptions, TestGate } from '../harness/gate.ts'
import { pause, until } from '../harness/wait.ts'

/** 200 in the long run: `SWAPS=200 make test TESTS=test/walks/policy.test.ts`. */
const swaps = Number(process.env.SWAPS ?? 40)
const connections = 64

interface WorkerStatus {
  readonly policy_generation: number
  readonly policy_revision: string
  readonly restarts: number
  readonly lost_exchanges: number
}
const workersOf = (gate: TestGate): WorkerStatus[] =>
  (gate.gate.status() as { workers: WorkerStatus[] }).workers

function put(gate: TestGate, bytes: Buffer): void {
  writeFileSync(join(gate.folder, 'new'), bytes)
  renameSync(join(gate.folder, 'new'), join(gate.bundles, 'gate.tar.gz'))
}

async function start(t: Test, bundle: Buffer, options: GateOptions = {}): Promise<TestGate> {
  const gate = await TestGate.start({ ...options, bundle: null, ready: false })
  t.teardown(() => gate.stop())
  t.match(gate.gate.readiness(), { ready: false, reasons: ['no policy bundle is active'] })
  t.equal((await gate.ask('/orders', await gate.issuer.token('alice'))).code, 'ERR_POLICY_MISSING')
  put(gate, bundle)
  await until('ready', () => gate.gate.readiness().ready)
  return gate
}

t.test(`${swaps} swaps under load on ${connections} connections: no request failed`, async (t) => {
  const base = compile(
    `
    default decision := false
    decision := {"allowed": true, "headers": {"x-revision": data.revision}} if input.principal`,
    undefined,
    { revision: '' },
  )
  const of = (n: number): Promise<Buffer> => revised(base, `r${n}`, { revision: `r${n}` })
  const gate = await start(t, await of(0))
  gate.upstream.answer = (socket, { headers }) => {
    const revision = headers.find(([name]) => name === 'x-revision')?.[1] ?? 'none'
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${revision.length}\r\n\r\n${revision}`)
  }
  const token = await gate.issuer.token('alice')
  let going = true
  let asked = 0
  const wrong: string[] = []
  const seen = new Set<string>()
  const clients = Array.from({ length: connections }, async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    let newest = 0
    while (going) {
      const { status, body, complete } = await gate.ask('/orders', token, { agent })
      asked++
      const n = Number(/^r(\d+)$/.exec(body)?.[1] ?? -1)
      // One connection stays with one worker, which never goes back to an older policy.
      if (status !== 200 || !complete || n < newest)
        wrong.push(`${status} ${body} after r${newest}`)
      newest = Math.max(newest, n)
      seen.add(body)
      gate.upstream.seen.length = 0
    }
    agent.destroy()
  })
  for (let n = 1; n <= swaps; n++) {
    put(gate, await of(n))
    await until(`every worker reports r${n}`, () =>
      workersOf(gate).every((w) => w.policy_revision === `r${n}` && w.policy_generation === n + 1),
    )
  }
  going = false
  await Promise.all(clients)
  t.same(wrong, [])
  t.ok(asked > swaps * 20, `${asked} requests`)
  t.ok(seen.size > swaps * 0.9, `${seen.size} revisions answered`)
})

t.test('a bad bundle leaves the last good one serving and says why', async (t) => {
  const gate = await start(
    t,
    compile('default decision := false\ndecision if input.principal.subject == "alice"'),
  )
  const alice = await gate.issuer.token('alice')
  const bob = await gate.issuer.token('bob')
  t.same(
    [(await gate.ask('/orders', alice)).status, (await gate.ask('/orders', bob)).status],
    [200, 403],
  )
  put(gate, compile('decision := "yes"'))
  await until(
    'refused',
    () => (gate.gate.status() as { policy: { code: string } }).policy.code === 'ERR_BUNDLE_TRIAL',
  )
  t.equal(gate.gate.readiness().ready, true)
  t.same(
    [(await gate.ask('/orders', alice)).status, (await gate.ask('/orders', bob)).status],
    [200, 403],
  )
  put(gate, compile('default decision := false\ndecision if input.principal.subject == "bob"'))
  await until('the rule has changed', async () => (await gate.ask('/orders', bob)).status === 200)
  t.equal((await gate.ask('/orders', alice)).status, 403)
})

t.test('answers that are no answer, over the wire', async (t) => {
  const gate = await start(
    t,
    compile(`
    default decision := false
    answers := {
      "status": {"allowed": false, "http_status": 429, "body": "slow down", "headers": {"retry-after": "7"}, "reason": "too fast"},
      "silent": {"allowed": false},
      "typed": {"allowed": "true"},
      "later": {"allowed": true, "query_parameters_to_set": []},
      "forged": {"allowed": true, "headers": {"x-dropgate-subject": "root"}},
      "fine": {"allowed": true, "headers": {"x-team": "blue"}},
    }
    decision := answers[input.parsed_path[1]]
    decision := true if input.parsed_path[1] == "silent"`),
  )
  const token = await gate.issuer.token('alice')
  const ask = (name: string) => gate.ask(`/orders/${name}`, token)
  const slow = await ask('status')
  t.same([slow.status, slow.body, slow.headers['retry-after']], [429, 'slow down', '7'])
  for (const name of ['typed', 'later', 'forged', 'silent']) {
    t.same([(await ask(name)).status, (await ask(name)).code], [503, 'ERR_POLICY_FAILED'], name)
  }
  t.equal(gate.upstream.seen.length, 0)
  t.equal((await ask('nothing')).status, 403)
  t.equal((await gate.ask('/orders/fine', token, { headers: { 'x-team': 'red' } })).status, 200)
  t.same(
    gate.upstream.seen[0]!.headers.filter(([name]) => name === 'x-team'),
    [['x-team', 'blue']],
  )
  await until('reasons are logged', () =>
    gate.log.some(({ custom }) => custom.reason === 'too fast'),
  )
})

t.test(
  'a rule that runs away after its trial costs its worker only, and is suspended after three',
  async (t) => {
    // Searching allocates nothing, so no memory cap ends it.
    const endless = { text: 'a'.repeat(1_000_000), part: `${'a'.repeat(500_000)}b` }
    const rego = `
    default decision := false
    decision if { input.principal; not away }
    away if { input.attributes.request.http.headers["x-run"] == "away"; contains(data.text, data.part) }`
    const bundle = compile(rego, undefined, endless)
    const gate = await start(t, bundle)
    const token = await gate.issuer.token('alice')
    // Long answers on both workers: those of the other worker must come to their end.
    const finish: (() => void)[] = []
    gate.upstream.answer = (socket, { target }) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok')
      if (target === '/orders/long') finish.push(() => socket.write('ok'))
      else socket.write('ok')
    }
    const long = Array.from({ length: 24 }, () =>
      gate.ask('/orders/long', token).then(
        ({ complete }) => complete,
        () => false,
      ),
    )
    await until('all are open', () => finish.length === 24)
    await t.rejects(gate.ask('/orders', token, { headers: { 'x-run': 'away' } }))
    await until(
      'a new worker',
      () =>
        workersOf(gate).reduce((sum, w) => sum + w.restarts, 0) === 1 &&
        gate.gate.readiness().ready,
    )
    for (const end of finish) end()
    const ended = await Promise.all(long)
    const lost = ended.filter((complete) => !complete).length
    t.ok(lost < 24, `${lost} of 24 were on the worker that was lost`)
    const counted = workersOf(gate).reduce((sum, w) => sum + w.lost_exchanges, 0)
    t.ok(counted >= lost && counted <= lost + 1, `${counted} counted`)
    for (let i = 0; i < 20; i++) t.equal((await gate.ask('/orders', token)).status, 200)

    for (let n = 2; n <= 3; n++) {
      await t.rejects(gate.ask('/orders', token, { headers: { 'x-run': 'away' } }))
      await until(
        `restart ${n}`,
        () => workersOf(gate).reduce((sum, w) => sum + w.restarts, 0) === n,
      )
    }
    await until('suspended', () =>
      gate.gate.readiness().reasons.includes('the policy ran away and is suspended'),
    )
    await until(
      'workers are back',
      async () =>
        (await gate.ask('/orders', token).catch(() => undefined))?.code === 'ERR_POLICY_SUSPENDED',
    )
    await pause(300)
    t.equal((await gate.ask('/orders', token)).code, 'ERR_POLICY_SUSPENDED')
    put(gate, await revised(bundle, 'better', { text: '', part: 'b' }))
    await until('ready with another revision', () => gate.gate.readiness().ready)
    t.equal((await gate.ask('/orders', token, { headers: { 'x-run': 'away' } })).status, 200)
  },
)
