/** Asks a running gate on its admin port. */
import { readToken } from '../admin/token.ts'
import { loadConfig } from '../config/load.ts'
import { GateError } from '../errors.ts'

/** @returns the status and the document. @throws GateError ERR_NOT_FOUND when no gate answers */
export async function askGate(
  file: string,
  path: string,
  method: 'GET' | 'POST' = 'GET',
): Promise<{ status: number; document: unknown }> {
  const { admin } = loadConfig(file, process.env, ['admin']).config
  const host = admin.host.includes(':') ? `[${admin.host}]` : admin.host
  const url = `http://${host === '0.0.0.0' ? '127.0.0.1' : host}:${admin.port}${path}`
  let answer: Response
  try {
    answer = await fetch(url, {
      method,
      headers: { authorization: `Bearer ${readToken(admin.token_file)}` },
      signal: AbortSignal.timeout(5000),
    })
  } catch (error) {
    if (error instanceof GateError) throw error
    throw new GateError('ERR_NOT_FOUND', `no gate answers at ${url}`, {
      cause: error,
      hint: 'check that a gate runs with this configuration',
    })
  }
  const { status } = answer
  if (status === 401 || !answer.headers.get('content-type')?.includes('json')) {
    throw new GateError('ERR_NOT_FOUND', `${url} answered ${status}`, {
      hint: 'another program, or a gate with another admin.token_file, listens there; check admin.port and admin.token_file',
    })
  }
  return { status, document: await answer.json() }
}
