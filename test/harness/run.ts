/**
 * Runs the tests and says how many there were: `node test/harness/run.ts [--fast | file …]`. Each test of a file counts as
 * one; a file that breaks off, or that has no tests, counts as one that failed. Only failures are shown at length.
 */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { findOpa } from '../../src/bundle/opa.ts'
import { fastTests } from './fast.ts'

const given = process.argv.slice(2)
const fast = given[0] === '--fast'
// Before any test's clock runs, and once: building it takes minutes where Go's cache is cold.
if (!fast) findOpa(process.cwd())

const tap = spawn('tap', ['run', '--reporter=tap', ...(fast ? fastTests() : given)], {
  stdio: ['ignore', 'pipe', 'inherit'],
})
const exited = new Promise<number>((resolve) => tap.once('exit', (code) => resolve(code ?? 1)))

let passed = 0
let failed = 0
/** Of the file whose results are coming in. */
let file = { passed: 0, failed: 0 }
/** The last result failed: its diagnostics are shown. */
let failing = false

for await (const line of createInterface({ input: tap.stdout })) {
  const skipped = /^ {4}ok \d+ - (.*?) # SKIP (.*?)(?: \{)?$/.exec(line)
  if (skipped !== null) {
    // Neither passed nor failed, and said so.
    process.stdout.write(`  - ${skipped[1]}: not tried, ${skipped[2]}\n`)
    continue
  }
  const result = /^( *)(not )?ok \d+(?: - (.*?))?(?: [#{].*)?$/.exec(line)
  if (result === null) {
    if (failing) process.stdout.write(`${line}\n`)
    if (/^ *(?:\.\.\.|\}|\d+\.\.\d+)$/.test(line)) failing = false
    continue
  }
  const [, indent = '', not, name = ''] = result
  failing = not !== undefined
  const mark = failing ? '✗' : '✓'
  if (indent.length > 4) {
    if (failing) process.stdout.write(`${line}\n`)
  } else if (indent.length === 4) {
    file[failing ? 'failed' : 'passed']++
    process.stdout.write(`  ${mark} ${name}\n`)
  } else {
    const brokeOff = (failing && file.failed === 0) || file.passed + file.failed === 0
    passed += file.passed
    failed += file.failed + (brokeOff ? 1 : 0)
    process.stdout.write(`${brokeOff ? '✗' : mark} ${name}${brokeOff ? ' (broke off)' : ''}\n`)
    failing &&= brokeOff
    file = { passed: 0, failed: 0 }
  }
}
const exit = await exited
process.exitCode = failed > 0 || passed === 0 ? 1 : exit
process.stdout.write(`${passed} passed, ${failed} failed\n`)
