import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import t from 'tap'

/** µs by which a new thread's clock is outside of two readings of the process's around it. */
const code = `
const { parentPort } = require('node:worker_threads')
import(${JSON.stringify(new URL('../../src/domain/clock.ts', import.meta.url).href)}).then(({ monotonicUs }) => {
  const processUs = () => Number(process.hrtime.bigint()) / 1e3
  let off = 0
  for (let i = 0; i < 1000; i++) {
    const before = processUs()
    const now = monotonicUs()
    const after = processUs()
    off = Math.max(off, before - now, now - after)
  }
  parentPort.postMessage(off)
})`

t.test('all threads have one clock, also those that are started in a crowd', async (t) => {
  for (let round = 0; round < 4; round++) {
    const crowd = Array.from({ length: 12 }, () => new Worker(code, { eval: true }))
    const off = await Promise.all(crowd.map(async (worker) => (await once(worker, 'message'))[0]))
    t.ok(Math.max(...off) < 200, `${off.map((each) => each.toFixed(0)).join(' ')} µs`)
    await Promise.all(crowd.map((worker) => worker.terminate()))
  }
})
