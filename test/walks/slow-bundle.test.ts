/** A bundle that is made to be slow arrives while requests run: it costs no tick, no request and no worker. */
import t from 'tap'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { slowBundles } from '../harness/slow-bundles.ts'
import { pause, until } from '../harness/wait.ts'

interface Status {
  readonly policy: { readonly code: string | null; readonly message: string | null }
  readonly feed: { readonly ticks: number; readonly reconnects: number }
  readonly workers: readonly { readonly restarts: number }[]
} // biome-ignore format: a table

/** Those of another kind each; all of them in `make soak`. */
const usual = ['many functions', 'large data']

t.test('while a slow bundle is vetted, requests are answered and ticks go on', async (t) => {
  const wanted = ([what]: readonly [string, unknown]): boolean => process.env.SLOW === 'all' || usual.includes(what)
  const bundles = (await slowBundles()).filter(wanted)
  const gate = await TestGate.start({ bundle: null, ready: false, config: { policy: { bundles: './bundles', settle: '20ms', vet_timeout: '1s' } } })
  t.teardown(() => gate.stop())
  gate.put(compile('default decision := false\ndecision if input.route.name == "public"'))
  await until('ready', () => gate.gate.readiness().ready)
  const status = (): Status => gate.gate.status() as Status
  const token = await gate.issuer.token('alice')
  const vetted = (): number =>
    gate.logged.filter(({ message }) => /^(policy activated|the bundle is refused)/.test(message)).length
  const refused: string[] = []
  let [asked, running, oldestMs] = [0, true, 0]
  const asking = (async (): Promise<void> => {
    while (running) {
      const { status, code } = await gate.ask('/public', token)
      asked++
      oldestMs = Math.max(oldestMs, (gate.gate.status() as { feed: { age_ms: number } }).feed.age_ms)
      if (status !== 200) refused.push(`${status} ${code}`)
      await pause(5)
    }
  })()
  for (const [what, make] of bundles) {
    const bundle = await make()
    const before = status()
    const askedBefore = asked
    oldestMs = 0
    const vettedBefore = vetted()
    gate.put(bundle)
    await until(`${what} is vetted`, () => vetted() > vettedBefore, 120_000)
    const after = status()
    t.comment(`${what}: ${bundle.length} bytes, ${after.policy.code} ${after.policy.message}, feed at most ${oldestMs} ms old, ${asked - askedBefore} asked`)
    t.ok(after.feed.ticks > before.feed.ticks, `${what}: ticks went on`)
    t.ok(asked > askedBefore, `${what}: requests went on`)
  }
  running = false
  await asking
  t.same(refused, [], 'no request was refused')
  t.equal(status().feed.reconnects, 0, 'the feed kept its session')
  t.same(status().workers.map(({ restarts }) => restarts), [0, 0], 'no worker was replaced')
}) // biome-ignore format: long lines
