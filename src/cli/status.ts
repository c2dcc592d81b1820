/** `status`: what a running gate says of itself on its admin port, and what the database says of all. */
import { asGateError, GateError } from '../errors.ts'
import { listFleet } from '../store/statements.ts'
import { askGate } from './admin.ts'
import { asCommand } from './database.ts'

export interface Status {
  readonly ready: boolean
  readonly reasons: readonly string[]
  readonly [more: string]: unknown
}

/** @throws GateError ERR_NOT_FOUND when no gate answers */
export async function status(file: string): Promise<Status> {
  const { status: code, document } = await askGate(file, '/v1/status')
  if (code === 200) return { ...(document as Status), gates: await gates(file) }
  throw new GateError('ERR_NOT_FOUND', `the admin port answered ${code}`)
}

/** Every gate on the same database; a sentence instead where that cannot be asked. */
async function gates(file: string): Promise<readonly object[] | string> {
  try {
    return await asCommand(file, listFleet)
  } catch (error) {
    return asGateError(error).message
  }
}
