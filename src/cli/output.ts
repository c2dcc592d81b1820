/** How commands answer: results on standard output, problems on standard error, as text or with `--json` as JSON. */
import type { Log } from '../domain/log.ts'
import type { GateError } from '../errors.ts'
import { formatTable, plain, plainJson, type Row, type TableOptions } from './table.ts'

/** Folder in which dropgate is installed, with a slash at the end. */
export const root = new URL('../../', import.meta.url).pathname

export function print(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** A sentence that may quote rows, and commands in backquotes. */
export function printSentence(text: string): void {
  print(withCommands(plain(text)))
}

/** The result of a command: as JSON with `--json`, otherwise by `printText`. */
export function printResult(
  options: { readonly json?: boolean },
  value: unknown,
  printText: () => void,
): void {
  if (options.json) print(plainJson(JSON.stringify(value)))
  else printText()
}

/** A number with its noun: `1 route`, `2 routes`. */
export function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`
}

/** The rows without the columns that are empty in all of them. */
export function withoutEmpty(rows: readonly Row[]): Record<string, unknown>[] {
  const used = Object.keys(rows[0] ?? {}).filter((column) =>
    rows.some((row) => row[column] !== null && row[column] !== false),
  )
  return rows.map((row) => Object.fromEntries(used.map((column) => [column, row[column]])))
}

/** Rows as an aligned table, within the width of the terminal; whole in a pipe or file. */
export function printTable(rows: readonly Row[], options: Omit<TableOptions, 'width'> = {}): void {
  print(formatTable(rows, { width: process.stdout.columns, ...options }))
}

/**
 * One line for each field, its name in a column of its own. A field without a value is left out; one without a name goes
 * on with the field above.
 */
export function printFields(
  fields: readonly (readonly [name: string, value: string | undefined])[],
): void {
  const widest = Math.max(...fields.map(([name]) => name.length))
  for (const [name, value] of fields) {
    if (value !== undefined) print(`${name.padEnd(widest)}  ${withCommands(plain(value))}`)
  }
}

/** @returns the exit status: 1 failed, 2 wrong use. */
export function printError(error: GateError, json: boolean): number {
  const { code, message, hint, problems } = error
  const text = json
    ? plainJson(JSON.stringify({ error: { code, message, hint, problems } }))
    : `dropgate: ${lines(message)}\n${hintLine(hint)}  code: ${code}`
  process.stderr.write(`${text}\n`)
  return code === 'ERR_USAGE' ? 2 : 1
}

/** Prints a warning; the command succeeded. */
export function printWarning(message: string, hint: string | undefined): void {
  process.stderr.write(`dropgate: warning: ${lines(message)}\n${hintLine(hint)}`)
}

/** What an error quotes may come from a row, a token or an argument: only its line ends reach the terminal. */
function lines(text: string): string {
  return text.split('\n').map(plain).join('\n')
}

function hintLine(hint: string | undefined): string {
  return hint === undefined ? '' : `  hint: ${withCommands(lines(hint))}\n`
}

/** Commands in backquotes as the user can paste them. */
function withCommands(text: string): string {
  return text.replaceAll('`dropgate ', `\`${commandName()} `)
}

/** The command with which the user started dropgate, so that printed commands can be pasted as they are. */
export function commandName(): string {
  const { npm_command, npm_lifecycle_event, DROPGATE_COMMAND } = process.env
  // The Makefile says it: who has a checkout has no `dropgate` on PATH.
  if (DROPGATE_COMMAND !== undefined) return DROPGATE_COMMAND
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
