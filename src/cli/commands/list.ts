/** `list`: the newest revocations. */
import { GateError } from '../../errors.ts'
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { printResult, printTable, withoutEmpty } from '../output.ts'

type ListOptions = CommonOptions & { readonly limit: string }

export function addList(program: StrictCommand): void {
  addCommand(program, 'list', 'list the newest revocations')
    .option('--limit <n>', 'how many', '50')
    .action(async (options: ListOptions) => {
      const { limit } = options
      if (!/^[1-9]\d{0,5}$/.test(limit))
        throw new GateError('ERR_USAGE', '--limit must be a whole number from 1 to 999999')
      const { asCommand } = await import('../database.ts')
      const { listRevocations } = await import('../../store/statements.ts')
      const rows = await asCommand(options.config, (client, schema) =>
        listRevocations(client, schema, Number(limit)),
      )
      printResult(options, rows, () => printTable(withoutEmpty(rows)))
    })
}
