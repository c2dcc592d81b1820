/** `lift`: ends a block, or deletes a revocation. */
import { GateError } from '../../errors.ts'
import { addBreakglass, addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import type { LoginOptions } from '../database.ts'
import { print, printResult } from '../output.ts'

type LiftOptions = CommonOptions & LoginOptions & { readonly forget?: boolean }

export function addLift(program: StrictCommand): void {
  addBreakglass(addCommand(program, 'lift', 'end a block; tokens issued before now stay revoked'))
    .argument('<id>')
    .option('--forget', 'delete the row instead: tokens issued earlier are valid again')
    .action(async (id: string, options: LiftOptions) => {
      if (!/^\d{1,18}$/.test(id))
        throw new GateError('ERR_USAGE', `${JSON.stringify(id)} is not the id of a revocation`)
      const { asCommand } = await import('../database.ts')
      const { liftRevocation } = await import('../../store/statements.ts')
      const forget = options.forget === true
      const { row, wasBlock } = await asCommand(
        options.config,
        (client, schema) => liftRevocation(client, schema, id, forget),
        options,
      )
      printResult(options, row, () =>
        print(
          forget
            ? `deleted revocation ${row.id}`
            : wasBlock
              ? `lifted revocation ${row.id}; it is a cutoff now`
              : `revocation ${row.id} was a cutoff already: there is nothing to lift`,
        ),
      )
    })
}
