/** `migrate`: brings the tables, roles and functions in PostgreSQL up to this release. */
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { print, printResult } from '../output.ts'

export function addMigrate(program: StrictCommand): void {
  addCommand(program, 'migrate', 'create or update the tables, roles and functions').action(
    async (options: CommonOptions) => {
      const { loadConfig } = await import('../../config/load.ts')
      const { migrate } = await import('../../store/migrate.ts')
      const { databaseUrl } = await import('../database.ts')
      const { config } = loadConfig(options.config, process.env, [
        'database.migrate_url',
        'database.embedded',
        'database.schema',
        'database.role_prefix',
      ])
      const { schema, role_prefix: rolePrefix } = config.database
      const done = await migrate(databaseUrl(config, 'migrate_url'), { schema, rolePrefix })
      printResult(options, done, () =>
        print(done.applied.length === 0 ? 'nothing to do' : `applied ${done.applied.join(', ')}`),
      )
    },
  )
}
