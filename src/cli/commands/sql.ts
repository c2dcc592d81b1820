/** `sql`: runs one SQL statement of the user with the login of the commands. */
import type pg from 'pg'
import { GateError } from '../../errors.ts'
import { addBreakglass, addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import type { LoginOptions } from '../database.ts'
import { print, printResult, printTable, printWarning } from '../output.ts'

export function addSql(program: StrictCommand): void {
  addBreakglass(
    addCommand(
      program,
      'sql',
      'run one SQL statement, with the login database.cli_url: it may revoke and lift',
    ),
  )
    .argument('<statement>')
    .action(async (statement: string, options: CommonOptions & LoginOptions) => {
      const result = await runStatement(options.config, statement, options)
      printResult(options, result, () => {
        if (result.rows.length > 0 || result.command === 'SELECT') printTable(result.rows)
        else print(`${result.command} ${result.count ?? ''}`.trim())
      })
    })
}

interface SqlResult {
  readonly command: string
  readonly count: number | null
  readonly rows: readonly Record<string, unknown>[]
}

async function runStatement(
  file: string,
  statement: string,
  login: LoginOptions,
): Promise<SqlResult> {
  const { asCommand } = await import('../database.ts')
  const { refuseTokens } = await import('../../store/statements.ts')
  refuseTokens([statement])
  const run = async (client: pg.Client): Promise<SqlResult> => {
    // What the statement has done besides; `asCommand` prints warnings.
    client.on('notice', ({ severity, message, hint }) => {
      if (severity === 'NOTICE') printWarning(message ?? '', hint)
    })
    // An extended query takes exactly one statement.
    const { command, rowCount, rows } = await client.query({
      text: statement,
      queryMode: 'extended',
    } as never)
    // Only spaces and comments were given.
    if (command === null) throw new GateError('ERR_USAGE', 'the SQL statement is empty')
    return { command, count: rowCount, rows: rows as Record<string, unknown>[] }
  }
  return await asCommand(file, run, login)
}
