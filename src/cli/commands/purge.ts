/** `purge`: deletes the revocations that an elected gate deletes from time to time. */
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { count, print, printResult } from '../output.ts'

const batch = 10_000

export function addPurge(program: StrictCommand): void {
  addCommand(program, 'purge', 'delete revocations that no valid token can match any more').action(
    async (options: CommonOptions) => {
      const done = await purge(options.config)
      printResult(options, done, () =>
        print(
          `deleted ${count(done.revocations, 'revocation')} and ${count(done.tombs, 'tombstone')}`,
        ),
      )
    },
  )
}

async function purge(file: string): Promise<{ revocations: number; tombs: number }> {
  const { asCommand } = await import('../database.ts')
  const { purgeBatch } = await import('../../store/statements.ts')
  return await asCommand(file, async (client, schema) => {
    const sum = { revocations: 0, tombs: 0 }
    for (;;) {
      const done = await purgeBatch(client, schema, batch)
      sum.revocations += done.revocations
      sum.tombs += done.tombs
      if (done.revocations < batch && done.tombs < batch) return sum
    }
  })
}
