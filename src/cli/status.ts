/** `status`: what a running gate says of itself on its admin port. */
import { GateError } from '../errors.ts'
import { askGate } from './admin.ts'

export interface Status {
  readonly ready: boolean
  readonly reasons: readonly string[]
  readonly [more: string]: unknown
}

/** @throws GateError ERR_NOT_FOUND when no gate answers */
export async function status(file: string): Promise<Status> {
  const { status: code, document } = await askGate(file, '/v1/status')
  if (code === 200) return document as Status
  throw new GateError('ERR_NOT_FOUND', `the admin port answered ${code}`)
}
