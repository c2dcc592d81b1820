/** How commands answer: results on standard output, problems on standard error, as text or with `--json` as JSON. */
import type { Log } from '../domain/log.ts'
import type { GateError } from '../errors.ts'

/** Folder in which dropgate is installed, with a slash at the end. */
export const root = new URL('../../', import.meta.url).pathname

export function print(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** The result of a command: as JSON with `--json`, otherwise by `printText`. */
export function printResult(
  options: { readonly json?: boolean },
  value: unknown,
  printText: () => void,
): void {
  if (options.json) print(JSON.stringify(value))
  else printText()
}

/** A number with its noun: `1 route`, `2 routes`. */
export function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`
}

/** The rows without the columns that are empty in all of them. */
export function withoutEmpty(
  rows: readonly Readonly<Record<string, unknown>>[],
): Record<string, unknown>[] {
  const used = Object.keys(rows[0] ?? {}).filter((column) =>
    rows.some((row) => row[column] !== null && row[column] !== false),
  )
  return rows.map((row) => Object.fromEntries(used.map((column) => [column, row[column]])))
}

/** Rows as an aligned table. */
export function printTable(rows: readonly Readonly<Record<string, unknown>>[]): void {
  const [first] = rows
  if (first === undefined) {
    print('(no rows)')
    return
  }
  const columns = Object.keys(first)
  const cells = rows.map((row) => columns.map((column) => cellText(row[column])))
  const widths = columns.map((column, i) =>
    Math.max(column.length, ...cells.map((row) => row[i]!.length)),
  )
  const line = (texts: readonly string[]): string =>
    texts
      .map((text, i) => text.padEnd(widths[i]!))
      .join('  ')
      .trimEnd()
  print(
    [line(columns), line(widths.map((width) => '-'.repeat(width))), ...cells.map(line)].join('\n'),
  )
}

function cellText(value: unknown): string {
  if (value === null || value === undefined) return ''
  if (value instanceof Date) return value.toISOString()
  if (Buffer.isBuffer(value)) return `\\x${value.toString('hex')}`
  const text = typeof value === 'object' ? JSON.stringify(value) : String(value)
  return text.replace(/[\0-\x1f\x7f-\x9f]/g, '?')
}

/** @returns the exit status: 1 failed, 2 wrong use. */
export function printError(error: GateError, json: boolean): number {
  const { code, message, hint, problems } = error
  const text = json
    ? JSON.stringify({ error: { code, message, hint, problems } })
    : `dropgate: ${message}\n${hintLine(hint)}  code: ${code}`
  process.stderr.write(`${text}\n`)
  return code === 'ERR_USAGE' ? 2 : 1
}

/** Prints a warning; the command succeeded. */
export function printWarning(message: string, hint: string | undefined): void {
  process.stderr.write(`dropgate: warning: ${message}\n${hintLine(hint)}`)
}

function hintLine(hint: string | undefined): string {
  return hint === undefined
    ? ''
    : `  hint: ${hint.replaceAll('`dropgate ', `\`${commandName()} `)}\n`
}

/** The command with which the user started dropgate, so that printed commands can be pasted as they are. */
export function commandName(): string {
  const { npm_command, npm_lifecycle_event } = process.env
  if (npm_lifecycle_event === 'dropgate') return 'npm run -s dropgate --'
  return npm_command === 'exec' ? 'npx dropgate' : 'dropgate'
}

/** The gate's own log: JSON lines on standard error. */
export function jsonLog(): Log {
  const write = (level: string, fields: object, message: string): void => {
    process.stderr.write(
      `${JSON.stringify({ level, time: new Date().toISOString(), msg: message, ...fields }, errorText)}\n`,
    )
  }
  return {
    info: (fields, message) => write('info', fields, message),
    warn: (fields, message) => write('warn', fields, message),
    error: (fields, message) => write('error', fields, message),
  }
}

function errorText(_key: string, value: unknown): unknown {
  return value instanceof Error ? value.message : value
}
