/** The login that a command uses, and its connection. */
import type pg from 'pg'
import { loadConfig } from '../config/load.ts'
import type { GateConfig } from '../config/options.ts'
import { readState } from '../embedded/state.ts'
import { withClient } from '../store/connect.ts'
import { printWarning } from './output.ts'

type Login = 'url' | 'cli_url' | 'migrate_url'

/** @throws GateError ERR_DATABASE_UNREACHABLE when the embedded cluster is not running */
export function databaseUrl(config: Pick<GateConfig, 'database'>, login: Login): string {
  const { database } = config
  if (database.embedded !== undefined) return readState(database.embedded)[login]
  return database[login] ?? database.url!
}

/**
 * Runs statements with the login of the commands (roles revoker and lifter), and prints the warnings of the database.
 */
export async function asCommand<T>(
  file: string,
  use: (client: pg.Client, schema: string) => Promise<T>,
): Promise<T> {
  const { config } = loadConfig(file, process.env, [
    'database.cli_url',
    'database.embedded',
    'database.schema',
  ])
  const url = databaseUrl(config, 'cli_url')
  return await withClient({ url, kind: 'command' }, (client) => {
    client.on('notice', ({ severity, message, hint }) => {
      if (severity === 'WARNING') printWarning(message ?? '', hint)
    })
    return use(client, config.database.schema)
  })
}
