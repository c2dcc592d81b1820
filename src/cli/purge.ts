/** `purge`: deletes what is provably dead, as an elected gate does from time to time. */
import { type Purged, purgeBatch } from '../store/statements.ts'
import { asCommand } from './database.ts'

const batch = 10_000

export async function purge(file: string): Promise<Purged> {
  return await asCommand(file, async (client, schema) => {
    const sum: Purged = { revocations: 0, tombs: 0 }
    for (;;) {
      const done = await purgeBatch(client, schema, batch)
      sum.revocations += done.revocations
      sum.tombs += done.tombs
      if (done.revocations < batch && done.tombs < batch) return sum
    }
  })
}
