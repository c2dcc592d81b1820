/**
 * What is written from the code: `dropgate.schema.json`, `docs/builtins.md`, and the README's tables of options and of
 * codes. `make docs` writes them anew (`--write`); a test compares.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { writeJsonSchema, writeTable } from '../../src/config/schema.ts'
import { codes } from '../../src/errors.ts'
import { builtinsDocument } from './builtins.ts'

/** Path -> what the file should hold. */
export function documents(): ReadonlyMap<string, string> {
  const readme = readFileSync('README.md', 'utf8')
  return new Map([
    ['dropgate.schema.json', writeJsonSchema()],
    ['docs/builtins.md', builtinsDocument()],
    ['README.md', within(within(readme, 'options', writeTable()), 'codes', codeTable())],
  ])
}

function within(text: string, name: string, table: string): string {
  const [open, close] = [`<!-- ${name} -->\n`, `<!-- /${name} -->`]
  const [from, to] = [text.indexOf(open), text.indexOf(close)]
  if (from === -1 || to < from) throw new Error(`README.md has no place for its table of ${name}`)
  return `${text.slice(0, from)}${open}\n${table}\n${text.slice(to)}`
}

function codeTable(): string {
  const rows = Object.entries(codes).map(
    ([code, { status, title }]) => `| \`${code}\` | ${status === 0 ? '' : status} | ${title} |`,
  )
  return `${['| Code | Status | Meaning |', '| --- | --- | --- |', ...rows].join('\n')}\n`
}

if (process.argv.includes('--write')) {
  for (const [path, text] of documents()) writeFileSync(path, text)
}
