/** The login that a command uses, and its connection. */
import type pg from 'pg'
import { loadConfig } from '../config/load.ts'
import type { GateConfig } from '../config/options.ts'
import { readState } from '../embedded/state.ts'
import { GateError } from '../errors.ts'
import { withClient } from '../store/connect.ts'
import { printWarning } from './output.ts'

type Login = 'url' | 'cli_url' | 'migrate_url' | 'breakglass_url'

/** The option of a command that chooses the break-glass login. */
export interface LoginOptions {
  readonly breakglass?: boolean
}

/**
 * @throws GateError ERR_DATABASE_UNREACHABLE when the embedded cluster is not running, ERR_CONFIG_VALUE when there is no
 * break-glass login: no other login may do what it is for
 */
export function databaseUrl(config: Pick<GateConfig, 'database'>, login: Login): string {
  const { database } = config
  if (database.embedded !== undefined) return readState(database.embedded)[login]
  const url = database[login] ?? (login === 'breakglass_url' ? undefined : database.url)
  if (url !== undefined) return url
  throw new GateError('ERR_CONFIG_VALUE', 'database.breakglass_url is not set', {
    hint: 'write database.breakglass_url in the configuration: the URL of a login with the roles breakglass and lifter',
  })
}

/**
 * Runs statements with the login of the commands (roles revoker and lifter) or the break-glass login, and prints the
 * warnings of the database.
 */
export async function asCommand<T>(
  file: string,
  use: (client: pg.Client, schema: string) => Promise<T>,
  { breakglass = false }: LoginOptions = {},
): Promise<T> {
  const login = breakglass ? 'breakglass_url' : 'cli_url'
  const { config } = loadConfig(file, process.env, [
    `database.${login}`,
    'database.embedded',
    'database.schema',
  ])
  const url = databaseUrl(config, login)
  try {
    return await withClient({ url, kind: 'command' }, (client) => {
      client.on('notice', ({ severity, message, hint }) => {
        if (severity === 'WARNING') printWarning(message ?? '', hint)
      })
      return use(client, config.database.schema)
    })
  } catch (error) {
    throw breakglass ? error : withBreakglassHint(error)
  }
}

/** A row that is too wide for a revoker: the hint names the option with which the same command writes it. */
function withBreakglassHint(error: unknown): unknown {
  if (!(error instanceof GateError)) return error
  const { where = '' } = (error.cause ?? {}) as { where?: string }
  if (!where.includes('.guard_wide()')) return error
  return new GateError(error.code, error.message, {
    cause: error.cause,
    hint: 'repeat the command with --breakglass, which uses the login database.breakglass_url; or name a subject, session, token or client',
  })
}
