/** When a worker that gives no sign of life is replaced: by what its thread has used, as generated and as real threads use it. */
import { Worker } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { ownCpuMs, ownThreadId, ThreadCpu, type ThreadUse } from '../../src/domain/thread-cpu.ts'
import { asleepMs, Silence, silentMs, watchMs } from '../../src/gate/silence.ts'
import { seeded, seedOf, until } from '../harness/wait.ts'

const seed = seedOf()
t.comment(`seed ${seed}`)
const random = seeded(seed)
const below = (n: number): number => Math.floor(random() * n)

t.test('the CPU a worker has had counts, however long that took', async (t) => {
  for (let round = 0; round < 500; round++) {
    const silence = new Silence()
    let now = below(1e6)
    let cpuMs = below(1e5)
    silence.broken(now, { cpuMs, runnable: true })
    const before = cpuMs
    // From a machine of its own down to next to nothing; looked at in time, and late.
    const share = [1, 0.5, 0.1, 0.01][below(4)]!
    const late = below(2) === 0 ? 0 : 3000
    for (;;) {
      const passedMs = watchMs + (below(5) === 0 ? below(late) : 0)
      now += passedMs
      cpuMs += passedMs * share
      const tooLong = silence.tooLong(now, { cpuMs, runnable: true })
      if (tooLong !== cpuMs - before > silentMs)
        t.fail(`seed ${seed}, round ${round}: ${tooLong} after ${cpuMs - before} ms`)
      if (tooLong) break
    }
  }
  t.pass('500 rounds')
})

t.test('a worker without CPU is waited for; one that sleeps is replaced at last', async (t) => {
  const starved = new Silence()
  starved.broken(0, { cpuMs: 500, runnable: true })
  for (let now = watchMs; now < 600_000; now += watchMs)
    if (starved.tooLong(now, { cpuMs: 500, runnable: true })) t.fail(`replaced after ${now} ms`)

  const asleep = new Silence()
  const use = { cpuMs: 500, runnable: false }
  asleep.broken(0, use)
  // Time in which the control thread did not look does not count against the worker.
  t.notOk(asleep.tooLong(60_000, use))
  let now = 60_000 + watchMs
  while (!asleep.tooLong(now, use) && now < 120_000) now += watchMs
  t.ok(now - 60_000 >= asleepMs - 2 * watchMs && now - 60_000 <= asleepMs + 2 * watchMs, `${now}`)
  asleep.broken(now, use)
  t.notOk(asleep.tooLong(now + watchMs, use), 'a sign of life, and it begins anew')
})

t.test(
  'where no CPU time is known the wall clock decides, but not while the looker was late',
  async (t) => {
    for (const [first, then] of [
      [undefined, undefined],
      [{ cpuMs: 5, runnable: true }, undefined],
      [undefined, { cpuMs: 5, runnable: true }],
    ] as [ThreadUse | undefined, ThreadUse | undefined][]) {
      const silence = new Silence()
      silence.broken(0, first)
      t.notOk(silence.tooLong(5000, then))
      let now = 5000 + watchMs
      while (!silence.tooLong(now, then) && now < 60_000) now += watchMs
      t.equal(now - 5000, silentMs + watchMs)
    }
  },
)

const linux = process.platform === 'linux' ? {} : { skip: 'only Linux says what a thread uses' }

/** A thread that says which it is and then does as the code says; `words[1]` is for what the test says to it. */
async function thread(
  t: Test,
  code: string,
  words = new Int32Array(new SharedArrayBuffer(8)),
): Promise<ThreadCpu> {
  const worker = new Worker(
    `const { workerData: words } = require('node:worker_threads')
     for (const until = performance.now() + 50; performance.now() < until;);
     import(${JSON.stringify(new URL('../../src/domain/thread-cpu.ts', import.meta.url).href)}).then(({ ownThreadId }) => {
       words[0] = ownThreadId()
       ${code}
     })`,
    { eval: true, workerData: words },
  )
  t.teardown(() => worker.terminate())
  let cpu: ThreadCpu | undefined
  await until('it has used some time', () => {
    cpu ??= ThreadCpu.of(Atomics.load(words, 0))
    return cpu !== undefined
  })
  t.teardown(() => cpu!.close())
  return cpu!
}

// (module (func (export "run") (loop br 0)))
const endless =
  'new WebAssembly.Instance(new WebAssembly.Module(Buffer.from("0061736d01000000010401600000030201000707010372756e00000a0901070003400c000b0b", "hex"))).exports.run()'

t.test(
  'a real thread that never ends is found, in JavaScript and WebAssembly',
  linux,
  async (t) => {
    for (const code of ['for (;;);', endless]) {
      const cpu = await thread(t, code)
      const silence = new Silence()
      silence.broken(performance.now(), cpu.read())
      let tooLong = false
      const timer = setInterval(() => {
        tooLong ||= silence.tooLong(performance.now(), cpu.read())
      }, watchMs)
      await until('it is told', () => tooLong)
      clearInterval(timer)
    }
  },
)

t.test('a real thread that sleeps in the middle of a turn uses no CPU time', linux, async (t) => {
  const cpu = await thread(t, 'Atomics.wait(words, 1, 0)')
  await until('it sleeps', () => cpu.read()?.runnable === false)
  const before = cpu.read()!
  const own = ownCpuMs()
  // While this thread uses some.
  while (ownCpuMs() - own < 100);
  t.same(cpu.read(), before)
})

t.test('a thread that has ended is not taken for another', linux, async (t) => {
  const words = new Int32Array(new SharedArrayBuffer(8))
  const cpu = await thread(t, 'Atomics.wait(words, 1, 0); process.exit()', words)
  Atomics.store(words, 1, 1)
  Atomics.notify(words, 1)
  await until('it is gone', () => cpu.read() === undefined)
  t.equal(ThreadCpu.of(0), undefined)
  t.equal(ThreadCpu.of(2 ** 31 - 1), undefined)
  t.ok(ThreadCpu.of(ownThreadId())?.read()?.runnable)
})
