/** `status`: what a running gate says of itself on its admin port, and what the database says of all. */
import { readToken } from '../admin/server.ts'
import { loadConfig } from '../config/load.ts'
import { asGateError, GateError } from '../errors.ts'
import { listFleet } from '../store/statements.ts'
import { asCommand } from './database.ts'

export interface Status {
  readonly ready: boolean
  readonly reasons: readonly string[]
  readonly [more: string]: unknown
}

/** @throws GateError ERR_NOT_FOUND when no gate answers */
export async function status(file: string): Promise<Status> {
  const { admin } = loadConfig(file, process.env).config
  const host = admin.host.includes(':') ? `[${admin.host}]` : admin.host
  const url = `http://${host === '0.0.0.0' ? '127.0.0.1' : host}:${admin.port}/v1/status`
  let answer: Response
  try {
    answer = await fetch(url, {
      headers: { authorization: `Bearer ${readToken(admin.token_file)}` },
      signal: AbortSignal.timeout(5000),
    })
  } catch (error) {
    if (error instanceof GateError) throw error
    throw new GateError('ERR_NOT_FOUND', `no gate answers at ${url}`, {
      cause: error,
      hint: 'is it running, with this configuration?',
    })
  }
  if (answer.status === 200)
    return { ...((await answer.json()) as Status), gates: await gates(file) }
  throw new GateError('ERR_NOT_FOUND', `${url} answered ${answer.status}`, {
    hint: 'another program, or a gate with another admin.token_file, listens there',
  })
}

/** Every gate on the same database; a sentence instead where that cannot be asked. */
async function gates(file: string): Promise<readonly object[] | string> {
  try {
    return await asCommand(file, listFleet)
  } catch (error) {
    return asGateError(error).message
  }
}
