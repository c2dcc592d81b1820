/**
 * What is written from the code: `dropgate.schema.json`, `docs/builtins.md` and the pages of docs/reference/. `make docs`
 * writes them anew (`--write`); a test compares. In the page of codes the last column, what to do, is written by hand and
 * kept; every code needs one.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import { makeProgram } from '../../src/cli/program.ts'
import { writeJsonSchema, writeTables } from '../../src/config/schema.ts'
import { identityHeaders, neverPassed, type ProxyHeaders } from '../../src/domain/proxy-headers.ts'
import { codes } from '../../src/errors.ts'
import { builtinsDocument } from './builtins.ts'

/** Path -> what the file should hold. */
export function documents(): ReadonlyMap<string, string> {
  return new Map([
    ['dropgate.schema.json', writeJsonSchema()],
    ['docs/builtins.md', builtinsDocument()],
    ['docs/reference/configuration.md', within('docs/reference/configuration.md', writeTables())],
    ['docs/reference/command-line.md', within('docs/reference/command-line.md', commandLine())],
    ['docs/reference/errors.md', errorsPage('docs/reference/errors.md')],
    [
      'docs/reference/removed-headers.md',
      within('docs/reference/removed-headers.md', removedHeaders()),
    ],
  ])
}

const marks = ['<!-- written by `make docs` from here -->\n', '<!-- to here -->'] as const

/** The page with this text in the place between its two marks. */
function within(page: string, text: string): string {
  const whole = readFileSync(page, 'utf8')
  const [from, to] = [whole.indexOf(marks[0]), whole.indexOf(marks[1])]
  if (from === -1 || to < from) throw new Error(`${page} has no place for what is written there`)
  return `${whole.slice(0, from)}${marks[0]}\n${text}\n${whole.slice(to)}`
}

function removedHeaders(): string {
  const table = (lists: readonly ProxyHeaders[]): string[] => [
    '| Whose | Names |',
    '| --- | --- |',
    ...lists.map(({ of, names }) => `| ${of} | ${names.map((name) => `\`${name}\``).join(', ')} |`),
    '',
  ]
  const what = ['## Of other proxies', '', ...table(identityHeaders)]
  return [...what, '## On no route', '', ...table(neverPassed)].join('\n')
}

function errorsPage(page: string): string {
  const written = readFileSync(page, 'utf8').matchAll(/^\| `(ERR_[A-Z_]+)` \|.*\| (.*) \|$/gm)
  const help = new Map([...written].map(([, code = '', text = '']) => [code, text]))
  const row = (code: string, ...cells: (string | number)[]): string =>
    `| \`${code}\` | ${[...cells, help.get(code) ?? ''].join(' | ')} |`
  const all = Object.entries(codes)
  const answers = all
    .filter(([, { status }]) => status !== 0)
    .map(([code, { status, title }]) => row(code, status, title))
  const others = all
    .filter(([, { status }]) => status === 0)
    .map(([code, { title }]) => row(code, title))
  return within(
    page,
    [
      '## Answers to clients',
      '',
      '| Code | Status | Meaning | What to do |',
      '| --- | --- | --- | --- |',
      ...answers,
      '',
      '## Commands, the start and the log of the gate',
      '',
      '| Code | Meaning | What to do |',
      '| --- | --- | --- |',
      ...others,
      '',
    ].join('\n'),
  )
}

/** Every command with its arguments and options, in the order of `--help`. */
function commandLine(): string {
  const all = (command: Command, name: string): string[] =>
    command.commands.length > 0
      ? command.commands.flatMap((each) => all(each, `${name} ${each.name()}`))
      : [commandSection(command, name)]
  return makeProgram(() => {})
    .commands.flatMap((command) => all(command, `dropgate ${command.name()}`))
    .join('\n')
}

const common = ['--config', '--json', '--help']

function commandSection(command: Command, name: string): string {
  const given = command.registeredArguments.map((each) =>
    each.required ? `<${each.name()}>` : `[${each.name()}]`,
  )
  const rows = command.options
    .filter(({ long, hidden }) => !hidden && !common.includes(long ?? ''))
    .map(({ flags, description, defaultValue }) => {
      const standard = defaultValue === undefined ? '' : `\`${defaultValue}\``
      return `| \`${flags}\` | ${standard} | ${description.replaceAll('|', '\\|')} |`
    })
  const lines = [`## \`${[name, ...given].join(' ')}\``, '', sentence(command.description()), '']
  if (rows.length > 0) lines.push('| Option | Default | |', '| --- | --- | --- |', ...rows, '')
  return lines.join('\n')
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`
}

if (process.argv.includes('--write')) {
  for (const [path, text] of documents()) writeFileSync(path, text)
}
