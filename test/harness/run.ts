/**
 * Runs the tests and says how many there were: `node test/harness/run.ts [--fast | file …]`. Each test of a file counts as
 * one; a file that breaks off, or that has no tests, counts as one that failed. Only failures are shown at length.
 *
 * Each file is a plain Node.js, several at a time. `tap run` would load itself into every thread and every process that a
 * test starts: a gate, with its five threads, then takes three times the CPU to start.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { findOpa } from '../../src/bundle/opa.ts'
import { fastTests } from './fast.ts'
import { FileResults } from './results.ts'

/** More than the processors of a small machine: most of what takes long in a test is waiting. */
const jobs = 4
/** Longest time of one file; it has said itself by then which of its tests does not end. */
const fileTimeoutMs = 600_000
const testTimeoutS = 450

const given = process.argv.slice(2)
const fast = given[0] === '--fast'
const files = fast ? fastTests() : given.length > 0 ? given : globSync('test/**/*.test.ts').sort()
// Before any test's clock runs, and once: building it takes minutes where Go's cache is cold.
if (!fast) findOpa(process.cwd())

const running = new Set<ChildProcess>()
const counts = { passed: 0, failed: 0 }

/** Runs one file to its end and shows its results. */
async function run(file: string): Promise<void> {
  const began = performance.now()
  // A process group of its own: nothing that a test started outlives its file.
  const child = spawn(process.execPath, [file], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
    env: { ...process.env, TAP: '1', TAP_TIMEOUT: process.env.TAP_TIMEOUT ?? `${testTimeoutS}` },
  })
  running.add(child)
  const exited = new Promise<number | string>((resolve) =>
    child.once('exit', (code, signal) => resolve(code ?? signal ?? 1)),
  )
  const timer = setTimeout(() => kill(child), fileTimeoutMs)
  const results = new FileResults()
  for await (const line of createInterface({ input: child.stdout })) results.read(line)
  const exit = await exited
  clearTimeout(timer)
  kill(child)
  running.delete(child)
  const { text, passed, failed } = results.end(file, exit, performance.now() - began)
  process.stdout.write(text)
  counts.passed += passed
  counts.failed += failed
}

function kill({ pid }: ChildProcess): void {
  try {
    process.kill(-pid!, 'SIGKILL')
  } catch {
    // All of the group have ended.
  }
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    for (const child of running) kill(child)
    process.exit(1)
  })
}

const next = files[Symbol.iterator]()
await Promise.all(
  Array.from({ length: jobs }, async () => {
    for (const file of next) await run(file)
  }),
)
const { passed, failed } = counts
process.exitCode = failed > 0 || passed === 0 ? 1 : 0
process.stdout.write(`${passed} passed, ${failed} failed\n`)
