/** `live` and `cut`: what is open in the running gate, and the end of one of it. */
import type { LivePage } from '../admin/live.ts'
import type { LiveEntry } from '../domain/live-entry.ts'
import { GateError } from '../errors.ts'
import { askGate } from './admin.ts'
import { commandName } from './output.ts'

export type LiveOptions = Readonly<Record<string, string | undefined>>

/** @throws GateError ERR_USAGE, ERR_NOT_FOUND */
export async function live(file: string, options: LiveOptions): Promise<LivePage> {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined) query.set(name, value)
  }
  const { status, document } = await askGate(file, `/v1/live?${query}`)
  if (status === 200) return document as LivePage
  throw new GateError('ERR_USAGE', 'the gate does not understand this filter', {
    hint: '--limit is a whole number from 1 to 1000, --after what the page before ended with',
  })
}

export interface CutAnswer {
  readonly cut: LiveEntry
  /** Columns of the row that would keep it from coming back. */
  readonly row: Readonly<Record<string, string>> | null
}

/** @throws GateError ERR_NOT_FOUND */
export async function cut(file: string, id: string): Promise<CutAnswer> {
  const { status, document } = await askGate(file, `/v1/live/${encodeURIComponent(id)}/cut`, 'POST')
  if (status === 200) return document as CutAnswer
  throw new GateError('ERR_NOT_FOUND', `nothing of the id ${JSON.stringify(id)} is open`, {
    hint: 'the ids are those of `dropgate live`; another gate may carry it',
  })
}

/** The command that inserts the row. */
export function revokeCommand(row: Readonly<Record<string, string>>): string {
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
