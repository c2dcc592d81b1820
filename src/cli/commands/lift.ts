/** `lift`: ends a block, or deletes a revocation. */
import { addBreakglass, addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import type { LoginOptions } from '../database.ts'
import { printResult, printSentence } from '../output.ts'
import { readId } from '../row-id.ts'
import { second } from '../times.ts'

type LiftOptions = CommonOptions & LoginOptions & { readonly forget?: boolean }

export function addLift(program: StrictCommand): void {
  addBreakglass(addCommand(program, 'lift', 'end a block; tokens issued before now stay revoked'))
    .argument('<id>')
    .option('--forget', 'delete the row instead: tokens issued earlier are valid again')
    .action(async (given: string, options: LiftOptions) => {
      const id = readId(given)
      const { asCommand } = await import('../database.ts')
      const { targetOf } = await import('../../store/lookup.ts')
      const { liftRevocation } = await import('../../store/statements.ts')
      const forget = options.forget === true
      const { row, wasBlock, target } = await asCommand(
        options.config,
        async (client, schema) => {
          const done = await liftRevocation(client, schema, id, forget)
          return { ...done, target: await targetOf(client, schema, id) }
        },
        options,
      )
      const what = `row ${id}${target === undefined ? '' : `, ${target}`}`
      const before = row.issued_before instanceof Date ? second(row.issued_before) : 'now'
      const forgetIt = `\`dropgate lift ${id} --forget\` deletes the row, and they are valid again`
      printResult(options, row, () =>
        printSentence(
          forget
            ? `deleted: ${what}; tokens issued earlier are valid again`
            : wasBlock
              ? `lifted: ${what}; it is a cutoff now: tokens issued before ${before} stay revoked; ${forgetIt}`
              : `nothing to lift: ${what}, is a cutoff already: tokens issued before ${before} are revoked, newer ones are not; ${forgetIt}`,
        ),
      )
    })
}
