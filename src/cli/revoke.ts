/** `revoke`: inserts a revocation, and waits for the gates to confirm it. */
import type pg from 'pg'
import { pepperId } from '../domain/token-hash.ts'
import { GateError } from '../errors.ts'
import { targetOf } from '../store/lookup.ts'
import { insertRevocation, isStored, type Receipt, receiptsOf } from '../store/statements.ts'
import { asCommand, type LoginOptions } from './database.ts'
import { readPepperFile } from './peppers.ts'
import { parseRevocationTarget, type TargetOptions } from './target.ts'
import { readTimeout, standardTimeout } from './timeout.ts'

export interface RevokeOptions extends TargetOptions, LoginOptions {
  readonly force?: boolean
  readonly wait?: boolean
  /** How long to wait for the gates, with a unit; `standardTimeout` when absent. */
  readonly timeout?: string
}

export interface RevokeResult {
  readonly row: Readonly<Record<string, unknown>>
  /** Whom the row hits, in words. */
  readonly target: string | undefined
  /** One receipt for each gate that may be serving; undefined without `--wait`. */
  readonly receipts: readonly Receipt[] | undefined
  /** The row was deleted before every gate had confirmed it. */
  readonly deleted: boolean
}

export async function revoke(
  file: string,
  options: RevokeOptions,
  readInput: () => Promise<string>,
): Promise<RevokeResult> {
  if (options.timeout !== undefined && options.wait !== true) {
    throw new GateError('ERR_USAGE', '--timeout is given without --wait', {
      hint: '--timeout limits how long --wait waits for the gates: add --wait, or omit --timeout',
    })
  }
  const timeoutMs = readTimeout(options.timeout ?? standardTimeout)
  const peppers = options.token === '-' ? readPepperFile(file) : []
  const revocation = await parseRevocationTarget(options, peppers, readInput)
  const hashed = revocation.token_hash !== undefined
  const insert = async (client: pg.Client, schema: string): Promise<RevokeResult> => {
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
    const waited =
      options.wait === true
        ? await awaitReceipts(client, schema, row.id, timeoutMs)
        : { receipts: undefined, deleted: false }
    return { row, target: await targetOf(client, schema, row.id), ...waited }
  }
  return await asCommand(file, insert, options)
}

const lookMs = 20

/** Waits until every gate that may be serving has confirmed the row, the row is deleted, or the time is over. */
export async function awaitReceipts(
  client: pg.Client,
  schema: string,
  id: unknown,
  timeoutMs: number,
): Promise<Pick<RevokeResult, 'receipts' | 'deleted'>> {
  const until = performance.now() + timeoutMs
  for (;;) {
    const receipts = await receiptsOf(client, schema, id)
    const complete = receipts.length > 0 && receipts.every(({ ms }) => ms !== null)
    if (complete) return { receipts, deleted: false }
    // Asked after the receipts: a gate may have confirmed the row just before it was deleted.
    const deleted = !(await isStored(client, schema, id))
    if (deleted || performance.now() >= until) return { receipts, deleted }
    await new Promise((resolve) => setTimeout(resolve, lookMs))
  }
}
