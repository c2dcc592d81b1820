/** Policies change under load without a failed request; one that runs away costs its worker and no more. */
import { Agent } from 'node:http'
import { connect, createServer } from 'node:net'
import t, { type Test } from 'tap'
import { compile, compileRunaway, revised } from '../harness/bundle.ts'
import { type GateOptions, TestGate } from '../harness/gate.ts'
import { pause, until } from '../harness/wait.ts'

/** 200 in the long run: `SWAPS=200 make test TESTS=test/walks/policy.test.ts`. */
const swaps = Number(process.env.SWAPS ?? 20)
const connections = 64

interface WorkerStatus {
  readonly policy_generation: number
  readonly policy_revision: string
  readonly restarts: number
  readonly lost_exchanges: number
}
const workersOf = (gate: TestGate): WorkerStatus[] =>
  (gate.gate.status() as { workers: WorkerStatus[] }).workers

async function start(t: Test, bundle: Buffer, options: GateOptions = {}): Promise<TestGate> {
  const gate = await TestGate.start({ ...options, bundle: null, ready: false })
  t.teardown(() => gate.stop())
  await gate.waitsFor('no policy bundle is active')
  const token = await gate.issuer.token('alice')
  let code: string | undefined
  await until('not overloaded by its own start', async () => {
    code = (await gate.ask('/orders', token)).code
    return code !== 'ERR_OVERLOADED'
  })
  t.equal(code, 'ERR_POLICY_MISSING')
  gate.put(bundle)
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
      // Requests are always under way, and the swaps are not held up by them.
      await pause(10)
    }
    agent.destroy()
  })
  for (let n = 1; n <= swaps; n++) {
    gate.put(await of(n))
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
  gate.put(compile('decision := "yes"'))
  await until(
    'refused',
    () => (gate.gate.status() as { policy: { code: string } }).policy.code === 'ERR_BUNDLE_TRIAL',
  )
  t.equal(gate.gate.readiness().ready, true)
  t.same(
    [(await gate.ask('/orders', alice)).status, (await gate.ask('/orders', bob)).status],
    [200, 403],
  )
  await gate.activate(
    compile('default decision := false\ndecision if input.principal.subject == "bob"'),
  )
  t.same(
    [(await gate.ask('/orders', alice)).status, (await gate.ask('/orders', bob)).status],
    [403, 200],
  )
})

