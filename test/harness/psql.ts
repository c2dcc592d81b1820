/**
 * What the pages need of `psql`, for machines that have none: a URL or `-h -p -U -d`, `-c`, `-f`, standard input, `-v`, and
 * `-A -t -X -q`. Where there is a psql, the pages are run with that one, and test/pages/psql.test.ts holds this one against it.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import pg from 'pg'

const text = { type: 'string' } as const
const flag = { type: 'boolean' } as const
const several = { type: 'string', multiple: true } as const
const { values, positionals } = parseArgs({
  args: process.argv.slice(2),
  allowPositionals: true,
  options: {
    host: { ...text, short: 'h' },
    port: { ...text, short: 'p' },
    username: { ...text, short: 'U' },
    dbname: { ...text, short: 'd' },
    command: { ...several, short: 'c' },
    file: { ...several, short: 'f' },
    set: { ...several, short: 'v' },
    'no-align': { ...flag, short: 'A' },
    'tuples-only': { ...flag, short: 't' },
    'no-psqlrc': { ...flag, short: 'X' },
    quiet: { ...flag, short: 'q' },
  },
})

const variables = new Map<string, string>()
for (const each of values.set ?? []) {
  const [name = '', ...value] = each.split('=')
  variables.set(name, value.join('='))
}
const target = positionals[0] ?? values.dbname
const client = new pg.Client(
  target?.includes('://') === true
    ? target
    : {
        host: values.host ?? process.env.PGHOST,
        port: Number(values.port ?? process.env.PGPORT ?? 5432),
        user: values.username ?? process.env.PGUSER,
        database: target ?? process.env.PGDATABASE ?? values.username,
      },
)
client.on('notice', (notice) => {
  process.stderr.write(`${notice.severity}:  ${notice.message}\n`)
  if (notice.hint !== undefined) process.stderr.write(`HINT:  ${notice.hint}\n`)
})

let failed = false
try {
  await client.connect()
} catch (error) {
  process.stderr.write(`psql: error: ${(error as Error).message}\n`)
  process.exit(2)
}
for (const statement of statements()) {
  try {
    print(await client.query({ text: statement, rowMode: 'array' }))
  } catch (error) {
    const { severity, message, hint, detail } = error as pg.DatabaseError
    process.stderr.write(`${severity}:  ${message}\n`)
    if (detail !== undefined) process.stderr.write(`DETAIL:  ${detail}\n`)
    if (hint !== undefined) process.stderr.write(`HINT:  ${hint}\n`)
    failed = true
    if (variables.has('ON_ERROR_STOP')) break
  }
}
await client.end()
process.exitCode = failed ? (values.command === undefined ? 3 : 1) : 0

/** Each statement, in the order of -c and then of -f; standard input where neither is given. */
function statements(): string[] {
  const files = values.file ?? (values.command === undefined ? ['-'] : [])
  return [
    ...(values.command ?? []),
    ...files.flatMap((file) => split(readFileSync(file === '-' ? 0 : file, 'utf8'))),
  ].map(withVariables)
}

/** `:'name'` and `:"name"`, as psql quotes them. */
function withVariables(statement: string): string {
  return statement.replace(/(?<!:):(['"])(\w+)\1/g, (whole, quote: string, name: string) => {
    const value = variables.get(name)
    if (value === undefined) return whole
    return quote === "'" ? pg.escapeLiteral(value) : pg.escapeIdentifier(value)
  })
}

/** Cuts at semicolons outside of texts, names, comments and dollar quotes. */
function split(sql: string): string[] {
  const token =
    /'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\/\*[\s\S]*?\*\/|(\$\w*\$)[\s\S]*?\1|;|[^'"\-/$;]+|./g
  const found: string[] = []
  let current = ''
  for (const [piece] of sql.matchAll(token)) {
    if (piece !== ';') {
      if (!piece.startsWith('--')) current += piece
      continue
    }
    if (current.trim() !== '') found.push(current)
    current = ''
  }
  return current.trim() === '' ? found : [...found, current]
}

function print({ fields, rows, command, rowCount }: pg.QueryArrayResult): void {
  const bare = values['tuples-only'] === true
  if (fields.length === 0) {
    if (values.quiet !== true)
      process.stdout.write(`${command} ${rowCount ?? ''}`.trim().concat('\n'))
    return
  }
  const cells = rows.map((row) => row.map((cell) => (cell === null ? '' : String(cell))))
  const separator = values['no-align'] === true ? '|' : ' | '
  if (!bare) process.stdout.write(`${fields.map(({ name }) => name).join(separator)}\n`)
  for (const row of cells) process.stdout.write(`${row.join(separator)}\n`)
  if (!bare) process.stdout.write(`(${rows.length} ${rows.length === 1 ? 'row' : 'rows'})\n\n`)
}
