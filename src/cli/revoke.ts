/** `revoke`, `lift`, `list`, `sql`: what an unprivileged revoker may do. */
import { loadConfig } from '../config/load.ts'
import { GateError } from '../errors.ts'
import { insertRevocation, liftRevocation, listRevocations } from '../store/statements.ts'
import { asCommand } from './database.ts'
import { readTarget, type TargetOptions } from './target.ts'

export async function revoke(
  file: string,
  options: TargetOptions,
  readInput: () => Promise<string>,
): Promise<Record<string, unknown>> {
  const { config } = loadConfig(file, process.env)
  const row = await readTarget(options, config.revocation.pepper_file, readInput)
  return await asCommand(file, (client, schema) =>
    insertRevocation(client, schema, { ...row, source: 'dropgate revoke' }),
  )
}

export async function lift(
  file: string,
  id: string,
  forget: boolean,
): Promise<Record<string, unknown>> {
  if (!/^\d{1,18}$/.test(id))
    throw new GateError('ERR_USAGE', `${JSON.stringify(id)} is not the id of a revocation`)
  return await asCommand(file, (client, schema) => liftRevocation(client, schema, id, forget))
}

export async function list(file: string, limit: string): Promise<Record<string, unknown>[]> {
  if (!/^[1-9]\d{0,5}$/.test(limit))
    throw new GateError('ERR_USAGE', '--limit is a whole number from 1 to 999999')
  return await asCommand(file, (client, schema) => listRevocations(client, schema, Number(limit)))
}

export interface SqlResult {
  readonly command: string
  readonly count: number | null
  readonly rows: readonly Record<string, unknown>[]
}

/** One statement, as the commands' login. */
export async function sql(file: string, statement: string): Promise<SqlResult> {
  return await asCommand(file, async (client) => {
    // An extended query takes exactly one statement.
    const { command, rowCount, rows } = await client.query({
      text: statement,
      queryMode: 'extended',
    } as never)
    return { command, count: rowCount, rows: rows as Record<string, unknown>[] }
  })
}
