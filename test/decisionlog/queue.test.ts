/** The log thread as it is: every line once, in order, whole; what cannot be taken is counted, never waited for. */
import { execFileSync } from 'node:child_process'
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MessageChannel, type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { DecisionLog } from '../../src/decisionlog/log.ts'
import { LogQueue, maxChunks } from '../../src/decisionlog/queue.ts'
import type { LogBatch } from '../../src/messages.ts'
import { pause, seeded, until } from '../harness/wait.ts'

const folder = mkdtempSync(join(tmpdir(), 'dropgate-log-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))

async function opened(file: string): Promise<DecisionLog> {
  const log = new DecisionLog({ sink: { file }, log: { info: () => {}, error: () => {} } })
  await log.open()
  return log
}

function queueTo(port: MessagePort): { queue: LogQueue; dropped: () => number } {
  let dropped = 0
  const queue = new LogQueue({ port, metrics: { count: () => dropped++ } })
  return { queue, dropped: () => dropped }
}

/** Without the thread: what it would get comes at `port`. */
function queueAlone(t: Test) {
  const { port1, port2 } = new MessageChannel()
  t.teardown(() => {
    port1.close()
    port2.close()
  })
  return { ...queueTo(port1), port: port2 }
}

t.test('lines of every length from two workers are written whole and in order', async (t) => {
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
    if (n % 500 === 0) await pause(25)
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

t.test('what would mislead who reads a line is an escape in it, and means the same', async (t) => {
  const file = join(folder, 'misleading.jsonl')
  const log = await opened(file)
  const { queue } = queueTo(log.port())
  const range = (from: number, to: number): string =>
    Array.from({ length: to - from + 1 }, (_, i) => String.fromCharCode(from + i)).join('')
  const misleading = `${range(0x80, 0x9f)}\u061c\u200e\u200f${range(0x2028, 0x202e)}${range(0x2066, 0x2069)}`
  const texts = [
    ...misleading,
    misleading,
    `é€😀\u200d${misleading}é`,
    // Longer than a chunk, and longer only with its escapes.
    misleading.repeat(4000),
    '\u202e'.repeat(60_000),
    'x'.repeat(200_000) + misleading,
    'é€😀\u200d',
  ]
  const lines = texts.map((text) => JSON.stringify({ path: text, names: { [text]: [text] } }))
  for (const line of lines) queue.push(line)
  queue.flush()
  await log.close()
  const written = readFileSync(file, 'utf8').split('\n').slice(0, -1)
  t.same(written.length, lines.length)
  t.ok(written.every((line, i) => JSON.stringify(JSON.parse(line)) === lines[i]))
  t.notMatch(written.join(''), /[\x7f-\x9f]|\p{Bidi_Control}|[\u2028\u2029]/u)
  t.match(written.at(-1), 'é€😀\u200d', 'and nothing else is')
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

t.test(
  'a file that cannot be opened is named with what to do, and the stop does not wait for it',
  async (t) => {
    writeFileSync(join(folder, 'plain'), '')
    for (const [file, why] of [
      ['/proc/nope/x/y.jsonl', 'ENOENT'],
      [join(folder, 'plain', 'y.jsonl'), 'ENOTDIR'],
      [folder, 'EISDIR'],
    ] as const) {
      const log = new DecisionLog({ sink: { file }, log: { info: () => {}, error: () => {} } })
      const message = `decision_log.file: ${file} cannot be opened (${why})`
      await t.rejects(log.open(), {
        code: 'ERR_CONFIG_FILE',
        message,
        hint: /give the user of the gate permission to create/,
      })
      const beganMs = performance.now()
      await log.close()
      t.ok(performance.now() - beganMs < 1000)
    }
    const deep = join(folder, 'a', 'b', 'c.jsonl')
    await (await opened(deep)).close()
    t.ok(statSync(deep).isFile())
  },
)

t.test('a pipe that its reader does not empty keeps no gate from stopping', async (t) => {
  const pipe = join(folder, 'pipe')
  execFileSync('mkfifo', [pipe])
  await t.rejects(opened(pipe), { code: 'ERR_CONFIG_FILE' }, 'nobody reads: no start that hangs')
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK)
  t.teardown(() => closeSync(reader))
  const log = await opened(pipe)
  const { queue } = queueTo(log.port())
  for (let n = 0; n < 50; n++) queue.push('x'.repeat(60_000))
  queue.flush()
  await pause(200)
  let closed = false
  void log.close().then(() => {
    closed = true
  })
  await until('it is closed', () => closed)
  t.pass()
})

t.test('while a sink takes nothing, lines wait up to the limit; the rest is counted', async (t) => {
  const { queue, dropped } = queueAlone(t)
  // Two of these to a chunk, since each might need three times its length.
  const line = 'x'.repeat(60_000)
  for (let n = 0; n < maxChunks; n++) queue.push(n % 2 === 0 ? line : 'y'.repeat(100_000))
  t.equal(dropped(), 0)
  for (let n = 0; n < 300; n++) queue.push(line)
  t.ok(dropped() >= 298, `${dropped()} of 300`)
})

t.test(
  'while the log thread is behind, lines fill the chunk instead of taking one each',
  async (t) => {
    const { queue, dropped, port } = queueAlone(t)
    // `batchMs` is over at the end of each of these, however late they are.
    const flushMs = 25
    const next = (): LogBatch | undefined => receiveMessageOnPort(port)?.message
    queue.push('first')
    await pause(flushMs)
    const memory = next()
    t.ok(memory?.type === 'memory')
    const { handedOver } = memory as Extract<LogBatch, { type: 'memory' }>
    t.match(next(), { type: 'chunk', index: 0, lines: 1 })
    for (let n = 0; n < 5; n++) {
      queue.push(`line ${n}`)
      await pause(flushMs)
    }
    const second = next() as Extract<LogBatch, { type: 'memory' }>
    t.match(second, { type: 'memory', index: 1 })
    t.equal(next(), undefined, 'nothing more is handed over')
    Atomics.store(handedOver, 0, 0)
    let batch: LogBatch | undefined
    await until('all of them, at once', () => {
      batch = next()
      return batch !== undefined
    })
    t.match(batch, { type: 'chunk', index: 1, lines: 5 })
    const { length } = batch as Extract<LogBatch, { type: 'chunk' }>
    const text = Buffer.from(second.memory).toString('utf8', 0, length)
    t.equal(text, 'line 0\nline 1\nline 2\nline 3\nline 4\n')
    t.equal(dropped(), 0)
  },
)

t.test(
  'how many lines wait for a sink that takes nothing is a matter of bytes, not of time',
  async (t) => {
    const { queue, dropped } = queueAlone(t)
    for (let n = 0; n < maxChunks + 20; n++) {
      queue.push('x')
      await pause(25)
    }
    t.equal(dropped(), 0)
    queue.flush()
  },
)
