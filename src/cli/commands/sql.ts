/** `sql`: runs one SQL statement of the user with the login of the commands. */
import { GateError } from '../../errors.ts'
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { print, printResult, printTable, printWarning } from '../output.ts'

export function addSql(program: StrictCommand): void {
  addCommand(program, 'sql', 'run one statement by the login of the commands: a revoker and lifter')
    .argument('<statement>')
    .action(async (statement: string, options: CommonOptions) => {
      const result = await runStatement(options.config, statement)
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

async function runStatement(file: string, statement: string): Promise<SqlResult> {
  const { asCommand } = await import('../database.ts')
  const { refuseTokens } = await import('../../store/statements.ts')
  refuseTokens([statement])
  return await asCommand(file, async (client) => {
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
  })
}
