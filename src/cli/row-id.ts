/** The id of a row, as an argument of a command. */
import { GateError } from '../errors.ts'

/** @throws GateError ERR_USAGE */
export function readId(text: string): string {
  if (/^\d{1,18}$/.test(text)) return text
  throw new GateError('ERR_USAGE', `${JSON.stringify(text)} is not the id of a revocation`, {
    hint: `write the number of the row: \`dropgate who ${/^[\w@.:-]+$/.test(text) ? text : 'SUBJECT'}\` finds the rows of a subject, \`dropgate list\` shows all ids`,
  })
}
