/** The data of the active policy changes without a bundle: whole, on every worker, under load, and past the end of a worker. */
import t, { type Test } from 'tap'
import { compile, endless, revised } from '../harness/bundle.ts'
import { EveryWorker, TestGate } from '../harness/gate.ts'
import { OpenStream, StreamUpstream } from '../harness/streams.ts'
import { until } from '../harness/wait.ts'

const rego = `
default decision := false
decision if { data.on[input.principal.subject]; data.flags.left == data.flags.right; not away }
away if { input.attributes.request.http.headers["x-run"] == "away"; contains(data.text, data.part) }`
const data = { ...endless, on: { alice: true }, flags: { left: 0, right: 0 }, list: [1] }
const bundle = compile(rego, undefined, data)

const upstream = new StreamUpstream()
await upstream.open()
const gate = await TestGate.start({
  bundle: null,
  ready: false,
  // No evaluation is interrupted: one that does not end costs its worker.
  config: { limits: { max_lag: '60s' }, policy: { evaluation_timeout: '1m' } },
  routes: [
    { name: 'orders', path: '/orders' },
    { name: 'streams', path: '/streams', upstream: upstream.origin },
  ],
})
t.teardown(async () => {
  await gate.stop()
  upstream.close()
})
gate.put(bundle)
await until('ready', () => gate.gate.readiness().ready)
const alice = await gate.issuer.token('alice')
const bob = await gate.issuer.token('bob')
const clients = new EveryWorker()
t.teardown(() => clients.close())

interface Status {
  readonly workers: { readonly policy_data_changes: number; readonly restarts: number }[]
  readonly policy: { readonly data: { readonly changes: number; readonly renewals: number } }
}
const status = (): Status => gate.gate.status() as Status
const change = (...operations: object[]): Promise<number> =>
  gate.gate.changeData(JSON.stringify(operations), 'json-patch')
const flags = (left: number, right: number): Promise<number> =>
  change(
    { op: 'replace', path: '/flags/left', value: left },
    { op: 'replace', path: '/flags/right', value: right },
  )

async function everyone(t: Test, token: string, expected: number, why: string): Promise<void> {
  const answers = await clients.ask(gate, '/orders', token)
  t.same([...new Set(answers.map(({ status }) => status))], [expected], why)
}

t.test('once a change is made every worker decides by it', async (t) => {
  await everyone(t, bob, 403, 'before')
  t.equal(await change({ op: 'add', path: '/on/bob', value: true }), 1)
  await everyone(t, bob, 200, 'added')
  t.equal(await change({ op: 'remove', path: '/on/bob' }), 2)
  await everyone(t, bob, 403, 'removed')
  const delta = { data: [{ op: 'upsert', path: '/on/bob', value: true }] }
  t.equal(await gate.gate.changeData(JSON.stringify(delta), 'delta'), 3)
  await everyone(t, bob, 200, 'a delta bundle')
  t.match(status(), { policy: { data: { changes: 3 } } })
})

t.test('under load no request sees half of a change, and none is lost', async (t) => {
  let running = true
  const statuses = new Map<number, number>()
  const load = async (): Promise<void> => {
    while (running) {
      for (const { status } of await clients.ask(gate, '/orders', alice))
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
    }
  }
  const loads = [load()]
  const before = status().policy.data.changes
  await Promise.all(Array.from({ length: 60 }, (_, i) => flags(i, i)))
  running = false
  await Promise.all(loads)
  t.same([...statuses.keys()], [200], JSON.stringify([...statuses]))
  t.equal(status().policy.data.changes, before + 60)
  t.ok(status().workers.every((each) => each.policy_data_changes === before + 60))
  await flags(1, 2)
  await everyone(t, alice, 403, 'what a half of a change would have answered')
  await flags(3, 3)
})

t.test('a change that is refused changes nothing, and says why', async (t) => {
  const cases: [name: string, operations: object[], message: RegExp][] = [
    ['a path that is not there', [{ op: 'replace', path: '/on/carol/x', value: 1 }], /operation 1 \(replace \/on\/carol\/x\): there is no \/on\/carol/],
    ['after one that could be made', [{ op: 'remove', path: '/on/alice' }, { op: 'remove', path: '/nowhere' }], /operation 2/],
    ['a text in between', [{ op: 'add', path: '/text/x', value: 1 }], /there is no \/text\/x/],
    ['the path of a rule', [{ op: 'add', path: '/gate/authz/decision', value: true }], /a rule has this path/],
    ['a value with the path of a rule', [{ op: 'add', path: '/gate', value: { authz: { decision: true } } }], /a rule has this path/],
    ['an operation that OPA does not take', [{ op: 'test', path: '/on/alice', value: true }], /op must be add, remove, replace/],
  ] // biome-ignore format: a table
  const before = status().policy.data.changes
  for (const [name, operations, message] of cases)
    await t.rejects(change(...operations), { code: 'ERR_DATA_PATCH', message }, name)
  t.equal(status().policy.data.changes, before)
  await everyone(t, alice, 200, 'as before')
})

t.test('what is open ends when a change of the data denies it', async (t) => {
  const held = new OpenStream('chunks', 'data-a', gate.port, alice, { path: '/streams' })
  const other = new OpenStream('chunks', 'data-b', gate.port, bob, { path: '/streams' })
  await until('both are under way', () => held.under(upstream) && other.under(upstream))
  await change({ op: 'remove', path: '/on/alice' })
  await until('cut', () => held.ended !== undefined)
  t.equal(other.ended, undefined)
  other.stop()
  await change({ op: 'add', path: '/on/alice', value: true })
})

t.test('a worker in the place of one that died has all changes', async (t) => {
  await change({ op: 'add', path: '/on/dora', value: true })
  const restarts = () => status().workers.reduce((sum, each) => sum + each.restarts, 0)
  const before = restarts()
  const runaway = await gate.issuer.token('alice')
  const dying = gate.ask('/orders', runaway, { headers: { 'x-run': 'away' } }).catch(() => {})
  await until('a worker is replaced', () => restarts() > before)
  await dying
  // Made while the new worker starts: resolved only when it has this one too.
  await change({ op: 'add', path: '/on/emil', value: true })
  for (const who of ['dora', 'emil']) await everyone(t, await gate.issuer.token(who), 200, who)
})

t.test('what changes leave behind is removed while requests and changes go on', async (t) => {
  const dora = await gate.issuer.token('dora')
  let running = true
  const statuses = new Set<number>()
  const load = (async () => {
    while (running)
      for (const { status } of await clients.ask(gate, '/orders', dora)) statuses.add(status)
  })()
  const large = 'x'.repeat(900_000)
  for (let i = 0; i < 8 || status().policy.data.renewals === 0; i++) {
    await change({ op: 'add', path: '/blob', value: large + i })
    await flags(i, i)
    if (i > 100) break
  }
  await until('written anew', () => status().policy.data.renewals > 0)
  await change({ op: 'add', path: '/on/last', value: true })
  running = false
  await load
  t.same([...statuses], [200])
  await everyone(t, await gate.issuer.token('last'), 200, 'a change after it')
  await everyone(t, await gate.issuer.token('mallory'), 403, 'no other')
})

t.test('another bundle brings its own data', async (t) => {
  await gate.activate(await revised(bundle, 'two', data))
  t.match(status(), { policy: { data: { changes: 0, renewals: 0 } } })
  await everyone(t, bob, 403, 'the change of before is gone')
  t.equal(await change({ op: 'add', path: '/on/bob', value: true }), 1)
  await everyone(t, bob, 200, 'a change of the new data')
})