t.test('a denial has the policy’s words; an answer that is not usable is a 503', async (t) => {
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

/** No evaluation is interrupted, so that one that does not end holds up its worker. */
const patience = { policy: { evaluation_timeout: '1m' } }

t.test('an evaluation that is not interrupted costs only the worker that it runs on', async (t) => {
  const bundle = compileRunaway()
  const gate = await start(t, bundle, { config: patience })
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
  const restarts = () => workersOf(gate).reduce((sum, w) => sum + w.restarts, 0)
  const runAway = async (subject: string): Promise<void> => {
    const headers = { 'x-run': 'away' }
    await t.rejects(gate.ask('/orders', await gate.issuer.token(subject), { headers }))
  }
  await runAway('runner 1')
  await until('a new worker', () => restarts() === 1 && gate.gate.readiness().ready)
  for (const end of finish) end()
  const ended = await Promise.all(long)
  const lost = ended.filter((complete) => !complete).length
  t.ok(lost < 24, `${lost} of 24 were on the worker that was lost`)
  const counted = workersOf(gate).reduce((sum, w) => sum + w.lost_exchanges, 0)
  t.ok(counted >= lost && counted <= lost + 1, `${counted} counted`)
  for (let i = 0; i < 20; i++) t.equal((await gate.ask('/orders', token)).status, 200)

  // However many callers do so, the policy stays in use for the others.
  for (let n = 2; n <= 4; n++) {
    await runAway(`runner ${n}`)
    await until(`restart ${n}`, () => restarts() === n && gate.gate.readiness().ready)
  }
  for (let i = 0; i < 20; i++) t.equal((await gate.ask('/orders', token)).status, 200)
  await gate.activate(await revised(bundle, 'better', { text: '', part: 'b' }))
  t.equal((await gate.ask('/orders', token, { headers: { 'x-run': 'away' } })).status, 200)
})

t.test('a worker that finds its port taken when it replaces another tries again', async (t) => {
  const gate = await start(t, compileRunaway(), { config: { workers: 1, ...patience } })
  const token = await gate.issuer.token('alice')
  const runner = await gate.issuer.token('runner')
  const dies = t.rejects(gate.ask('/orders', runner, { headers: { 'x-run': 'away' } }))
  // A program that asks for the port all the while has it before the next worker has started.
  let other = createServer()
  const takes = (): Promise<boolean> =>
    new Promise((resolve) => {
      other = createServer()
      other.once('error', () => resolve(false))
      other.listen({ host: '127.0.0.1', port: gate.port, exclusive: true }, () => resolve(true))
    })
  await until('the port is taken', takes)
  await dies
  const failed = () => gate.logged.filter(({ message }) => /cannot listen on/.test(message)).length
  await until('two have tried', () => failed() >= 2)
  t.ok(gate.gate.readiness().reasons.includes('not every worker is listening'))
  await new Promise<void>((resolve) => other.close(() => resolve()))
  await until('it is ready', () => gate.gate.readiness().ready)
  t.equal((await gate.ask('/orders', token)).status, 200)
})

t.test('evaluations that end are not a runaway, however many one turn brings', async (t) => {
  const bundle = compile(`
    default decision := false
    decision if input.attributes.request.http.method == "GET"
    decision if count([x | some x in numbers.range(1, input.parsed_body.n); x % 7 == 9]) > 0`)
  // Many and short: one that the machine holds up is not yet taken for a runaway, all of them together are long enough.
  const atOnce = 100
  /** They come together: all but their last byte first, which makes one turn of their evaluations. */
  const burst = async (gate: TestGate, token: string, n: number) => {
    const body = `{"n":${n}}`
    const head = `POST /orders HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ${token}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`
    const answers: string[] = []
    const sockets = Array.from({ length: atOnce }, () => {
      const socket = connect(gate.port, '127.0.0.1')
      let answer = 'closed'
      socket.on('error', ({ message }) => {
        answer = message
      })
      socket.on('data', (bytes) => {
        answer = String(bytes).slice(9, 12)
        socket.destroy()
      })
      socket.on('close', () => answers.push(answer))
      socket.write(head + body.slice(0, -1))
      return socket
    })
    await pause(300)
    const began = performance.now()
    for (const socket of sockets) socket.write('}')
    await until('all are answered or closed', () => answers.length === atOnce, 60_000)
    return { answers: [...new Set(answers)].sort(), tookMs: performance.now() - began }
  }
  const patient = await start(t, bundle, {
    config: { workers: 1, limits: { max_lag: '60s' }, ...patience },
  })
  const alice = await patient.issuer.token('alice')
  // Until it takes longer than any one evaluation may; in steps, because what has not run yet is slow too.
  const sizes: number[] = []
  for (let n = 2000, tookMs = 0; tookMs < 2500; n *= 2) {
    sizes.push(n)
    const each = await burst(patient, alice, n)
    t.same(each.answers, ['403'], `${n}`)
    tookMs = each.tookMs
  }
  t.equal(workersOf(patient)[0]!.restarts, 0)

  const hasty = await start(t, bundle, {
    config: { workers: 1, limits: { max_lag: '200ms' }, ...patience },
  })
  const bob = await hasty.issuer.token('bob')
  const headers = { 'content-type': 'application/json' }
  for (const n of sizes) {
    const body = JSON.stringify({ n })
    const one = async () => await hasty.ask('/orders', bob, { method: 'POST', body, headers })
    await until(`${n} is evaluated`, async () => (await one()).status === 403)
  }
  const idle = async () => (await hasty.ask('/orders', bob)).status === 200
  let shed: string[] = []
  // A machine that is late when they come lets them all be shed, one that is not in turns of their own none.
  for (let n = sizes.at(-1)!, tries = 0; tries < 6 && shed.length < 2; tries++) {
    await until('it has caught up', idle)
    shed = (await burst(hasty, bob, n)).answers
    if (!shed.includes('503')) n *= 2
  }
  t.same(shed, ['403', '503'], 'those that would keep what is open waiting')
  t.equal(workersOf(hasty)[0]!.restarts, 0)
  await until('it has caught up', idle)
})
