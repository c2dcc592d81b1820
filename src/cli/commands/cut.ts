/** `cut`: ends one open exchange of the running gate. */

import type { LiveEntry } from '../../domain/live-entry.ts'
import { GateError } from '../../errors.ts'
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { commandName, print, printResult } from '../output.ts'

export function addCut(program: StrictCommand): void {
  addCommand(program, 'cut', 'end the open exchange with this id; its caller may come back')
    .argument('<id>')
    .action(async (id: string, options: CommonOptions) => {
      const done = await askToCut(options.config, id)
      printResult(options, done, () => {
        print(`cut ${done.cut.id}: ${done.cut.protocol} on route ${done.cut.route}`)
        if (done.row !== null) print(`to keep it from coming back: ${revokeCommand(done.row)}`)
      })
    })
}

interface CutAnswer {
  readonly cut: LiveEntry
  /** Columns of the row that would keep its caller from coming back. */
  readonly row: Readonly<Record<string, string>> | null
}

/** @throws GateError ERR_NOT_FOUND */
async function askToCut(file: string, id: string): Promise<CutAnswer> {
  const { askGate } = await import('../admin.ts')
  const { status, document } = await askGate(file, `/v1/live/${encodeURIComponent(id)}/cut`, 'POST')
  if (status === 200) return document as CutAnswer
  throw new GateError('ERR_NOT_FOUND', `no open exchange has the id ${JSON.stringify(id)}`, {
    hint: '`dropgate live` lists the ids; another gate may carry the exchange',
  })
}

/** The command that inserts the row. */
function revokeCommand(row: Readonly<Record<string, string>>): string {
  const options: Readonly<Record<string, string>> = {
    issuer: '--issuer',
    session_id: '--session',
    subject: '--subject',
  }
  const given = Object.entries(row).map(
    ([column, value]) => `${options[column]} '${value.replaceAll("'", "'\\''")}'`,
  )
  return `${commandName()} revoke ${given.join(' ')}`
}
