/** `config check`: reads everything that a gate reads when it starts, and starts nothing. */
import type { ConfigWarning } from '../../config/warnings.ts'
import { asGateError, GateError } from '../../errors.ts'
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { count, print, printResult } from '../output.ts'

export function addConfig(program: StrictCommand): void {
  const config = program.command('config').description('check the configuration')
  addCommand(config, 'check', 'list every mistake in the configuration, and start nothing').action(
    async (options: CommonOptions) => {
      const found = await checkConfig(options.config)
      printResult(options, found, () => {
        print(
          `${found.file}: ${count(found.routes, 'route')}, ${count(found.issuers, 'issuer')}, no problem`,
        )
        for (const { path, message } of found.warnings) print(`warning: ${path}: ${message}`)
      })
    },
  )
}

interface ConfigSummary {
  readonly file: string
  readonly routes: number
  readonly issuers: number
  readonly warnings: readonly ConfigWarning[]
}

/** @throws GateError */
async function checkConfig(file: string): Promise<ConfigSummary> {
  const { loadConfig } = await import('../../config/load.ts')
  const { warningsOf } = await import('../../config/warnings.ts')
  const { RouteTable } = await import('../../route/table.ts')
  const { checkUpstreams } = await import('../../upstream/addresses.ts')
  const loaded = loadConfig(file, process.env)
  const { routes, issuers } = loaded.config
  try {
    new RouteTable(routes)
    checkUpstreams(loaded.config)
  } catch (error) {
    const { code, message, hint, problems } = asGateError(error)
    throw new GateError(code, message, {
      cause: error,
      hint: `the configuration file is ${loaded.file}; ${hint}`,
      problems,
    })
  }
  const warnings = warningsOf(loaded.config)
  return { file: loaded.file, routes: routes.length, issuers: issuers.length, warnings }
}
