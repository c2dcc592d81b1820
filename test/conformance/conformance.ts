/**
 * `make conformance`: all of OPA's cases, v0 and v1, on our engine. Prints the cases that fail and writes docs/conformance.md.
 * With names of directories as arguments: those only, and nothing is written.
 */
import { writeFileSync } from 'node:fs'
import { opaVersion } from '../../src/bundle/opa.ts'
import { type Case, findOpaSource, readCases, versions } from './cases.ts'
import { judge, type Verdict } from './verdict.ts'

type Row = Record<Verdict['verdict'], number>

const named = process.argv.slice(2)
const verdicts: [Case, Verdict][] = []
const queue = readCases(findOpaSource())
  .filter(({ directory }) => named.length === 0 || named.includes(directory))
  .values()
// As many compilers at once as the smallest machine has cores.
await Promise.all(
  [1, 2].map(async () => {
    for (const each of queue) verdicts.push([each, await judge(each)])
  }),
)
const place = ({ version, file, note }: Case): string => `${version} ${file} ${note}`
verdicts.sort(([a], [b]) => (place(a) < place(b) ? -1 : 1))

const none = (): Row => ({ pass: 0, opa: 0, ours: 0, fail: 0 })
const totals = new Map<string, Row>(versions.map((version) => [version, none()]))
const rows = new Map<string, Row>()
for (const [{ version, directory, note }, { verdict, why }] of verdicts) {
  const key = `${version} | ${directory}`
  const row = rows.get(key) ?? none()
  rows.set(key, row)
  row[verdict]++
  totals.get(version)![verdict]++
  if (verdict === 'fail') console.log(`${version} ${note}: ${why.slice(0, 500)}`)
}
const summary = [...totals].map(([version, row]) => summed(version, row))
console.log(summary.join('\n'))
if (named.length === 0) writeFileSync('docs/conformance.md', report())
process.exitCode = [...totals.values()].every(({ fail }) => fail === 0) ? 0 : 1

function summed(version: string, { pass, opa, ours, fail }: Row): string {
  return `${version}: ${pass} pass, ${opa} on OPA’s own list of exceptions, ${ours} on ours, ${fail} fail`
}

function report(): string {
  const lists: Readonly<Record<string, string>> = { opa: 'OPA’s', ours: 'ours' }
  const strict = verdicts.filter(([{ strictError }]) => strictError).length
  const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ')
  const notPassed = verdicts
    .filter(([, { verdict }]) => verdict !== 'pass')
    .map(
      ([{ version, note }, { verdict, why }]) =>
        `| ${version} | ${cell(note)} | ${lists[verdict] ?? verdict} | ${cell(why.slice(0, 300))} |`,
    )
  const byDirectory = [...rows].map(
    ([directory, { pass, opa, ours, fail }]) =>
      `| ${directory} | ${pass} | ${opa} | ${ours} | ${fail} |`,
  )
  return [
    '# Conformance',
    '',
    `OPA's own test cases of ${opaVersion}, ${verdicts.length} of them: those of the language v0 and those of v1, compiled by`,
    '`opa build` and evaluated by dropgate’s engine. Written by `make conformance`; `make check` runs a sample. A case that',
    'wants an error passes on OPA’s error code alone. One that wants an error under *strict errors* passes when the answer is',
    `undefined, as in OPA’s own WebAssembly run: a compiled module has no strict errors (${strict} cases).`,
    '',
    ...[...totals].map(([version, row]) => `- **${summed(version, row)}.**`),
    '',
    'What does not pass is on the list of exceptions of OPA’s own WebAssembly run, or on ours, with the reason.',
    '',
    '## Not passed',
    '',
    '| Language | Case | List | Why |',
    '| --- | --- | --- | --- |',
    ...notPassed,
    '',
    '## By directory',
    '',
    '| Language | Directory | Pass | OPA’s list | Our list | Fail |',
    '| --- | --- | --- | --- | --- | --- |',
    ...byDirectory,
    '',
  ].join('\n')
}
