/** A second gate on the same port, for a rolling restart: while it starts, everything is the first one's. */
import { mkdirSync, readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { Gate } from '../../src/gate/gate.ts'
import { freePort } from '../bench/machine.ts'
import { TestGate } from '../harness/gate.ts'
import { pause, until } from '../harness/wait.ts'

const quiet = { info: () => {}, warn: () => {}, error: () => {} }
const gate = await TestGate.start()
t.teardown(() => gate.stop())
mkdirSync(join(gate.folder, 'empty'))

const configOf = ({ port = gate.port, bundles = './empty', path = '/public', more = {} } = {}) =>
  gate.configure(
    {
      issuer: { keys_cooldown: '500ms' },
      config: {
        ...more,
        listen: { host: '127.0.0.1', port, takeover: true },
        admin: { port: gate.gate.address().adminPort, token_file: 'admin.token' },
        decision_log: { file: 'second.jsonl' },
        policy: { bundles, settle: '20ms' },
      },
      routes: [
        { name: 'orders', path: '/orders' },
        { name: 'public', path, auth: 'none', labels: { visibility: 'public' } },
      ],
    },
    gate.cluster.url,
  )

/** Good requests without end, each on a connection of its own: the kernel gives each socket on the port its share. */
async function load() {
  const token = await gate.issuer.token('alice')
  const seen = { answers: 0, failures: [] as string[] }
  let going = true
  const loops = Array.from({ length: 6 }, async () => {
    while (going) {
      const outcome = await gate.ask('/orders', token).then(
        ({ status, code }) => `${status} ${code ?? ''}`.trim(),
        (error) => String(error),
      )
      seen.answers++
      if (outcome !== '200') seen.failures.push(outcome)
      await pause(3)
    }
  })
  const more = async (count: number): Promise<void> => {
    const end = seen.answers + count
    await until(`${count} more answers`, () => seen.answers >= end, 60_000)
  }
  const stop = async (): Promise<void> => {
    going = false
    await Promise.all(loops)
  }
  return { seen, more, stop }
}

t.test('it takes no connection before it is ready, and no request is lost', async (t) => {
  const { seen, more, stop } = await load()
  t.teardown(stop)
  await more(20)
  const next = new Gate(configOf(), { log: quiet })
  t.teardown(() => next.close())
  await next.open()
  await more(200)
  t.same(seen.failures, [], 'without a policy')
  t.match(next.readiness(), {
    ready: false,
    reasons: ['no policy bundle is active', /waiting to take over the port/],
  })

  // It serves by what it was told while it waited.
  await next.reload(configOf({ path: '/renewed' }))
  gate.put(readFileSync('bundles/gate.tar.gz'), join(gate.folder, 'empty'))
  await next.listening()
  await until('it is ready', () => next.readiness().ready)
  await until('it serves', async () => (await gate.ask('/renewed')).status === 200)
  await more(100)
  await stop()
  t.same(seen.failures, [])
  t.ok(gate.gate.readiness().ready)
})

const dead = { issuer: 'http://127.0.0.1:1', audience: ['api'] }
const without = (issuer: string): string => `no keys of the issuer ${issuer} (ERR_OUTBOUND)`

t.test('it waits for the keys of every issuer, and the first serves meanwhile', async (t) => {
  const { seen, more, stop } = await load()
  t.teardown(stop)
  gate.issuer.down = true
  await more(20)
  const logged: object[] = []
  const warn = (fields: object, message: string): void => {
    if (/not taken over yet/.test(message)) logged.push(fields)
  }
  const issuersOf = (...more: object[]) => [
    { issuer: gate.issuer.url, audience: ['api'], keys_cooldown: '500ms' },
    ...more,
  ]
  // Nothing is kept in this folder.
  const configWith = (issuers: object[]) =>
    configOf({ bundles: './bundles', path: '/keyed', more: { state_dir: './new', issuers } })
  const next = new Gate(configWith(issuersOf(dead)), { log: { ...quiet, warn } })
  t.teardown(() => next.close())
  await next.open()
  const own = without(gate.issuer.url)
  const misses = (...issuers: string[]): Promise<void> => {
    const waits = 'waiting to take over the port until the gate is otherwise ready'
    const all = [...issuers, waits].join()
    return until('only keys are missing', () => next.readiness().reasons.join() === all)
  }
  await misses(own, without(dead.issuer))
  await more(100)

  // The way out where an issuer is gone for good.
  await next.reload(configWith(issuersOf()))
  await misses(own)
  await until('it says so', () => logged.length === 2)
  t.match(logged, [
    { issuers: [own, without(dead.issuer)], hint: /SIGHUP/ },
    { issuers: [own], hint: /SIGHUP/ },
  ])
  await more(50)
  t.equal((await gate.ask('/keyed')).status, 404, 'every answer is from the first')
  gate.issuer.down = false
  await next.listening()
  await until('it serves', async () => (await gate.ask('/keyed')).status === 200)
  await more(50)
  await stop()
  t.same(seen.failures, [])
})

t.test(
  'a healthy one loses none from its first moment on, with kept keys while the issuer is away',
  async (t) => {
    const { seen, more, stop } = await load()
    t.teardown(stop)
    t.teardown(() => {
      gate.issuer.down = false
    })
    gate.issuer.down = true
    await more(20)
    const next = new Gate(configOf({ bundles: './bundles', path: '/kept' }), { log: quiet })
    t.teardown(() => next.close())
    await next.open()
    await next.listening()
    await until('it serves', async () => (await gate.ask('/kept')).status === 200)
    await until('it is ready', () => next.readiness().ready)
    await more(50)
    await stop()
    t.same(seen.failures, [])
    t.match(next.status(), { issuers: [{ keys: 1, code: 'ERR_OUTBOUND' }] })
  },
)

t.test(
  'a gate that serves names the issuer without keys, and stays ready for others',
  async (t) => {
    const live = { issuer: gate.issuer.url, audience: ['api'], algorithms: ['ES256'] }
    const made = await TestGate.start({
      beside: gate,
      config: { issuers: [live, dead], workers: 1 },
      routes: [{ name: 'orders', path: '/orders' }],
    })
    t.teardown(() => made.stop())
    const answer = await fetch(`${made.admin}/readyz`)
    t.equal(answer.status, 200)
    t.same(await answer.json(), { ready: true, reasons: [], warnings: [without(dead.issuer)] })
    t.equal((await made.ask('/orders', await gate.issuer.token('alice'))).status, 200)
    const foreign = await gate.issuer.token('alice', { claims: { iss: dead.issuer } })
    t.equal((await made.ask('/orders', foreign)).code, 'ERR_KEYS_UNAVAILABLE')
  },
)

t.test('a second gate that is stopped while it waits ends, and the first goes on', async (t) => {
  mkdirSync(join(gate.folder, 'none'))
  const next = new Gate(configOf({ bundles: './none' }), { log: quiet })
  await next.open()
  const refused = t.rejects(next.listening(), { code: 'ERR_NOT_READY' })
  await next.close()
  await refused
  t.equal((await gate.ask('/public')).status, 200)
})

t.test('a gate that waits for keys serves what it can once the other one has gone', async (t) => {
  const port = await freePort()
  const listen = { host: '127.0.0.1', port, takeover: true }
  const other = await TestGate.start({ beside: gate, config: { listen, workers: 1 } })
  t.teardown(() => other.stop())
  const live = { issuer: gate.issuer.url, audience: ['api'], algorithms: ['ES256'] }
  const next = await TestGate.start({
    beside: gate,
    config: { listen, issuers: [live, dead] },
    routes: [{ name: 'orders', path: '/orders' }],
    ready: false,
  })
  t.teardown(() => next.stop())
  const waits = 'waiting to take over the port until the gate is otherwise ready'
  await next.waitsFor(`${without(dead.issuer)},${waits}`)
  await other.gate.close()
  await next.gate.listening()
  t.equal((await next.ask('/orders', await gate.issuer.token('alice'))).status, 200)
  t.match(next.gate.readiness(), { ready: true, warnings: [without(dead.issuer)] })
  t.ok(next.logged.some(({ message }) => /left the port early/.test(message)))
})

t.test(
  'a program that does not share the port ends the start, once all else is ready',
  async (t) => {
    const foreign = await new Promise<Server>((resolve) => {
      const server = createServer().listen(0, '127.0.0.1', () => resolve(server))
    })
    t.teardown(() => foreign.close())
    const { port } = foreign.address() as { port: number }
    const next = new Gate(configOf({ port, bundles: './bundles' }), { log: quiet })
    await next.open()
    await t.rejects(next.listening(), { code: 'ERR_LISTEN', message: /EADDRINUSE/ })
    await t.rejects(next.reload(configOf({ port, bundles: './bundles' })), {
      code: 'ERR_NOT_READY',
    })
  },
)

t.test('on a free port a gate that is not ready says itself what is missing', async (t) => {
  const port = await freePort()
  const first = await TestGate.start({
    beside: gate,
    bundle: null,
    config: { listen: { host: '127.0.0.1', port, takeover: true } },
    ready: false,
  })
  t.teardown(() => first.stop())
  await first.gate.listening()
  await first.waitsFor('no policy bundle is active')
  t.equal((await first.ask('/public')).code, 'ERR_POLICY_MISSING')
})
