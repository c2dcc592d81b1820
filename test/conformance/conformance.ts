/**
 * `make conformance`: all of OPA's v1 cases on our engine. Prints the cases that fail and writes docs/conformance.md.
 * With names of directories as arguments: those only, and nothing is written.
 */
import { writeFileSync } from 'node:fs'
import { opaVersion } from '../../src/bundle/opa.ts'
import { type Case, findCases, readCases } from './cases.ts'
import { judge, type Verdict } from './verdict.ts'

type Row = Record<Verdict['verdict'], number>

const named = process.argv.slice(2)
const verdicts: [Case, Verdict][] = []
const queue = readCases(findCases())
  .filter(({ directory }) => named.length === 0 || named.includes(directory))
  .values()
// As many compilers at once as the smallest machine has cores.
await Promise.all(
  [1, 2].map(async () => {
    for (const each of queue) verdicts.push([each, await judge(each)])
  }),
)
verdicts.sort(([a], [b]) => (a.file + a.note < b.file + b.note ? -1 : 1))

const total: Row = { pass: 0, expected: 0, fail: 0 }
const rows = new Map<string, Row>()
for (const [{ directory, note }, { verdict, why }] of verdicts) {
  const row = rows.get(directory) ?? { pass: 0, expected: 0, fail: 0 }
  rows.set(directory, row)
  row[verdict]++
  total[verdict]++
  if (verdict === 'fail') console.log(`${note}: ${why.slice(0, 500)}`)
}
if (named.length === 0) writeFileSync('docs/conformance.md', report())
console.log(`${total.pass} passed, ${total.fail} failed, ${total.expected} expected`)
process.exitCode = total.fail === 0 ? 0 : 1

function report(): string {
  const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ')
  const notPassed = verdicts
    .filter(([, { verdict }]) => verdict !== 'pass')
    .map(
      ([{ note }, { verdict, why }]) =>
        `| ${cell(note)} | ${verdict} | ${cell(why.slice(0, 300))} |`,
    )
  const byDirectory = [...rows].map(
    ([directory, { pass, expected, fail }]) => `| ${directory} | ${pass} | ${expected} | ${fail} |`,
  )
  return [
    '# Conformance',
    '',
    `OPA's own test cases (v1 of ${opaVersion}, ${verdicts.length} of them), compiled by \`opa build\` and evaluated by`,
    'dropgate’s engine. Written by `make conformance`; `make check` runs a sample. *Expected* are failures for which',
    'OPA’s own WebAssembly run makes the same exception, and cases that need a builtin which dropgate refuses. As in',
    'that run, a case about strict errors of builtins passes when the answer is undefined.',
    '',
    `**${total.pass} pass, ${total.expected} expected, ${total.fail} fail.**`,
    '',
    '## Not passed',
    '',
    '| Case | Verdict | Why |',
    '| --- | --- | --- |',
    ...notPassed,
    '',
    '## By directory',
    '',
    '| Directory | Pass | Expected | Fail |',
    '| --- | --- | --- | --- |',
    ...byDirectory,
    '',
  ].join('\n')
}
