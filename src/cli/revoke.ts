/** `revoke`, `lift`, `list`, `sql`: what an unprivileged revoker may do. */
import type pg from 'pg'
import { loadConfig } from '../config/load.ts'
import { readPeppers } from '../config/peppers.ts'
import { pepperId } from '../domain/token-hash.ts'
import { GateError } from '../errors.ts'
import {
  insertRevocation,
  type Lifted,
  liftRevocation,
  listRevocations,
  type Receipt,
  receiptsOf,
} from '../store/statements.ts'
import { asCommand } from './database.ts'
import { parseRevocationTarget, type TargetOptions } from './target.ts'

export const standardTimeout = '5s'

export interface RevokeOptions extends TargetOptions {
  readonly force?: boolean
  readonly wait?: boolean
  /** How long to wait for the gates, with its unit; `standardTimeout` when absent. */
  readonly timeout?: string
}

export interface Revoked {
  readonly row: Readonly<Record<string, unknown>>
  /** Of every gate that may be serving; undefined when nobody waits. */
  readonly receipts: readonly Receipt[] | undefined
}

export async function revoke(
  file: string,
  options: RevokeOptions,
  readInput: () => Promise<string>,
): Promise<Revoked> {
  if (options.timeout !== undefined && options.wait !== true) {
    throw new GateError('ERR_USAGE', '--timeout without --wait', {
      hint: 'it says how long to wait for the gates: add --wait, or leave it out',
    })
  }
  const timeoutMs = readDuration(options.timeout ?? standardTimeout)
  const peppers = options.token === '-' ? peppersOf(file) : []
  const revocation = await parseRevocationTarget(options, peppers, readInput)
  const hashed = revocation.token_hash !== undefined
  return await asCommand(file, async (client, schema) => {
    const row = await insertRevocation(
      client,
      schema,
      { ...revocation, source: 'dropgate revoke' },
      {
        force: options.force === true,
        wait: options.wait === true,
        pepper: hashed ? pepperId(peppers[0]!) : undefined,
      },
    )
    const receipts =
      options.wait === true ? await awaitReceipts(client, schema, row.id, timeoutMs) : undefined
    return { row, receipts }
  })
}

/** Only a hash needs them: who revokes by name is not stopped by a file of secrets that is missing here. */
function peppersOf(file: string): readonly Buffer[] {
  const { config } = loadConfig(file, process.env, ['revocation.pepper_file'])
  return readPeppers(config.revocation.pepper_file)
}

const lookMs = 20

/** Until every gate that may be serving has confirmed the row, or the time is over. */
async function awaitReceipts(
  client: pg.Client,
  schema: string,
  id: unknown,
  timeoutMs: number,
): Promise<readonly Receipt[]> {
  const until = performance.now() + timeoutMs
  for (;;) {
    const receipts = await receiptsOf(client, schema, id)
    const complete = receipts.length > 0 && receipts.every(({ ms }) => ms !== null)
    if (complete || performance.now() >= until) return receipts
    await new Promise((resolve) => setTimeout(resolve, lookMs))
  }
}

function readDuration(text: string): number {
  const [, digits, unit] = /^(\d{1,6})(ms|s|m)$/.exec(text) ?? []
  if (digits === undefined) {
    throw new GateError('ERR_USAGE', `--timeout ${text}`, { hint: 'e.g. 500ms, 5s or 2m' })
  }
  return Number(digits) * (unit === 'ms' ? 1 : unit === 's' ? 1000 : 60_000)
}

export async function lift(file: string, id: string, forget: boolean): Promise<Lifted> {
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
    // Nothing but spaces and comments.
    if (command === null) throw new GateError('ERR_USAGE', 'there is no statement')
    return { command, count: rowCount, rows: rows as Record<string, unknown>[] }
  })
}
