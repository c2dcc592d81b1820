/** The state file of an embedded PostgreSQL: how the commands find the database of a running gate. */
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { GateError } from '../errors.ts'

/** URLs of the logins: for the gate, for commands (revoker and lifter), for the migrator, and the break-glass login. */
export interface EmbeddedUrls {
  readonly url: string
  readonly cli_url: string
  readonly migrate_url: string
  readonly breakglass_url: string
}

export interface State extends EmbeddedUrls {
  /** Process id of the gate that started the server. */
  readonly gate_pid: number
  readonly data: string
}

/** @param directory Folder of the database cluster. */
export function stateFile(directory: string): string {
  return join(resolve(directory), 'state.json')
}

/**
 * Reads the URLs of the embedded cluster of a running gate.
 * @throws GateError ERR_DATABASE_UNREACHABLE when no gate runs one
 */
export function readState(directory: string): EmbeddedUrls {
  try {
    return JSON.parse(readFileSync(stateFile(directory), 'utf8')) as State
  } catch (error) {
    throw new GateError('ERR_DATABASE_UNREACHABLE', 'no gate is running the embedded PostgreSQL', {
      cause: error,
      hint: 'start one with `dropgate demo` or `dropgate serve`; commands use the database of a running gate',
    })
  }
}
