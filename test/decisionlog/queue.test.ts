/** The log thread as it is: every line once, in order, whole; what cannot be taken is counted, never waited for. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MessageChannel, type MessagePort } from 'node:worker_threads'
import t from 'tap'
import { DecisionLog } from '../../src/decisionlog/log.ts'
import { LogQueue, maxChunks } from '../../src/decisionlog/queue.ts'
import { seeded, until } from '../harness/wait.ts'

const folder = mkdtempSync(join(tmpdir(), 'dropgate-log-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))

async function opened(file: string): Promise<DecisionLog> {
  const log = new DecisionLog({ sink: { file }, log: { error: () => {} } })
  await log.open()
  return log
}

function queueTo(port: MessagePort): { queue: LogQueue; dropped: () => number } {
  let dropped = 0
  const queue = new LogQueue({ port, metrics: { count: () => dropped++ } })
  return { queue, dropped: () => dropped }
}

t.test('lines of every length, from two workers, each whole and in its order', async (t) => {
  const file = join(folder, 'lines.jsonl')
  const log = await opened(file)
  const random = seeded(7)
  const expected: string[][] = [[], []]
  const queues = [queueTo(log.port()), queueTo(log.port())]
  for (let n = 0; n < 3000; n++) {
    const worker = n % 2
    const size = random() < 0.01 ? 200_000 * random() : 3000 * random()
    // Letters of one, two and three bytes, and a pair of surrogates.
    const text = 'aé€😀'.repeat(Math.ceil(size / 5))
    const line = JSON.stringify({ worker, n, text })
    expected[worker]!.push(line)
    queues[worker]!.queue.push(line)
    if (n % 500 === 0) await new Promise((resolve) => setTimeout(resolve, 25))
  }
  for (const { queue } of queues) queue.flush()
  await log.close()
  const written = readFileSync(file, 'utf8').split('\n')
  t.equal(written.pop(), '', 'a newline ends it')
  for (const [worker, lines] of expected.entries()) {
    const own = written.filter((line) => line.startsWith(`{"worker":${worker},`))
    t.ok(own.length === lines.length && own.every((line, i) => line === lines[i]))
  }
  for (const { dropped } of queues) t.equal(dropped(), 0)
})

t.test('a few lines are written without waiting for more', async (t) => {
  const file = join(folder, 'few.jsonl')
  const log = await opened(file)
  const { queue } = queueTo(log.port())
  queue.push('{"n":1}')
  await until('written', () => readFileSync(file, 'utf8') === '{"n":1}\n')
  await log.close()
  t.pass()
})

t.test('a sink that does not take them: as many wait as may, the rest is counted', async (t) => {
  const { port1, port2 } = new MessageChannel()
  const { queue, dropped } = queueTo(port1)
  // Two of these to a chunk, since each might need three times its length.
  const line = 'x'.repeat(60_000)
  for (let n = 0; n < maxChunks; n++) queue.push(n % 2 === 0 ? line : 'y'.repeat(100_000))
  t.equal(dropped(), 0)
  for (let n = 0; n < 300; n++) queue.push(line)
  t.ok(dropped() >= 298, `${dropped()} of 300`)
  port1.close()
  port2.close()
})
